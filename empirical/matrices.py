"""The matrices of a pass: drawn, kept on the way forward, and laid out for products on the way back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.backend import TorchBackend
from meanfield.ops import Draw
from meanfield.random import brief_bits, uniform_step
from meanfield.transforms import odd_integers
from meanfield.weight_free.backend import Array

ROOM = 2**23  # bytes of a block of `Room`
CACHE = 2**21  # numbers that are laid out at a time
SHARED = 2**20  # the same of several seeds


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix for each seed, (seeds, d_in, d_out): numbers, or the 16 bits that each is made of.

    Args:
        entries: Numbers or integers.
        factor: What integers are multiplied by when they are laid out, see `odd_integers`.
    """

    entries: torch.Tensor
    factor: float = 1.0


class Room:
    """Host memory that is used again, pass after pass.

    Fresh memory costs a page fault for every 4096 bytes, a quarter of the time of a pass; and numpy asks for
    large pages.

    Example:
        >>> room = Room()
        >>> first = room.take((2, 3), np.float32)
        >>> room.clear()
        >>> room.take((2, 3), np.float32).ctypes.data == first.ctypes.data
        True
    """

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []
        self.clear()

    def clear(self) -> None:
        """Take back all that was given."""
        self._block, self._used = 0, 0

    def take(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[np.generic]:
        """Give room of a shape and type, with what was in it before."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        whole = -(-size // 64) * 64  # cache lines
        while self._block < len(self._blocks) and self._used + whole > len(self._blocks[self._block]):
            self._block, self._used = self._block + 1, 0
        if self._block == len(self._blocks):
            self._blocks.append(np.empty(max(whole, ROOM), np.uint8))
        start = self._used
        self._used += whole
        return self._blocks[self._block][start : start + size].view(dtype).reshape(shape)


class Matrices:
    """Draws matrices and keeps them.

    Uniform ones of single precision are kept as the 16-bit integers that they are made of: a pass over large
    weights waits for memory, and this halves what it reads and writes.

    Args:
        backend: Where they are multiplied by.
    """

    def __init__(self, backend: TorchBackend) -> None:
        self.backend = backend
        self._host = not backend.remote
        self._kept, self._laid_out = Room(), Room()

    def clear(self) -> None:
        """Forget all that was drawn."""
        self._kept.clear()

    def draw(self, seeds: Sequence[int], purpose: str, law: Draw, shape: tuple[int, int]) -> Matrix:
        """Draw a matrix for each seed, each from the stream of the seed and the purpose.

        Args:
            seeds: The seeds.
            purpose: Name of the matrix.
            law: Of its entries.
            shape: (d_in, d_out).

        Returns:
            What the products take.
        """
        size = math.prod(shape)
        compact = self._host and self.backend.host_dtype == np.float32
        if not compact or law.law != "uniform" or law.mean or not law.variance:
            room = self._kept.take((len(seeds), *shape), self.backend.host_dtype) if self._host else None
            out = self.backend.empty((len(seeds), *shape)) if room is None else torch.from_numpy(room)
            return Matrix(self.backend.tensor(seeds, purpose, law, shape, out))
        words = -(-size // 4)
        drawn = self._kept.take((len(seeds), words), np.uint64)
        for seed, row in zip(seeds, drawn, strict=True):
            brief_bits(seed, purpose).fill(row)
        integers = torch.from_numpy(drawn.view(np.int16)[:, :size].reshape(len(seeds), *shape))
        return Matrix(integers, uniform_step(float(law.variance) ** 0.5))

    def product(self, x: Array, matrices: Sequence[Matrix], bias: Array | None = None) -> Array:
        """Multiply tokens by matrices side by side, and add a bias.

        Args:
            x: Tokens (seeds, T, d_in).
            matrices: From `draw`.
            bias: (seeds, 1, sum of d_out), or None.

        Returns:
            (seeds, T, sum of d_out).
        """
        y = self.backend.empty((*x.shape[:2], sum(matrix.entries.shape[2] for matrix in matrices)))
        for seeds, rows in self._blocks(matrices):
            part, before = y[seeds], bias if bias is None else bias[seeds]
            self.backend.affine(
                x[seeds, :, rows], self._load(matrices, seeds, rows), part if rows.start else before, part
            )
        return y

    def product_back(self, g: Array, matrices: Sequence[Matrix]) -> Array:
        """Multiply gradients by transposed matrices, and add.

        Args:
            g: Those of all matrices side by side, (seeds, T, sum of d_out).
            matrices: From `draw`.

        Returns:
            (seeds, T, d_in).
        """
        x = self.backend.empty((*g.shape[:2], matrices[0].entries.shape[1]))
        for seeds, rows in self._blocks(matrices):
            self.backend.matmul_back(g[seeds], self._load(matrices, seeds, rows), x[seeds, :, rows])
        return x

    def whole(self, matrix: Matrix) -> Array:
        """Lay one matrix out as it is, (seeds, d_in, d_out); good until the next call of anything here."""
        return self._load([matrix], slice(None), slice(None))

    def _blocks(self, matrices: Sequence[Matrix]) -> Iterator[tuple[slice, slice]]:
        """Seeds and rows that are laid out at a time: integers become numbers in a cache alone."""
        seeds, rows, _ = matrices[0].entries.shape
        if all(matrix.entries.is_floating_point() for matrix in matrices):
            yield slice(None), slice(None)
            return
        row = sum(matrix.entries.shape[2] for matrix in matrices)
        together = max(1, SHARED // (rows * row))
        height = max(1, CACHE // row)
        for seed in range(0, seeds, together):
            for first in range(0, rows, height):
                yield slice(seed, seed + together), slice(first, first + height)

    def _load(self, matrices: Sequence[Matrix], seeds: slice, rows: slice) -> Array:
        parts = [matrix.entries[seeds, rows] for matrix in matrices]
        if len(parts) == 1 and parts[0].is_floating_point():
            return parts[0]
        if not self._host:
            return torch.cat(parts, 2)
        self._laid_out.clear()
        columns = [part.shape[2] for part in parts]
        shape = (*parts[0].shape[:2], sum(columns))
        out: NDArray[Any] = self._laid_out.take(shape, self.backend.host_dtype)
        starts = itertools.accumulate(columns[:-1], initial=0)
        for matrix, part, column in zip(matrices, parts, starts, strict=True):
            if part.is_floating_point():
                out[:, :, column : column + part.shape[2]] = part.numpy()
            else:  # all rows of these seeds, which are contiguous
                whole = matrix.entries[seeds].numpy()
                odd_integers(whole, out, matrix.factor, row=rows.start or 0, column=column)
        return torch.from_numpy(out)
