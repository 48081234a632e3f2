"""Readings of several draws of one kind of module, pooled: what they differ in is sampling error."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from empirical.readers import Reading, Stream
from meanfield.errors import InputError
from meanfield.ops import Draw, EncoderDecoder, Repeat, Transformer

ENTRIES = 20_000
"""Pooled entries of a tensor after which its sample variance is known to 1 %, if it is normal."""


def readings_needed(reading: Reading) -> int:
    """Say how many draws to read so that sampling errors of variances are small beside other errors.

    Args:
        reading: That of one draw.

    Returns:
        The number, at least 1.
    """
    entries: dict[tuple[str, str], int] = {}  # of each role, in all layers that are drawn alike
    for slot in reading.slots:
        law = reading.laws.get(slot.key)
        if law is not None and law.variance and slot.key.module.rpartition(".")[2] != "relative_bias":
            role = slot.key.module, slot.key.parameter
            entries[role] = entries.get(role, 0) + slot.index.numel()
    return math.ceil(ENTRIES / min(entries.values(), default=ENTRIES))


def pooled(readings: Sequence[Reading]) -> Reading:
    """Pool readings of modules that were drawn alike.

        variance = E x^2 - (E x)^2 of the entries of all draws together; Gram matrices are averaged

    Args:
        readings: One per draw.

    Returns:
        A reading with the slots and notes of the first.

    Raises:
        InputError: If the modules differ in more than numbers.
    """
    first = readings[0]
    if len(readings) == 1:
        return first
    streams = zip(*(reading.streams for reading in readings), strict=True)
    return dataclasses.replace(
        first,
        arch=_with_layers(_merged([_with_layers(reading.arch, _single) for reading in readings]), _runs),
        streams=tuple(_stream(list(draws)) for draws in streams),
    )


def given_vectors(readings: Sequence[Reading]) -> bool:
    """Tell whether the vectors that enter the first layer are the batch's own: equal in every draw.

    Args:
        readings: One per draw.

    Returns:
        False where there are none, or the weights make them.
    """
    grams = [stream.gram for reading in readings for stream in reading.streams if stream.gram is not None]
    if any(stream.features for stream in readings[0].streams) or not grams:
        return False
    same = len(readings[0].streams)
    return all(np.array_equal(gram, grams[k % same]) for k, gram in enumerate(grams))


def _stream(draws: list[Stream]) -> Stream:
    first = draws[0]
    grams = [draw.gram for draw in draws if draw.gram is not None]
    features = {label: np.mean([draw.features[label] for draw in draws], axis=0) for label in first.features}
    return dataclasses.replace(first, gram=np.mean(grams, axis=0) if grams else None, features=features)


def _with_layers(arch: Any, change: Callable[[Transformer], tuple[Repeat, ...]]) -> Any:
    """Write the layers of every stack in another way."""
    if isinstance(arch, EncoderDecoder):
        stacks = {
            "encoder": _with_layers(arch.encoder, change),
            "decoder": _with_layers(arch.decoder, change),
        }
        return dataclasses.replace(arch, **stacks)
    return dataclasses.replace(arch, layers=change(arch))


def _single(stack: Transformer) -> tuple[Repeat, ...]:
    """One run for each layer: in some draws layers may have one law by chance, and in others not."""
    return tuple(Repeat(block, 1) for _, block in stack.blocks())


def _runs(stack: Transformer) -> tuple[Repeat, ...]:
    """Equal neighbours as one run, which a prediction takes at once."""
    alike = itertools.groupby(block for _, block in stack.blocks())
    return tuple(Repeat(block, len(list(run))) for block, run in alike)


def _merged(values: list[Any]) -> Any:
    """Merge trees of equal structure: laws and numbers are averaged, everything else has to be equal."""
    first = values[0]
    if all(value == first for value in values):
        return first
    if all(type(value) is type(first) for value in values):
        if isinstance(first, Draw):
            return _law(values)
        if dataclasses.is_dataclass(first) and not isinstance(first, type):
            names = [field.name for field in dataclasses.fields(first)]
            merged = {name: _merged([getattr(value, name) for value in values]) for name in names}
            return dataclasses.replace(first, **merged)
        if isinstance(first, tuple) and len({len(value) for value in values}) == 1:
            return tuple(_merged(list(parts)) for parts in zip(*values, strict=True))
    if all(isinstance(value, float | Fraction) for value in values):
        return float(np.mean([float(value) for value in values]))
    other = next(value for value in values if value != first)
    raise InputError(
        f"build(seed) gives modules of different structure for different seeds ({_short(first)} and "
        f"{_short(other)}): let the seed choose the weights alone"
    )


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)


def _law(draws: list[Draw]) -> Draw:
    """The law of entries drawn from one of several laws at random."""
    means = [float(draw.mean) for draw in draws]
    squares = [float(draw.variance) + float(draw.mean) ** 2 for draw in draws]
    mean = float(np.mean(means))
    laws = {draw.law for draw in draws}
    return Draw(max(float(np.mean(squares)) - mean**2, 0.0), laws.pop() if len(laws) == 1 else "normal", mean)
