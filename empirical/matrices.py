"""The matrices of a pass: drawn, kept on the way forward, and laid out for products on the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.backend import TorchBackend
from meanfield.ops import Draw
from meanfield.random import brief_bits, fill_integers, uniform_step
from meanfield.weight_free.backend import Array
from meanfield.weight_free.forward import times

ROOM = 2**23  # bytes of a block of `Room`
CACHE = 2**21  # numbers that are laid out at a time


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix for each seed, (seeds, d_in, d_out): numbers, or 16-bit integers times a step."""

    entries: torch.Tensor
    step: float = 1.0


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

    def draw(
        self, seeds: Sequence[int], purpose: str, law: Draw, shape: tuple[int, int], *, compact: bool = True
    ) -> Matrix:
        """Draw a matrix for each seed, each from the stream of the seed and the purpose.

        Args:
            seeds: The seeds.
            purpose: Name of the matrix.
            law: Of its entries.
            shape: (d_in, d_out).
            compact: Whether integers may be kept.

        Returns:
            What the products take.
        """
        size = math.prod(shape)
        compact = compact and self._host and self.backend.host_dtype == np.float32
        if not compact or law.law != "uniform" or law.mean or not law.variance:
            room = self._kept.take((len(seeds), *shape), self.backend.host_dtype) if self._host else None
            out = self.backend.empty((len(seeds), *shape)) if room is None else torch.from_numpy(room)
            return Matrix(self.backend.tensor(seeds, purpose, law, shape, out))
        words = -(-size // 4)
        drawn = self._kept.take((len(seeds), words), np.uint64)
        for seed, row in zip(seeds, drawn, strict=True):
            fill_integers(brief_bits(seed, purpose), row)
        integers = drawn.view(np.int16)[:, :size].reshape(len(seeds), *shape)
        return Matrix(torch.from_numpy(integers), float(uniform_step(float(law.variance) ** 0.5)))

    def product(self, x: Array, matrices: Sequence[Matrix], bias: Array | None = None) -> Array:
        """Multiply tokens by matrices side by side, all of one step, and add a bias.

        Args:
            x: Tokens (seeds, T, d_in).
            matrices: From `draw`.
            bias: (seeds, 1, sum of d_out), or None.

        Returns:
            (seeds, T, sum of d_out).
        """
        x = times(matrices[0].step, x)
        first, *others = self._blocks(x, matrices)
        y = self.backend.affine(x[:, :, first], self._load(matrices, first), bias)
        for rows in others:
            y = self.backend.affine(x[:, :, rows], self._load(matrices, rows), y)
        return y

    def product_back(self, gradients: Sequence[Array], matrices: Sequence[Matrix]) -> Array:
        """Multiply gradients by transposed matrices, and add.

        Args:
            gradients: One for each matrix, (seeds, T, d_out).
            matrices: From `draw`.

        Returns:
            (seeds, T, d_in).
        """
        scaled = [times(matrix.step, g) for matrix, g in zip(matrices, gradients, strict=True)]
        g = scaled[0] if len(scaled) == 1 else torch.cat(scaled, 2)
        blocks = [
            self.backend.matmul_back(g, self._load(matrices, rows)) for rows in self._blocks(g, matrices)
        ]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)

    def whole(self, matrix: Matrix) -> Array:
        """Lay one matrix out as it is, (seeds, d_in, d_out); good until the next call of anything here."""
        return times(matrix.step, self._load([matrix], slice(None)))

    def _blocks(self, x: Array, matrices: Sequence[Matrix]) -> list[slice]:
        """Rows that are laid out at a time: integers of a large matrix become numbers in a cache alone."""
        shape = matrices[0].entries.shape
        rows = max(1, CACHE // (shape[0] * sum(matrix.entries.shape[2] for matrix in matrices)))
        if rows >= shape[1] or all(matrix.entries.is_floating_point() for matrix in matrices):
            return [slice(None)]
        return [slice(start, start + rows) for start in range(0, shape[1], rows)]

    def _load(self, matrices: Sequence[Matrix], rows: slice) -> Array:
        parts = [matrix.entries[:, rows] for matrix in matrices]
        if len(parts) == 1 and parts[0].is_floating_point():
            return parts[0]
        if not self._host:
            return torch.cat(parts, 2)
        self._laid_out.clear()
        columns = [part.shape[2] for part in parts]
        out = torch.from_numpy(
            self._laid_out.take((*parts[0].shape[:2], sum(columns)), self.backend.host_dtype)
        )
        for part, place in zip(parts, torch.split(out, columns, 2), strict=True):
            place.copy_(part)
        return out
