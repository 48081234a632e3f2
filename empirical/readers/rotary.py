"""Positions in attention: how queries and keys turn, and tables of relative positions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from empirical.layers.attention import relative_buckets
from empirical.readers.probing import noise, respond
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import Bias, Operand, Term, Weight
from empirical.readers.trace import Graph, Node
from meanfield import ops
from meanfield.ops import Rotary

CHUNK = 64
"""Derivatives that are taken together."""


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
    rows = _rows(graph, term, node, lay)
    count, _, size = whole.shape
    sequence = (rows == rows[0]).all(dim=1)  # the heads of one sequence
    jacobian = _jacobian(graph, term, node, lay, rows, sequence)  # (heads, size, tokens, width)
    planes = [_planes(node, head) for head in jacobian]
    _, angles, scale = planes[0]
    for _, others, factor in planes[1:]:
        if (
            others.shape != angles.shape
            or np.abs(angles - others).max(initial=0) > 1e-4
            or abs(scale / factor - 1) > 1e-5
        ):
            raise UnsupportedModuleError(node.module, "heads that turn differently")
    turned = _rotary(node, angles, size)
    per_head = torch.stack([order for order, _, _ in planes])
    heads = len(per_head)
    # Products of other sequences have their heads in the same order.
    if count % heads:
        raise UnsupportedModuleError(node.module, "sequences with different numbers of heads")
    which = _head_of(rows, heads)
    return Operand(term, rows, per_head[which], float(f"{scale:.7g}"), turned)


def _head_of(rows: Tensor, heads: int) -> Tensor:
    """Which head each product is: the k-th of its sequence."""
    seen: dict[tuple[int, ...], int] = {}
    found = []
    for row in rows.tolist():
        key = tuple(row)
        found.append(seen.get(key, 0) % heads)
        seen[key] = seen.get(key, 0) + 1
    return torch.tensor(found)


def _rows(graph: Graph, term: Term, node: Node, lay: object) -> Tensor:
    """Which row each query or key depends on, bit by bit of the row's number."""
    assert callable(lay)
    x = noise(term)
    count = len(x)
    found: Tensor | None = None
    for bit in range(max(1, (count - 1).bit_length())):
        on = (torch.arange(count) >> bit) & 1
        alive = (lay(respond(graph, term, x * on[:, None], node)) != 0).any(-1)
        found = alive * 2**bit if found is None else found + alive * 2**bit
    assert found is not None
    return found


def _jacobian(graph: Graph, term: Term, node: Node, lay: object, rows: Tensor, sequence: Tensor) -> Tensor:
    """Derivative of every coordinate by those of the token's projection, (heads, size, tokens, width)."""
    assert callable(lay)
    x = torch.zeros_like(noise(term)).requires_grad_()
    with torch.enable_grad():
        out = lay(graph.run({term.at: x.reshape(-1)[term.layout]}, [node])[0])[sequence]
        picks = out.sum(1).reshape(-1)  # tokens do not mix: each row gets the derivative of its own
        eye = torch.eye(len(picks), dtype=torch.float64)
        parts = [
            torch.autograd.grad(picks, x, eye[k : k + CHUNK], is_grads_batched=True, retain_graph=True)[0]
            for k in range(0, len(eye), CHUNK)
        ]
    heads, tokens, size = out.shape
    derivative = torch.cat(parts)[:, rows[sequence][0]]  # (heads * size, tokens, width)
    return derivative.reshape(heads, size, tokens, -1)


def _planes(node: Node, head: Tensor) -> tuple[Tensor, np.ndarray, float]:
    """Columns in the order of halves, the angle of each plane at each position, and the scale of a head."""
    size, tokens, _ = head.shape
    entries = head.numpy()
    support = (np.abs(entries) > 1e-9).any(axis=1)  # (size, width)
    resting = np.abs(entries[:, 0]) > 1e-9  # at the first position nothing has turned
    if not (resting.sum(axis=1) == 1).all():
        raise UnsupportedModuleError(node.module, "queries or keys whose first position is turned already")
    own = resting.argmax(axis=1)
    scale = float(entries[0, 0, own[0]])
    first: list[int] = []
    second: list[int] = []
    still: list[int] = []
    for c in range(size):
        others = [int(w) for w in np.flatnonzero(support[c]) if w != own[c]]
        if not others:
            still.append(c)
            continue
        partner = int(np.flatnonzero(own == others[0])[0]) if others[0] in own else -1
        if len(others) > 1 or partner < 0:
            raise UnsupportedModuleError(node.module, "queries or keys that do not turn in planes")
        # The first of a plane is a cos - b sin; angles of one step are at most 1.
        (first if entries[c, min(1, tokens - 1), others[0]] < 0 else second).append(c)
    pairs = []
    for c in first:
        other = next(int(w) for w in np.flatnonzero(support[c]) if w != own[c])
        pairs.append((c, int(np.flatnonzero(own == other)[0])))
    if len(pairs) * 2 + len(still) != size:
        raise UnsupportedModuleError(node.module, "queries or keys that do not turn in planes")
    angles = np.array([
        np.unwrap(np.arctan2(entries[b, :, own[a]] / scale, entries[a, :, own[a]] / scale)) for a, b in pairs
    ]).reshape(len(pairs), tokens)
    fastest = (
        np.argsort(-np.abs(angles[:, min(1, tokens - 1)]), kind="stable") if pairs else np.array([], int)
    )
    ordered = [pairs[k] for k in fastest]
    order = [a for a, _ in ordered] + [b for _, b in ordered] + still
    return torch.tensor([int(own[c]) for c in order]), angles[fastest], scale


def _rotary(node: Node, angles: np.ndarray, size: int) -> Rotary | None:
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
