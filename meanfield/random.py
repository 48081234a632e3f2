"""Random numbers: one stream for each seed and purpose, and fast draws in single precision.

Seed and purpose name a stream, through BLAKE2b, so that a draw depends neither on the order of seeds or
tensors nor on the number of threads that draw. Many numbers at once are made of the bits of AES-128 in
counter mode, which processors compute three times as fast as numpy's fastest generator: the seed makes the
key, the purpose the 128-bit start of the counter. Single numbers come from numpy's SFC64.
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
OPENED = 64  # seeds whose cipher a thread keeps
_own = threading.local()


class _State(ISeedSequence):
    """The 192 bits from which SFC64 starts."""

    def __init__(self, words: bytes) -> None:
        self.words = np.frombuffer(words, np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Give the words; SFC64 asks for three of 64 bits."""
        return self.words[:n_words].astype(dtype)


class Bits:
    """The bits of AES-128 in counter mode, of blocks of zeros: the seed is the key, the purpose the start.

    Args:
        seed: The seed of the run.
        purpose: Name of the tensor.

    Source:
        nist2001, Sec. 6.5.

    Example:
        >>> out, again = np.empty(2, np.uint64), np.empty(2, np.uint64)
        >>> Bits(0, "test").fill(out)
        >>> brief_bits(0, "test").fill(again)
        >>> bool((out == again).all())
        True
    """

    def __init__(self, seed: int, purpose: str) -> None:
        ciphers = _ciphers()
        key, start = _digest(f"{seed}", 16), _digest(purpose, 16)
        self._encryptor = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(start)).encryptor()

    def start(self, purpose: str) -> None:
        """Start anew, for another purpose of the same seed.

        Args:
            purpose: Name of the tensor.
        """
        self._encryptor.reset_nonce(_digest(purpose, 16))

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


def brief_bits(seed: int, purpose: str) -> Bits:
    """Open bits that are read before the thread opens others of this seed, in a tenth of the time.

    Args:
        seed: The seed of the run.
        purpose: Name of the tensor.

    Returns:
        The same as `Bits`.
    """
    if not hasattr(_own, "opened"):
        _own.opened = {}
    opened: dict[int, Bits] = _own.opened
    if seed not in opened:
        while len(opened) >= OPENED:
            del opened[next(iter(opened))]
        opened[seed] = Bits(seed, purpose)
    else:
        opened[seed].start(purpose)
    return opened[seed]


@functools.cache
def _ciphers() -> Any:
    from cryptography.hazmat.primitives import ciphers  # a twentieth of a second: not at import

    return ciphers


def _digest(name: str, size: int) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=size).digest()


class Stream(Generator):
    """A stream of random numbers: numpy's generator, and bits by the block beside it.

    Args:
        seed: The seed of the run.
        purpose: Name of the tensor.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        state: Any = _State(_digest(f"{seed}/{purpose}", 24))  # numpy takes any, its annotation one kind
        super().__init__(SFC64(state))
        self._name = seed, purpose

    @functools.cached_property
    def bits(self) -> Bits:
        """The stream's bits."""
        return Bits(*self._name)


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
    return Stream(seed, purpose)


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
    if deviation != 1:  # its square may be beyond the type
        radius *= np.float32(deviation)
    angle[...] = words[:, half:].view(np.int32)
    angle *= np.float32(np.pi * 2**-31)
    np.cos(angle, out=cosine)
    np.multiply(radius, cosine, out=out[:, :half])
    np.sin(angle, out=angle)
    rest = out.shape[1] - half
    np.multiply(radius[:, :rest], angle[:, :rest], out=out[:, half:])


def fill_uniform(bits: Bits, out: NDArray[Any], deviation: float = 1.0) -> None:
    """Fill with uniform numbers of mean 0, in single precision.

    They are 32,768 equally likely points of equal distance, of exactly this mean and variance: four for the
    price of one, and no sum of weights can tell them from a continuum.

    Args:
        bits: Where they come from.
        out: What to fill, float32, contiguous.
        deviation: Their standard deviation.

    Source:
        definition; the m odd integers from 1 - m to m - 1 have mean square (m^2 - 1)/3.

    Example:
        >>> drawn = np.empty(2**16, np.float32)
        >>> fill_uniform(Bits(0, "test"), drawn)
        >>> bool(abs(drawn.mean()) < 0.01), bool(abs(drawn.var() - 1) < 0.01), bool(abs(drawn).max() < 3**0.5)
        (True, True, True)
    """
    flat, step = out.reshape(-1), uniform_step(deviation)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        integers = _scratch("bits", np.uint64)[: (block.size + 3) // 4]
        fill_integers(bits, integers)
        np.multiply(integers.view(np.int16)[: block.size], step, out=block, dtype=np.float32)


def fill_integers(bits: Bits, out: NDArray[np.uint64]) -> None:
    """Fill words with four odd 16-bit integers each, uniform from 1 - 2^15 to 2^15 - 1.

    Args:
        bits: Where they come from.
        out: What to fill, contiguous; its view as ``int16`` has the integers.

    Example:
        >>> words = np.empty(2, np.uint64)
        >>> fill_integers(Bits(0, "test"), words)
        >>> bool((words.view(np.int16) % 2 == 1).all())
        True
    """
    bits.fill(out)
    out |= _ODD  # odd numbers alone have mean 0


def uniform_step(deviation: float) -> np.float32:
    """Return what the integers of `fill_integers` are multiplied by for a standard deviation.

    Args:
        deviation: The standard deviation.

    Returns:
        deviation sqrt(3 / (2^30 - 1)).
    """
    return np.float32((3 / (2.0**30 - 1)) ** 0.5 * deviation)
