"""Attention in a pass: products of queries and keys, their softmax, and the mixing of values."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from empirical.readers import made, rotary
from empirical.readers.context import Context
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import (
    Bias,
    Heads,
    Made,
    Mixed,
    Opaque,
    Operand,
    Probabilities,
    Scores,
    Value,
    View,
)
from empirical.readers.trace import Node

HIDDEN = -1e4
"""Below it a score hides its key: masks are -inf, or the type's smallest number."""


def scores(reader: Context, node: Node, a: Node, b: Node) -> Value:
    """Products of queries (products, queries, size) and keys (products, size, keys)."""
    query, key = operand(reader, a), operand(reader, b, transposed=True)
    index = torch.arange(node.value.numel()).reshape(node.value.shape)
    count, tokens = query.rows.shape
    key = repeated(key, count // len(key.rows))
    if key.rows.shape[0] != count or count * tokens * key.rows.shape[1] != node.value.numel():
        raise UnsupportedModuleError(node.module, "a product of two hidden states that is no attention")
    term = Scores(width=key.rows.shape[1], at=node, layout=index, query=query, key=key)
    return View(term, index)


def repeated(operand: Operand, times: int) -> Operand:
    """Keys or values that the next ``times`` heads of queries share."""
    rows = operand.rows.repeat_interleave(times, 0)
    return replace(operand, rows=rows, columns=operand.columns.repeat_interleave(times, 0))


def _apart(index: Tensor, width: int) -> Tensor:
    """Heads that stand one after another along the tokens become products of their own."""
    first = index[0, :, 0] % width
    changes = (first != first[0]).nonzero()
    length = int(changes[0]) if len(changes) else len(first)
    count, tokens, size = index.shape
    return index if tokens % length else index.reshape(count * (tokens // length), length, size)


def operand(reader: Context, node: Node, *, transposed: bool = False) -> Operand:
    """Read one factor of a product of hidden states: which tokens and coordinates of which projection."""
    value = reader.values[node]
    if isinstance(value, View):
        index = value.index.transpose(-1, -2) if transposed else value.index
        index = _apart(index if index.dim() == 3 else index[None], value.term.width)
        rows, columns = index // value.term.width, index % value.term.width
        whole = torch.equal(rows, rows[..., :1].expand_as(rows))
        if whole and torch.equal(columns, columns[:, :1].expand_as(columns)):
            return Operand(value.term, rows[..., 0], columns[:, 0], value.scale)
    if (
        isinstance(value, Opaque)
        and not value.tables
        and len({id(entry.term) for entry in value.entries}) == 1
    ):
        return rotary.operand(reader.graph, node, value.entries[0].term, transposed=transposed)
    raise UnsupportedModuleError(
        node.module, "queries, keys or values that are no part of a linear map of the tokens, turned or not"
    )


def softmax(reader: Context, node: Node) -> Value:
    """Find scale, cap, mask and learned terms between products and softmax by trying them."""
    before, axis = node.args[0], node.args[1]
    value = reader.values[before]
    entries = value.entries if isinstance(value, Opaque) else (value,) if isinstance(value, View) else ()
    terms = {id(entry.term): entry.term for entry in entries}
    term = next(iter(terms.values()), None)
    if len(terms) != 1 or not isinstance(term, Scores) or axis % node.value.dim() != node.value.dim() - 1:
        raise UnsupportedModuleError(
            node.module, "a softmax of something else than products of queries and keys"
        )
    tables = value.tables if isinstance(value, Opaque) else ()
    size = node.value.numel()
    shape = (*term.query.rows.shape, term.width)
    if size != term.layout.numel():
        raise UnsupportedModuleError(node.module, "a softmax over other keys than the products'")
    off = {table: _without(reader.values[table], table) for table in tables}

    def answer(x: Tensor) -> Tensor:
        given = {term.at: x.reshape(term.at.value.shape), **off}
        with torch.no_grad():
            return reader.graph.run(given, [before])[0].reshape(shape)

    zero = answer(torch.zeros(shape, dtype=torch.float64))
    visible = torch.isfinite(zero) & (zero > HIDDEN)
    _check_order(node, answer, zero, visible)
    slope = (answer(torch.full(shape, 1e-4, dtype=torch.float64)) - zero)[visible] / 1e-4
    if not len(slope) or float(slope.max() - slope.min()) > 1e-6 * abs(float(slope[0])) or slope[0] <= 0:
        raise UnsupportedModuleError(
            node.module, "scores are scaled differently for different heads or tokens"
        )
    scale = float(f"{float(slope[0]):.7g}")
    constant = torch.where(visible, zero, 0.0)
    large = (answer(torch.full(shape, 1e9, dtype=torch.float64)) - zero)[visible]
    cap = float(large[0])
    softcap = None if cap > 1e8 * scale else float(f"{cap:.7g}")
    x = torch.linspace(-3, 3, shape[-1], dtype=torch.float64).expand(shape) * (softcap or 1.0) / scale
    expected = scale * x if softcap is None else softcap * torch.tanh(scale * x / softcap)
    if float((answer(x) - zero - expected)[visible].abs().max()) > 1e-5 * float(expected.abs().max()):
        raise UnsupportedModuleError(
            node.module, "scores go through a function that is no factor and no soft cap before the softmax"
        )
    bias = _bias(reader, node, tables, shape)
    probabilities = Probabilities(
        width=shape[-1],
        at=node,
        layout=torch.arange(size).reshape(node.value.shape),
        scores=term,
        scale=scale,
        softcap=softcap,
        visible=visible,
        bias=bias,
        slopes=_slopes(node, constant, visible),
    )
    return View(probabilities, probabilities.layout)


def _without(value: Value, node: Node) -> Tensor:
    """What is left of a learned term of scores without its parameters: masks that were added to it."""
    constant = value.constant if isinstance(value, Made) else None
    return torch.zeros(node.value.shape, dtype=torch.float64) if constant is None else constant


def _check_order(node: Node, answer: object, zero: Tensor, visible: Tensor) -> None:
    """Every score must depend on its own product alone, in the same order."""
    assert callable(answer)
    places = torch.randperm(zero.numel(), generator=torch.Generator().manual_seed(0))[:3]
    x = torch.zeros_like(zero)
    x.reshape(-1)[places] = 1.0
    changed = (answer(x) != zero) & visible
    expected = torch.zeros_like(visible)
    expected.reshape(-1)[places] = True
    if not torch.equal(changed, expected & visible):
        raise UnsupportedModuleError(node.module, "scores are mixed or moved between products and softmax")


def _bias(reader: Context, node: Node, tables: tuple[Node, ...], shape: tuple[int, ...]) -> Bias | None:
    if not tables:
        return None
    known = reader.values[tables[0]]
    weight = made.table(known) if isinstance(known, Made) else None
    if len(tables) > 1 or weight is None or weight.scale != 1 or weight.offset:
        raise UnsupportedModuleError(
            node.module, "scores get a learned term that is no table of relative positions as it stands"
        )
    return rotary.relative_bias(node, weight, reader.graph, shape)


def _slopes(node: Node, constant: Tensor, visible: Tensor) -> Tensor | None:
    """ALiBi: constant terms slope * (key - query), up to what all keys of a query share."""
    if not bool(constant.any()):
        return None
    _count, tokens, sources = constant.shape
    distance = (torch.arange(sources) - torch.arange(tokens)[:, None]).double().expand_as(constant)
    if tokens != sources:
        raise UnsupportedModuleError(node.module, "constant terms of the scores that are no mask")
    own = torch.diagonal(constant, dim1=1, dim2=2)[..., None]
    relative = torch.where(visible, constant - own, 0.0)
    for shape in (distance, -distance.abs()):
        known = torch.where(visible, shape, 0.0)
        slopes = (relative * known).sum((1, 2)) / known.square().sum((1, 2))
        if bool((relative - slopes[:, None, None] * known).abs().max() < 1e-4 * relative.abs().max()):
            return slopes
    raise UnsupportedModuleError(
        node.module, "scores get constant terms that are neither a mask nor proportional to the distance"
    )


def mixed(reader: Context, node: Node, weights: View, values: Node) -> Value:
    """Probabilities (products, queries, keys) times values (products, keys, size)."""
    probabilities = weights.term
    assert isinstance(probabilities, Probabilities)
    value = operand(reader, values)
    query, key = probabilities.scores.query, probabilities.scores.key
    value = repeated(value, len(query.rows) // len(value.rows))
    if not torch.equal(weights.index.reshape(-1), torch.arange(weights.index.numel())):
        raise UnsupportedModuleError(node.module, "attention weights are moved before they mix values")
    if not torch.equal(value.rows, key.rows):
        raise UnsupportedModuleError(node.module, "values of other tokens than the keys'")
    heads, head = _heads(node, probabilities, value)
    size = heads.value.shape[1]
    width = len(heads.query) * size
    column = head[:, None, None] * size + torch.arange(size)
    layout = (query.rows[..., None] * width + column).reshape(node.value.shape)
    term = Mixed(width=width, at=node, layout=layout, probabilities=probabilities, value=value, heads=heads)
    return View(term, layout, weights.scale * value.scale)


def _heads(node: Node, probabilities: Probabilities, value: Operand) -> tuple[Heads, Tensor]:
    """Sort products into sequences and heads."""
    query, key = probabilities.scores.query, probabilities.scores.key
    sequences, sequence = rotary.distinct(query.rows)
    queries, head = rotary.distinct(query.columns)
    keys, key_head = rotary.distinct(key.columns)
    values, value_head = rotary.distinct(value.columns)
    batch, count, groups = len(sequences), len(queries), len(keys)
    pairs = {(int(s), int(h)) for s, h in zip(sequence, head, strict=True)}
    if len(pairs) != batch * count or len(query.rows) != batch * count or count % groups:
        raise UnsupportedModuleError(node.module, "products that are no heads by sequences")
    # Heads that share a key stand together here.
    group = torch.tensor([int(key_head[(head == h).nonzero()[0, 0]]) for h in range(count)])
    order = group.argsort(stable=True)
    queries, head = queries[order], order.argsort()[head]
    if not torch.equal(key_head, head // (count // groups)):
        raise UnsupportedModuleError(node.module, "keys that are not shared by equal numbers of heads")
    if len(values) != groups or not torch.equal(value_head, key_head):
        raise UnsupportedModuleError(node.module, "values with other heads than keys")
    first = torch.tensor([int((sequence == s).nonzero()[0]) for s in range(batch)])
    visible = probabilities.visible[first]
    for s in range(batch):
        if not bool((probabilities.visible[sequence == s] == visible[s]).all()):
            raise UnsupportedModuleError(node.module, "heads that see different keys")
    slopes = None
    if probabilities.slopes is not None:
        found = [probabilities.slopes[(head == h).nonzero()[0, 0]] for h in range(count)]
        slopes = tuple(float(f"{float(x):.7g}") for x in found)
    heads = Heads(sequences, key.rows[first], queries, keys, values, visible, slopes)
    return heads, head
