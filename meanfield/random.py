"""Random numbers: one stream for each seed and purpose, and fast draws in single precision.

Bits come from numpy's SFC64, whose state is set by BLAKE2b of seed and purpose. So a draw depends neither on
the order of seeds or tensors nor on the number of threads that draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import SFC64, Generator
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

BLOCK = 2**17  # numbers drawn at a time: more would leave a processor's own cache
SHORT = 2**10  # below, a call of many steps takes longer than the numbers
_ALL = 2**64 - 1


class _State(ISeedSequence):
    """The 192 bits from which SFC64 starts."""

    def __init__(self, key: bytes) -> None:
        self.words = np.frombuffer(hashlib.blake2b(key, digest_size=24).digest(), np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Give the words; SFC64 asks for three of 64 bits."""
        return self.words[:n_words].astype(dtype)


def stream(seed: int, purpose: str) -> Generator:
    """Open the stream of random numbers of one tensor.

    Args:
        seed: The seed of the run.
        purpose: Name of the tensor; different names have independent streams.

    Returns:
        A generator at the start of its stream.

    Example:
        >>> bool(stream(0, "input").random() == stream(0, "input").random())
        True
        >>> bool(stream(0, "input").random() == stream(0, "probe").random())
        False
    """
    return Generator(SFC64(_State(f"{seed}/{purpose}".encode())))


def fill_normal(generators: Sequence[Generator], out: NDArray[Any], deviation: float = 1.0) -> None:
    """Fill rows with normals of mean 0, each row from its own stream.

    In single precision by Box and Muller's transform of 32-bit integers j, k, |z| <= 6.8:

        (z, z') = sqrt(-2 ln((j + 1/2)/2^32)) (cos, sin)(2 pi k / 2^32)

    In double precision by numpy's ziggurat.

    Args:
        generators: One for each row.
        out: What to fill, (rows, numbers), float32 or float64; each row contiguous.
        deviation: Their standard deviation.

    Source:
        boxmuller1958, Eqs. (1) and (2).

    Example:
        >>> drawn = np.empty((1, 2**16), np.float32)
        >>> fill_normal([stream(0, "test")], drawn)
        >>> bool(abs(drawn.mean()) < 0.01), bool(abs(drawn.var() - 1) < 0.01)
        (True, True)
    """
    if out.dtype != np.float32 or out.shape[1] < SHORT:
        for generator, row in zip(generators, out, strict=True):
            generator.standard_normal(dtype=out.dtype.type, out=row)
        if deviation != 1:
            out *= out.dtype.type(deviation)
        return
    for start in range(0, out.shape[1], BLOCK):
        block = out[:, start : start + BLOCK]
        together = max(1, BLOCK // block.shape[1])
        for first in range(0, len(out), together):
            _box_muller(generators[first : first + together], block[first : first + together], deviation)


def _box_muller(generators: Sequence[Generator], out: NDArray[np.float32], deviation: float) -> None:
    half = (out.shape[1] + 1) // 2
    bits = np.empty((len(out), half), np.uint64)
    for generator, row in zip(generators, bits, strict=True):
        row[:] = generator.integers(0, _ALL, size=half, dtype=np.uint64, endpoint=True)
    words = bits.view(np.uint32)
    radius = words[:, :half].astype(np.float32)
    radius *= np.float32(2**-32)
    radius += np.float32(2**-33)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    if deviation != 1:
        radius *= np.float32(deviation)
    angle = words[:, half:].view(np.int32).astype(np.float32)
    angle *= np.float32(np.pi * 2**-31)
    np.multiply(radius, np.cos(angle), out=out[:, :half])
    np.sin(angle, out=angle)
    rest = out.shape[1] - half
    np.multiply(radius[:, :rest], angle[:, :rest], out=out[:, half:])


def fill_uniform(generator: Generator, out: NDArray[Any], deviation: float = 1.0) -> None:
    """Fill with uniform numbers of mean 0.

    In single precision they are 65,536 equally likely points of equal distance, of exactly this mean and
    variance: four for the price of one, and no sum of weights can tell them from a continuum. In double
    precision, and of few, numpy's 53 or 24 bits.

    Args:
        generator: The stream.
        out: What to fill, float32 or float64, contiguous.
        deviation: Their standard deviation.

    Source:
        definition, (k + 1/2) sqrt(12 / (m^2 - 1)) for the m integers k from -m/2.

    Example:
        >>> drawn = np.empty(2**16, np.float32)
        >>> fill_uniform(stream(0, "test"), drawn)
        >>> bool(abs(drawn.mean()) < 0.01), bool(abs(drawn.var() - 1) < 0.01), bool(abs(drawn).max() < 3**0.5)
        (True, True, True)
    """
    flat = out.reshape(-1)
    if out.dtype != np.float32 or flat.size < SHORT:
        generator.random(dtype=out.dtype.type, out=out)
        out -= 0.5
        out *= out.dtype.type(12**0.5 * deviation)
        return
    step = np.float32((12 / (2.0**32 - 1)) ** 0.5 * deviation)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        bits = generator.integers(0, _ALL, size=(block.size + 3) // 4, dtype=np.uint64, endpoint=True)
        np.multiply(bits.view(np.int16)[: block.size], step, out=block, dtype=np.float32, casting="unsafe")
        block += step / 2
