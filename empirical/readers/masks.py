"""Which keys a query sees: causal, within a window, and which tokens are padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empirical.readers.reading import UnsupportedModuleError


@dataclass(frozen=True, eq=False, slots=True)
class Mask:
    """What a mask is made of.

    Attributes:
        causal: Whether later keys are hidden.
        window: Keys at this distance and beyond are hidden; None for none.
        real: Keys that are no padding (batch, tokens).
    """

    causal: bool
    window: int | None
    real: Tensor


def read_mask(visible: Tensor, *, cross: bool, module: str) -> Mask:
    """Take a mask apart.

    Args:
        visible: Which keys each query sees, (batch, tokens, source tokens).
        cross: Whether keys are those of another sequence.
        module: Path for messages.

    Returns:
        Its parts.

    Raises:
        UnsupportedModuleError: If it is no combination of them.

    Example:
        >>> seen = torch.ones(1, 3, 3).tril().bool()
        >>> read_mask(seen, cross=False, module="").causal
        True
    """
    _, tokens, sources = visible.shape
    busy = visible.any(-1)
    if cross or tokens != sources:
        real = visible.any(1)
        if not bool((visible | ~busy[..., None]).eq(real[:, None] | ~busy[..., None]).all()):
            raise UnsupportedModuleError(module, "a mask between source and target that is no padding")
        return Mask(False, None, real)
    offset = torch.arange(sources) - torch.arange(tokens)[:, None]
    real = torch.diagonal(visible, dim1=1, dim2=2)  # a real token sees itself
    rows = real[:, :, None]  # nobody reads the output of a padded query
    furthest = int((offset.abs() * (visible & rows)).max()) + 1
    for causal in (False, True):
        for window in (None, furthest):
            pattern = offset <= 0 if causal else torch.ones_like(offset, dtype=torch.bool)
            pattern = pattern if window is None else pattern & (offset.abs() < window)
            if bool((visible & rows).eq(pattern & real[:, None, :] & rows).all()):
                return Mask(causal, window, real)
    raise UnsupportedModuleError(
        module, "a mask that is neither causal nor a window nor padding, nor all of them"
    )
