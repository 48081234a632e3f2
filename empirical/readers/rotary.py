"""Positions in attention: how queries and keys turn, and tables of relative positions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.layers.attention import relative_buckets
from empirical.readers.probing import noise, respond
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import Bias, Operand, Term, Weight
from empirical.readers.trace import Graph, Node
from meanfield import ops
from meanfield.ops import Rotary


def operand(graph: Graph, node: Node, term: Term, *, transposed: bool) -> Operand:
    """Read queries or keys that are a linear function of their token, one for each position.

    Args:
        graph: The pass.
        node: The queries or keys.
        term: Their projection.
        transposed: Whether the node holds coordinates before tokens.

    Returns:
        Which tokens and coordinates they are, and how they turn.

    Raises:
        UnsupportedModuleError: If they do not turn in planes by angles position * base^(-2m/r).
    """

    def lay(y: Tensor) -> Tensor:
        y = y.transpose(-1, -2) if transposed else y
        return y if y.dim() == 3 else y[None]  # (products, tokens, size)

    x = noise(term)
    whole = lay(respond(graph, term, x, node))
    if not torch.allclose(lay(respond(graph, term, -2 * x, node)), -2 * whole, rtol=1e-6, atol=1e-9):
        raise UnsupportedModuleError(
            node.module, "queries or keys that are no linear function of a projection"
        )
    rows, first = _sources(graph, term, node, lay)
    heads, which = distinct(first)
    if len(set(heads.reshape(-1).tolist())) != heads.numel():
        raise UnsupportedModuleError(node.module, "heads that share coordinates of a projection")
    examples = torch.tensor([int((which == head).nonzero()[0, 0]) for head in range(len(heads))])
    turns = _turns(graph, term, node, lay, rows[examples], heads, examples)
    planes = [_planes(node, head) for head in turns]
    order, angles, scale = planes[0]
    for other, others, factor in planes[1:]:
        same = torch.equal(order, other) and np.abs(angles - others).max(initial=0) < 1e-4
        if not same or abs(scale / factor - 1) > 1e-5:
            raise UnsupportedModuleError(node.module, "heads that turn differently")
    turned = _rotary(node, angles, whole.shape[-1])
    return Operand(term, rows, first[:, order], float(f"{scale:.7g}"), turned)


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a matrix in order of appearance, and which one each is.

    Args:
        rows: A matrix of integers.

    Returns:
        The distinct rows, and for each row the number of its like.

    Example:
        >>> found, which = distinct(torch.tensor([[7], [3], [7]]))
        >>> found.tolist(), which.tolist()
        ([[7], [3]], [0, 1, 0])
    """
    _, first, inverse = np.unique(rows.numpy(), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return rows[torch.from_numpy(first[order])], torch.from_numpy(np.argsort(order)[np.reshape(inverse, -1)])


def _sources(graph: Graph, term: Term, node: Node, lay: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The row of each (product, token), and the column of each (product, coordinate) at the first token."""
    # Bit by bit of their numbers: what has a bit is left, the rest set to 0. At the first position nothing
    # has turned, so that each coordinate comes from one column.
    x = noise(term)

    def numbers(size: int, keep: Callable[[Tensor], Tensor], see: Callable[[Tensor], Tensor]) -> Tensor:
        found: Tensor | None = None
        for bit in range(max(1, (size - 1).bit_length())):
            on = (torch.arange(size) >> bit) & 1
            alive = see(lay(respond(graph, term, x * keep(on), node)) != 0) * 2**bit
            found = alive if found is None else found + alive
        assert found is not None
        return found

    rows = numbers(len(x), lambda on: on[:, None], lambda alive: alive.any(-1).long())
    columns = numbers(x.shape[1], lambda on: on[None], lambda alive: alive[:, 0].long())
    return rows, columns


def _turns(
    graph: Graph,
    term: Term,
    node: Node,
    lay: Callable[[Tensor], Tensor],
    rows: Tensor,
    heads: Tensor,
    examples: Tensor,
) -> Tensor:
    """Derivative of every coordinate of a head by the head's columns, (heads, size, tokens, size)."""
    # One derivative serves all heads and tokens: they read different entries.
    x = torch.zeros_like(noise(term)).requires_grad_()
    with torch.enable_grad():
        out = lay(graph.run({term.at: x.reshape(-1)[term.layout]}, [node])[0])[examples]
        picks = out.sum((0, 1))  # (size,)
        eye = torch.eye(len(picks), dtype=torch.float64)
        found = torch.autograd.grad(picks, x, eye, is_grads_batched=True)[0]  # (size, rows, width)
    entries = rows[:, :, None] * x.shape[1] + heads[:, None, :]  # (heads, tokens, size)
    picked = found.flatten(1)[:, entries].transpose(0, 1)  # (heads, size, tokens, size)
    if int((found != 0).sum()) != int((picked != 0).sum()):
        raise UnsupportedModuleError(node.module, "queries or keys that mix tokens or heads")
    return picked


def _planes(node: Node, head: Tensor) -> tuple[Tensor, NDArray[np.float64], float]:
    """Coordinates in the order of halves, the angle of each plane at each position, the scale of a head."""
    size, tokens, _ = head.shape
    entries = head.numpy()
    scale = float(entries[0, 0, 0])
    if np.abs(entries[:, 0] - scale * np.eye(size)).max() > 1e-6 * abs(scale):
        raise UnsupportedModuleError(node.module, "queries or keys whose first position is turned already")
    mixed = (np.abs(entries).max(axis=1) > 1e-9 * abs(scale)) & ~np.eye(size, dtype=bool)
    if (mixed.sum(axis=1) > 1).any() or (mixed != mixed.T).any():
        raise UnsupportedModuleError(node.module, "queries or keys that do not turn in planes")
    # The first of a plane is a cos - b sin; angles of one step are at most 1.
    step = entries[:, min(1, tokens - 1)]
    pairs = [(a, b) for a, b in zip(*np.nonzero(mixed), strict=True) if step[a, b] * scale < 0]
    still = np.flatnonzero(~mixed.any(axis=1)).tolist()
    if 2 * len(pairs) + len(still) != size:
        raise UnsupportedModuleError(node.module, "queries or keys that do not turn in planes")
    angles = np.array([
        np.unwrap(np.arctan2(entries[b, :, a] / scale, entries[a, :, a] / scale)) for a, b in pairs
    ]).reshape(len(pairs), tokens)
    fastest = np.argsort(-angles[:, min(1, tokens - 1)], kind="stable")
    order = [int(pairs[k][half]) for half in (0, 1) for k in fastest] + still
    return torch.tensor(order), angles[fastest], scale


def _rotary(node: Node, angles: NDArray[np.float64], size: int) -> Rotary | None:
    """The base of the angles position * base^(-m / planes)."""
    planes = len(angles)
    if planes == 0:
        return None
    tokens = angles.shape[1]
    position = np.arange(tokens)
    if tokens < 2:
        raise UnsupportedModuleError(
            node.module, "rotary positions cannot be read from one token: give two or more"
        )
    frequency = (angles * position).sum(axis=1) / (position**2).sum()
    linear = np.abs(angles - frequency[:, None] * position).max() < 1e-4 * tokens
    base = 1.0 if planes == 1 else float(frequency[1]) ** (-planes)
    if planes > 1 and linear:
        rounded = float(f"{base:.5g}")
        # The slowest plane tells the base best.
        base = (
            math.exp(-math.log(float(frequency[-1])) * planes / (planes - 1))
            if frequency[-1] > 0
            else rounded
        )
        base = float(f"{base:.4g}")
    expected = base ** (-np.arange(planes) / planes)
    if not linear or np.abs(frequency - expected).max() > 2e-4:
        raise UnsupportedModuleError(
            node.module, "rotary angles are not position * base^(-2m/r): scaled ones have no counterpart here"
        )
    turning = 2 * planes
    return Rotary(1 if turning == size else turning / size, base)


def relative_bias(node: Node, weight: Weight, graph: Graph, shape: tuple[int, ...]) -> Bias:
    """Tell which table of relative positions a learned term of the scores is.

    Args:
        node: The softmax.
        weight: The term, (1 or heads..., queries, keys), as entries of its table.
        graph: The pass.
        shape: Of the products (products, queries, keys).

    Returns:
        The table.

    Raises:
        UnsupportedModuleError: If its entries are not those of T5's buckets.
    """
    table = next(n for n in graph.nodes if n.leaf == "parameter" and n.name == weight.name)
    index = weight.index
    if index.dim() == 4 and bool((index == index[:1]).all()):
        index = index[0]  # the same for all sequences
    if table.value.dim() != 2 or index.dim() != 3 or index.shape[1:] != shape[1:]:
        raise UnsupportedModuleError(
            node.module, "a learned term of scores that is no table (buckets, heads)"
        )
    buckets, heads = table.value.shape
    offset = torch.arange(shape[2]) - torch.arange(shape[1])[:, None]
    own = torch.arange(heads)[:, None, None].expand_as(index)
    there = index[0] >= 0  # a mask may cover the rest
    found = index // heads
    if torch.equal((index % heads)[:, there], own[:, there]) and bool((found == found[:1])[:, there].all()):
        for bidirectional in (True, False):
            for furthest in (128, *range(buckets // 2 + 1, 1025)):
                try:
                    op = ops.RelativeBias("bias", ops.ZEROS, buckets, furthest, bidirectional)
                except ValueError:
                    continue
                if torch.equal(relative_buckets(offset, op)[there], found[0][there]):
                    full = torch.arange(table.value.numel()).reshape(buckets, heads)
                    return Bias(Weight(weight.name, full), furthest, bidirectional)
    raise UnsupportedModuleError(node.module, "a learned term of scores whose buckets are not T5's")
