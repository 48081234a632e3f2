"""What can be measured: the setting of a run, its seeds and the key columns of its tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from empirical.build import Architecture
from empirical.device import torch_device, torch_dtype
from empirical.draws import seed_number
from empirical.losses import LOSSES
from meanfield import ops
from meanfield.checks import check_gram, check_ids, check_padding
from meanfield.errors import InputError, UnknownNameError, positive_integer

SETTING_KEYS = [
    "arch", "placement", "init", "activation", "width", "depth", "heads", "d_ff", "tokens", "batch", "loss",
    "minibatches", "dtype",
]  # fmt: skip
KEYS = [*SETTING_KEYS, *ops.ParameterKey._fields]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured on an architecture: data, loss and precision.

    Args:
        tokens: Tokens in a sequence.
        batch: Sequences in a mini-batch.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``.
        minibatches: Mini-batches per seed, all on the same weights.
        label_smoothing: For cross entropy, in [0, 1).
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.

    Raises:
        InputError: If a size is below 1, or label smoothing does not fit.
        UnknownNameError: If the loss has no such name.
    """

    tokens: int = 16
    batch: int = 1
    loss: str = "linear"
    minibatches: int = 1
    label_smoothing: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for size in ("tokens", "batch", "minibatches"):
            object.__setattr__(self, size, positive_integer(size, getattr(self, size)))
        if not isinstance(self.loss, str) or self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if not isinstance(self.label_smoothing, Real) or not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"label_smoothing={self.label_smoothing} is outside [0, 1): give a share such as 0.1"
            )
        if self.label_smoothing and self.loss != "cross_entropy":
            raise InputError(
                f"label_smoothing={self.label_smoothing} means nothing for loss={self.loss!r}: "
                "give 0, or loss='cross_entropy'"
            )
        object.__setattr__(self, "device", torch_device(self.device).type)
        torch_dtype(self.dtype, torch.device(self.device))

    def keys(self, arch: Architecture) -> dict[str, str | int]:
        """Name the setting: one value for each of the key columns that all rows share.

        Args:
            arch: The architecture; sizes of an encoder-decoder are those of its encoder.

        Returns:
            Column name -> value.
        """
        stack = arch.encoder if isinstance(arch, ops.EncoderDecoder) else arch
        values = (
            arch.name, stack.placement, stack.init, stack.feed_forward.activation, stack.width, stack.depth,
            stack.attention.heads, stack.feed_forward.up.d_out, self.tokens, self.batch, self.loss,
            self.minibatches, self.dtype,
        )  # fmt: skip
        return dict(zip(SETTING_KEYS, values, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """What is held fixed over seeds; None where it is drawn or absent.

    Args:
        ids: Tokens of the input, (batch, tokens), of source and target alike.
        root: R of the T = batch * tokens input vectors R Z, Z standard normal, (T, T).
        padding: Which tokens are real, (batch, tokens).
    """

    ids: NDArray[np.int64] | None = None
    root: NDArray[np.float64] | None = None
    padding: NDArray[np.bool_] | None = None


def conditions(
    arch: Architecture,
    setting: Setting,
    *,
    ids: ArrayLike | None = None,
    gram: ArrayLike | None = None,
    padding: ArrayLike | None = None,
) -> Conditions:
    """Check what is held fixed over seeds.

    Args:
        arch: The architecture.
        setting: Says how many tokens and sequences there are.
        ids: Integers from 0 to vocab - 1, (batch, tokens).
        gram: Covariance of a coordinate of the T = batch * tokens input vectors, (T, T).
        padding: Booleans, True for a real token, (batch, tokens).

    Returns:
        The same as arrays, and a root of the Gram matrix.

    Raises:
        InputError: If a shape or type is wrong, an id is not in the vocabulary, the matrix is no Gram matrix,
            a sequence has no real token, or the input is of the other kind.
    """
    stacks = (arch.encoder, arch.decoder) if isinstance(arch, ops.EncoderDecoder) else (arch,)
    checked: dict[str, NDArray[Any]] = {}
    if ids is not None:
        for stack in stacks:
            checked["ids"] = check_ids(ids, setting.batch, setting.tokens, stack).astype(np.int64)
    if gram is not None:
        if any(stack.embedding is not None for stack in stacks):
            raise InputError(f"gram means nothing for {arch.name}, whose input is embedded ids: give ids")
        values, vectors = np.linalg.eigh(check_gram(gram, setting.batch * setting.tokens))
        checked["root"] = vectors * np.sqrt(np.maximum(values, 0))
    if padding is not None:
        real = checked["padding"] = check_padding(padding, setting.batch, setting.tokens)
        if not real.any(axis=1).all():
            row = int(np.argmin(real.any(axis=1)))
            raise InputError(f"padding leaves sequence {row} without a real token: keep at least one")
    return Conditions(**checked)


def seed_list(seeds: Iterable[int]) -> list[int]:
    """Check seeds.

    Args:
        seeds: Distinct integers of at least 0.

    Returns:
        The seeds as ints.

    Raises:
        InputError: If there are none, or one is no integer, negative or repeated.

    Example:
        >>> seed_list(range(3))
        [0, 1, 2]
    """
    if not isinstance(seeds, Iterable):
        raise InputError(f"seeds={seeds!r} is not a list of seeds: give several, such as range(64)")
    checked = [seed_number(seed) for seed in seeds]
    if not checked:
        raise InputError("seeds is empty: give at least one integer >= 0")
    if len(set(checked)) < len(checked):
        twice = next(seed for seed in checked if checked.count(seed) > 1)
        raise InputError(f"seed={twice} is given more than once: give distinct integers >= 0")
    return checked
