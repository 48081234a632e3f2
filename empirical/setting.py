"""What can be measured: the setting of a run, its seeds and the key columns of its tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.build import Architecture
from empirical.device import stored, torch_device
from empirical.draws import seed_number
from empirical.losses import LOSSES
from meanfield import ops
from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.given import Given, PerStack, given_inputs, gram_root

SETTING_KEYS = [
    "arch", "placement", "init", "activation", "width", "depth", "heads", "d_ff", "tokens", "batch", "loss",
    "minibatches", "dtype",
]  # fmt: skip
KEYS = [*SETTING_KEYS, *ops.ParameterKey._fields]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured on an architecture: data, loss and precision.

    Args:
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences in a mini-batch.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``.
        minibatches: Mini-batches per seed, all on the same weights.
        label_smoothing: For cross entropy, in [0, 1).
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"``, ``"bfloat16"``, or ``"tf32"`` on CUDA.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.

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
    source_tokens: int | None = None

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
        stored(self.dtype, torch.device(self.device))

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
        ids: Tokens of the input, (batch, tokens).
        root: R of the T = batch * tokens input vectors R Z, Z standard normal, (T, T).
        padding: Which tokens are real, (batch, tokens).
        source: The same of the source of an encoder-decoder; all else is then the target's.
    """

    ids: NDArray[np.int64] | None = None
    root: NDArray[np.float64] | None = None
    padding: NDArray[np.bool_] | None = None
    source: Conditions | None = None


def conditions(
    arch: Architecture,
    setting: Setting,
    *,
    ids: PerStack | None = None,
    gram: PerStack | None = None,
    padding: PerStack | None = None,
) -> Conditions:
    """Check what is held fixed over seeds.

    For an encoder-decoder each is a tuple (source, target), or one array for both.

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
    fed = given_inputs(
        arch,
        tokens=setting.tokens,
        batch=setting.batch,
        source_tokens=setting.source_tokens,
        ids=ids,
        gram=gram,
        padding=padding,
    )
    *source, own = map(_fixed, fed)
    return replace(own, source=source[0]) if source else own


def _fixed(given: Given) -> Conditions:
    ids, gram = given.input.ids, given.input.gram
    return Conditions(
        None if ids is None else ids.astype(np.int64),
        None if gram is None else gram_root(gram),
        given.padding,
    )


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
