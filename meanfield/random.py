"""Random numbers: one stream for each seed and purpose, and fast draws in single precision.

A key is BLAKE2b of seed and purpose, so that a draw depends neither on the order of seeds or tensors nor on
the number of threads that draw. Many numbers at once are made of the bits of AES-128 in counter mode, which
processors compute three times as fast as numpy's fastest generator; single ones come from numpy's SFC64.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import SFC64, Generator
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

BLOCK = 2**15  # numbers drawn at a time: more would leave a processor's own cache
SHORT = 2**10  # below, a call of many steps takes longer than the numbers
_ODD = np.uint64(0x0001_0001_0001_0001)
_ZEROS = bytes(2 * BLOCK)
_own = threading.local()


class _State(ISeedSequence):
    """The 192 bits from which SFC64 starts."""

    def __init__(self, words: bytes) -> None:
        self.words = np.frombuffer(words, np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Give the words; SFC64 asks for three of 64 bits."""
        return self.words[:n_words].astype(dtype)


class Bits:
    """The bits of AES-128 in counter mode, of blocks of zeros.

    Args:
        key: 16 bytes.

    Source:
        nist2001, Sec. 6.5.

    Example:
        AES-128 of a block of zeros, with the key 000102 ... 0f.

        >>> out = np.empty(2, np.uint64)
        >>> Bits(bytes(range(16))).fill(out)
        >>> out.tobytes().hex()
        'c6a13b37878f5b826f4f8162a1c8d879'
    """

    def __init__(self, key: bytes) -> None:
        ciphers, first = _ciphers()
        self._encryptor = ciphers.Cipher(ciphers.algorithms.AES(key), first).encryptor()

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Fill words with the next bits.

        Args:
            out: What to fill, contiguous.
        """
        room = out.view(np.uint8)
        for start in range(0, out.nbytes, len(_ZEROS)):
            part = room[start : start + len(_ZEROS)]
            zeros = _ZEROS if part.nbytes == len(_ZEROS) else memoryview(_ZEROS)[: part.nbytes]
            self._encryptor.update_into(zeros, part)


@functools.cache
def _ciphers() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives import ciphers  # a twentieth of a second: not at import

    return ciphers, ciphers.modes.CTR(bytes(16))


class Stream(Generator):
    """A stream of random numbers: numpy's generator, and bits by the block beside it.

    Args:
        key: Names the stream.
    """

    def __init__(self, key: bytes) -> None:
        state: Any = _State(_digest(key)[16:])  # numpy takes any seed sequence, its annotation one kind
        super().__init__(SFC64(state))
        self._key = key

    @functools.cached_property
    def bits(self) -> Bits:
        """The stream's bits."""
        return bits(self._key)


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=40).digest()


def bits(key: bytes) -> Bits:
    """Open the bits of a stream alone.

    Args:
        key: Names the stream.

    Returns:
        The same as those of `Stream`, at their start.
    """
    return Bits(_digest(key)[:16])


def stream(seed: int, purpose: str) -> Stream:
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
    return Stream(name(seed, purpose))


def name(seed: int, purpose: str) -> bytes:
    """Name a stream.

    Args:
        seed: The seed of the run.
        purpose: Name of the tensor.

    Returns:
        The key.

    Example:
        >>> name(3, "input0")
        b'3/input0'
    """
    return f"{seed}/{purpose}".encode()


def _scratch(name: str, dtype: type[Any]) -> NDArray[Any]:
    """Memory of the present thread that is used again: fresh memory costs more than the numbers."""
    if not hasattr(_own, name):
        setattr(_own, name, np.empty(BLOCK, dtype))
    return getattr(_own, name)


def fill_normal(generators: Sequence[Stream], out: NDArray[Any], deviation: float = 1.0) -> None:
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


def _box_muller(generators: Sequence[Stream], out: NDArray[np.float32], deviation: float) -> None:
    rows, half = len(out), (out.shape[1] + 1) // 2
    bits = _scratch("bits", np.uint64)[: rows * half].reshape(rows, half)
    for generator, row in zip(generators, bits, strict=True):
        generator.bits.fill(row)
    words = bits.view(np.uint32)
    radius, angle, cosine = (
        _scratch(name, np.float32)[: rows * half].reshape(rows, half)
        for name in ("radius", "angle", "cosine")
    )
    radius[...] = words[:, :half]
    radius *= np.float32(2**-32)
    radius += np.float32(2**-33)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    if deviation != 1:
        radius *= np.float32(deviation)
    angle[...] = words[:, half:].view(np.int32)
    angle *= np.float32(np.pi * 2**-31)
    np.cos(angle, out=cosine)
    np.multiply(radius, cosine, out=out[:, :half])
    np.sin(angle, out=angle)
    rest = out.shape[1] - half
    np.multiply(radius[:, :rest], angle[:, :rest], out=out[:, half:])


def fill_uniform(generator: Stream, out: NDArray[Any], deviation: float = 1.0) -> None:
    """Fill with uniform numbers of mean 0.

    In single precision they are 32,768 equally likely points of equal distance, of exactly this mean and
    variance: four for the price of one, and no sum of weights can tell them from a continuum. In double
    precision, and of few, numpy's 53 or 24 bits.

    Args:
        generator: The stream.
        out: What to fill, float32 or float64, contiguous.
        deviation: Their standard deviation.

    Source:
        definition; the m odd integers from 1 - m to m - 1 have mean square (m^2 - 1)/3.

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
    step = uniform_step(deviation)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        integers = _scratch("bits", np.uint64)[: (block.size + 3) // 4]
        fill_integers(generator.bits, integers)
        np.multiply(integers.view(np.int16)[: block.size], step, out=block, dtype=np.float32)


def fill_integers(source: Bits, out: NDArray[np.uint64]) -> None:
    """Fill words with four odd 16-bit integers each, uniform from 1 - 2^15 to 2^15 - 1.

    Args:
        source: The bits.
        out: What to fill, contiguous; its view as ``int16`` has the integers.

    Example:
        >>> words = np.empty(2, np.uint64)
        >>> fill_integers(bits(b"test"), words)
        >>> bool((words.view(np.int16) % 2 == 1).all())
        True
    """
    source.fill(out)
    out |= _ODD  # odd numbers alone have mean 0


def uniform_step(deviation: float) -> np.float32:
    """Return what the integers of `fill_integers` are multiplied by for a standard deviation.

    Args:
        deviation: The standard deviation.

    Returns:
        deviation sqrt(3 / (2^30 - 1)).
    """
    return np.float32((3 / (2.0**30 - 1)) ** 0.5 * deviation)
