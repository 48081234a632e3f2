"""Random numbers: one stream for each seed and purpose, and fast draws in single precision.

Seed and purpose name a stream, through BLAKE2b, so that a draw depends neither on the order of seeds or
tensors nor on the number of threads that draw. Many numbers at once are made of the bits of AES-128 in
counter mode, which processors compute three times as fast as numpy's fastest generator: the seed makes the
key, the purpose the 128-bit start of the counter. `meanfield.transforms` makes numbers of them. Single ones
come from numpy's SFC64.
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

BLOCK = 2**15  # numbers whose bits lie together: of normals, those of all radii before those of all angles
SCRATCH = 2**16  # words of 64 bits that are drawn at a time: more would leave a processor's own cache
SHORT = 2**10  # below, a call of many steps takes longer than the numbers
_ZEROS = memoryview(bytes(2**18))
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
        mode = ciphers.modes.CTR(_counter(purpose))
        self._encryptor = ciphers.Cipher(ciphers.algorithms.AES(_digest(f"{seed}", 16)), mode).encryptor()

    def start(self, purpose: str) -> None:
        """Start anew, for another purpose of the same seed.

        Args:
            purpose: Name of the tensor.
        """
        self._encryptor.reset_nonce(_counter(purpose))

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Fill words with the next bits.

        Args:
            out: What to fill, contiguous.
        """
        room = out.view(np.uint8)
        for start in range(0, out.nbytes, len(_ZEROS)):
            part = room[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: part.nbytes], part)


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


@functools.lru_cache(2**10)  # many seeds ask for one purpose
def _counter(purpose: str) -> bytes:
    return _digest(purpose, 16)


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


def _scratch() -> NDArray[np.uint64]:
    """Memory of the present thread that is used again: fresh memory costs more than the numbers."""
    if not hasattr(_own, "scratch"):
        _own.scratch = np.empty(SCRATCH, np.uint64)
    return _own.scratch


def fill_normal(generators: Sequence[Stream], out: NDArray[Any], deviation: float = 1.0) -> None:
    """Fill rows with normals of mean 0, each row from its own stream.

    In single precision by `meanfield.transforms.box_muller` of 32-bit integers, |z| <= 6.8; in double
    precision, and where a row has few, by numpy's ziggurat.

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
    from meanfield.transforms import box_muller  # half a second: not at import

    scratch = _scratch()
    for start in range(0, out.shape[1], 2 * SCRATCH):
        part = out[:, start : start + 2 * SCRATCH]
        words = (part.shape[1] + 1) // 2  # of 64 bits, one for two numbers
        together = SCRATCH // words if part.shape == out.shape else 1  # rows that lie side by side
        for first in range(0, len(out), together):
            rows = part[first : first + together]
            bits = scratch[: len(rows) * words].reshape(len(rows), words)
            for generator, row in zip(generators[first : first + together], bits, strict=True):
                generator.bits.fill(row)
            box_muller(bits.view(np.uint32), rows, deviation, BLOCK)


def fill_uniform(
    seeds: Sequence[int], purpose: str, out: NDArray[np.float32], deviation: float = 1.0
) -> None:
    """Fill rows with uniform numbers of mean 0, each row from the bits of its seed and the purpose.

    They are 32,768 equally likely points of equal distance, of exactly this mean and variance: four for the
    price of one, and no sum of weights can tell them from a continuum.

    Args:
        seeds: One for each row.
        purpose: Name of the tensor.
        out: What to fill, (rows, numbers), contiguous.
        deviation: Their standard deviation.

    Source:
        `meanfield.transforms.odd_integers`.

    Example:
        >>> drawn = np.empty((1, 2**16), np.float32)
        >>> fill_uniform([0], "test", drawn)
        >>> bool(abs(drawn.mean()) < 0.01), bool(abs(drawn.var() - 1) < 0.01), bool(abs(drawn).max() < 3**0.5)
        (True, True, True)
    """
    from meanfield.transforms import odd_integers  # as above

    step, scratch = uniform_step(deviation), _scratch()
    words = (out.shape[1] + 3) // 4  # of 64 bits, one for four numbers
    together = max(1, SCRATCH // words)
    for first in range(0, len(out), together):
        rows = out[first : first + together, None]
        opened = [brief_bits(seed, purpose) for seed in seeds[first : first + together]]
        for start in range(0, words, SCRATCH):
            width = min(words - start, SCRATCH)
            drawn = scratch[: len(rows) * width].reshape(len(rows), width)
            for bits, row in zip(opened, drawn, strict=True):
                bits.fill(row)
            odd_integers(drawn.view(np.int16)[:, None], rows[..., 4 * start : 4 * (start + width)], step)


def uniform_step(deviation: float) -> float:
    """Return what `odd_integers` multiplies by for a standard deviation.

    Args:
        deviation: The standard deviation.

    Returns:
        deviation sqrt(3 / (2^30 - 1)).
    """
    return (3 / (2.0**30 - 1)) ** 0.5 * deviation
