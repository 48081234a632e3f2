"""Matrix products, norms in one piece, tables and attention: operations with a meaning of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from empirical.readers import attention, made
from empirical.readers.context import Context
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import (
    Made,
    Map,
    Normed,
    Opaque,
    Probabilities,
    Take,
    Unknown,
    Value,
    View,
    Weight,
    arrange,
    scalar,
)
from empirical.readers.trace import Node


def matmul(reader: Context, node: Node) -> Value:
    """A linear map of tokens, products of queries and keys, or mixing of values."""
    a, b = node.args[0], node.args[1]
    left, right = reader.values.get(a), reader.values.get(b)
    if isinstance(right, Made) and not right.tokens:
        return _linear(reader, node, a, right)
    if isinstance(left, Made) and not left.tokens:
        raise UnsupportedModuleError(
            node.module, "a parameter multiplies hidden states from the left: it would mix tokens"
        )
    for part, value in ((a, left), (b, right)):
        if value is None:
            raise UnsupportedModuleError(node.module, "a constant matrix mixes hidden states")
        if isinstance(value, Made):
            reader.root(part, value)
    left = reader.values[a]
    if isinstance(left, View) and isinstance(left.term, Probabilities):
        return attention.mixed(reader, node, left, b)
    return attention.scores(reader, node, a, b)


def _linear(reader: Context, node: Node, x: Node, matrix: Made) -> Value:
    """Rows times a parameter."""
    weight = made.weight(matrix)
    if weight is not None and weight.index.dim() == 3 and bool((weight.index == weight.index[:1]).all()):
        weight = replace(weight, index=weight.index[0])
    if weight is None or weight.offset or weight.index.dim() != 2:
        raise UnsupportedModuleError(
            node.module,
            "a matrix that is no parameter as it stands: its entries are computed or put together",
        )
    if not x.variable or made.given_once(reader, x):
        return made.features(node, x, weight)
    factor, term, rows = reader.term(x)
    if term.width != len(weight.index):
        raise UnsupportedModuleError(node.module, "a matrix of another size than its input")
    while isinstance(term, Take) and _sorted(term):
        # The matrix reads columns in another order, as of heads that are sorted here.
        weight, term = replace(weight, index=weight.index[term.columns.argsort()]), term.x
    width = weight.index.shape[1]
    layout = arrange(rows, width)
    unit, read = replace(weight, scale=1.0), reader.scaled(term, factor)
    return View(Map(width=width, at=node, layout=layout, x=read, weight=unit), layout, weight.scale)


def _sorted(term: Take) -> bool:
    """Whether it takes every column once, in another order."""
    whole = torch.arange(term.x.width)
    return term.width == term.x.width and torch.equal(term.columns.sort().values, whole)


def layer_norm(reader: Context, node: Node) -> Value:
    """LayerNorm in one piece."""
    x, shape, gain, shift, eps = node.args[:5]
    return _norm(reader, node, x, shape, (gain, shift), "layernorm", float(eps))


def rms_norm(reader: Context, node: Node) -> Value:
    """RMSNorm in one piece."""
    x, shape, gain, eps = node.args[:4]
    eps = torch.finfo(x.value.dtype).eps if eps is None else float(eps)
    return _norm(reader, node, x, shape, (gain, None), "rmsnorm", eps)


def _norm(
    reader: Context, node: Node, x: Node, shape: Any, affine: tuple[Any, Any], kind: str, eps: float
) -> Value:
    if node.output:
        return Unknown(node.module, "the moments of a norm are used by themselves")
    if len(shape) != 1:
        raise UnsupportedModuleError(node.module, "a norm over several axes")
    if not x.variable:
        raise UnsupportedModuleError(node.module, "a norm of constants")
    value = reader.values[x]
    if isinstance(value, Made):
        value = reader.root(x, value)
    if isinstance(value, Opaque):
        scale, term, rows = reader.term(x)
        value = View(term, arrange(rows, term.width), scale)
    assert isinstance(value, View)
    sign = math.copysign(1.0, value.scale)
    view = reader.normed(node, replace(value, scale=1.0), kind, eps / value.scale**2, sign)
    assert isinstance(view.term, Normed)
    gain, shift = (
        _affine(reader, node, part, neutral) for part, neutral in zip(affine, (1.0, 0.0), strict=True)
    )
    return replace(view, term=replace(view.term, gain=gain, shift=shift))


def _affine(reader: Context, node: Node, part: Any, neutral: float) -> Weight | None:
    """Gain or shift of a norm; None where there is none, or a constant without effect."""
    if part is None or (not part.variable and scalar(part) == neutral):
        return None
    known = reader.values.get(part)
    weight = made.weight(known) if isinstance(known, Made) else None
    if weight is None:
        raise UnsupportedModuleError(node.module, "a norm whose gain or shift is no parameter as it stands")
    return weight


def embedding(reader: Context, node: Node) -> Value:
    """Rows of a table."""
    return made.lookup(node, reader.values[node.args[0]])


PRODUCTS: dict[str, Callable[[Context, Node], Value]] = {
    "aten.mm": matmul,
    "aten.bmm": matmul,
    "aten.native_layer_norm": layer_norm,
    "aten._fused_rms_norm": rms_norm,
    "aten.embedding": embedding,
    "aten.convolution": made.convolution,
    "aten._softmax": attention.softmax,
    "aten._safe_softmax": attention.softmax,
}
"""Rules by operation."""
