"""What enters the first layer: token ids and tables, or vectors with their Gram matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from empirical.readers.assemble import Laws, Placed
from empirical.readers.reading import Stream, UnsupportedModuleError
from empirical.readers.terms import Features, Root, Rows, Weight
from meanfield import ops
from meanfield.ops import ParameterKey


@dataclass(frozen=True, eq=False, slots=True)
class Entrance:
    """What enters a stack.

    Attributes:
        tables: Token embedding, positions, segments, by their names in `meanfield.ops.Transformer`.
        stream: What the batch gives.
        placed: Parameters.
        ids_of: Name of the token embedding's tensor, or None.
    """

    tables: dict[str, ops.Embedding]
    stream: Stream
    placed: list[Placed]
    ids_of: str | None


def entrance(
    root: Root,
    order: Tensor,
    padding: Tensor | None,
    laws: Laws,
    shapes: dict[str, tuple[int, ...]],
    prefix: str,
) -> Entrance:
    """Read what enters a stack: tables looked up by ids, or vectors.

    Args:
        root: The vectors.
        order: Row numbers (batch, tokens) of the tokens.
        padding: Which tokens are real (batch, tokens), or None.
        laws: Law of a parameter.
        shapes: Shapes of the module's tensors.
        prefix: In front of names, ``"encoder."`` or ``"decoder."``.

    Returns:
        Tables and stream.

    Raises:
        UnsupportedModuleError: If the vectors cannot be described.
    """
    batch, tokens = order.shape
    mask = None if padding is None or bool(padding.all()) else padding.numpy()
    if root.made.parts and root.made.constant is None:
        found = _tables(root, order, padding, shapes)
        if found is not None:
            kinds, ids = found
            placed, tables = [], {}
            for kind, part in kinds.items():
                rows, width = shapes[part.name]
                weight = Weight(part.name, torch.arange(rows * width).reshape(rows, width))
                key = ParameterKey(0, prefix + kind, "weight")
                placed.append(Placed(key, weight))
                tables[kind] = ops.Embedding(kind, rows, width, laws(key, weight), _number(part.scale))
            return Entrance(tables, Stream(batch, tokens, ids, None, mask), placed, kinds["embedding"].name)
    return _vectors(root, order, mask, laws, shapes, prefix)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _tables(
    root: Root, order: Tensor, padding: Tensor | None, shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, Rows], np.ndarray[Any, Any]] | None:
    """Sort tables into tokens, positions and segments by which rows the tokens read."""
    kinds: dict[str, Rows] = {}
    ids = None
    real = torch.ones_like(order, dtype=torch.bool) if padding is None else padding
    for part in root.made.parts:
        shape = shapes[part.name]
        if not isinstance(part, Rows) or len(shape) != 2 or shape[1] != root.width:
            return None
        index = part.index.reshape(-1, root.width)[order]  # (batch, tokens, width)
        rows = index[..., 0] // root.width
        if not torch.equal(index, rows[..., None] * root.width + torch.arange(root.width)):
            return None
        kind = _kind(rows, real)
        if kind in kinds:
            return None
        kinds[kind] = part
        if kind == "embedding":
            ids = rows.numpy()
    if ids is None or ("embedding" in kinds and kinds["embedding"].scale == 0):
        return None
    return kinds, ids


def _kind(rows: Tensor, real: Tensor) -> str:
    if bool((rows == rows[0, 0])[real].all()):
        return "segment"
    own = torch.arange(rows.shape[1]) - int(real[0].int().argmax())
    offset = int(rows[0][real[0]][0])
    return "position" if bool((rows == own + offset)[real].all()) else "embedding"


def _vectors(
    root: Root, order: Tensor, mask: Any, laws: Laws, shapes: dict[str, tuple[int, ...]], prefix: str
) -> Entrance:
    """Vectors: their Gram matrix, and the kernel of every tensor that makes them."""
    flat = order.reshape(-1)
    total, width = len(flat), root.width
    gram = np.zeros((total, total))
    grouped: dict[str, list[Rows | Features]] = defaultdict(list)
    for part in root.made.parts:
        grouped[part.name].append(part)
    placed, kernels = [], {}
    for name, parts in grouped.items():
        if len(parts) > 1:
            raise UnsupportedModuleError(name, "a tensor that makes the input in two ways")
        (part,) = parts
        kernel = _kernel(part, flat, width)
        shape = tuple(part.weight.shape) if isinstance(part, Features) else shapes[name]
        index = part.weight if isinstance(part, Features) else torch.arange(math.prod(shape)).reshape(shape)
        key = ParameterKey(0, prefix + name, "weight")
        weight = Weight(name, index)
        placed.append(Placed(key, weight))
        law = laws(key, weight)
        kernels[name] = kernel
        gram += (float(law.variance) + float(law.mean) ** 2) * kernel
    if root.made.constant is not None:
        x = root.made.constant.reshape(-1, width)[flat].numpy()
        gram += x @ x.T / width
    batch, tokens = order.shape
    stream = Stream(batch, tokens, None, gram, mask, kernels)
    return Entrance({}, stream, placed, None)


def _kernel(part: Rows | Features, flat: Tensor, width: int) -> np.ndarray[Any, Any]:
    """K_ij, the share of coordinates in which tokens i and j read the same entries, times the features."""
    if isinstance(part, Features):
        row = part.row.reshape(-1, width)[flat]  # (T, width), -1 where there is none
        if not torch.equal(row, row[:, :1].expand_as(row)):
            raise UnsupportedModuleError(part.name, "a matrix of features that differ over coordinates")
        there = (row[:, 0] >= 0).double()[:, None]
        given = part.features[row[:, 0].clamp(min=0)] * there
        return (part.scale**2 * given @ given.T).numpy()
    index = part.index.reshape(-1, width)[flat]
    kernel = torch.stack([((index == own) & (own >= 0)).double().mean(-1) for own in index])
    return (part.scale**2 * kernel).numpy()
