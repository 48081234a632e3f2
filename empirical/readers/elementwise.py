"""Sums, products and masks entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from empirical.readers import made
from empirical.readers.context import Context
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import (
    Gained,
    Made,
    Map,
    Normed,
    Opaque,
    Product,
    Sum,
    Term,
    Unknown,
    Value,
    View,
    Weight,
    arrange,
    of_scores,
    scalar,
)
from empirical.readers.trace import Node


def _shape(value: Value | None) -> tuple[int, ...] | None:
    match value:
        case View(index=index):
            return tuple(index.shape)
        case Made(shape=shape):
            return shape
        case _:
            return None


def _vector(value: Made, shape: tuple[int, ...]) -> Weight | None:
    """A parameter that stands beside columns, the same for all tokens and heads."""
    weight = made.weight(value)
    if weight is None or value.shape[-1:] not in ((), (1,), shape[-1:]):
        return None
    index = weight.index.expand(shape).reshape(-1, shape[-1])
    return replace(weight, index=index[0]) if bool((index == index[0]).all()) else None


def add(reader: Context, node: Node) -> Value:
    """Sum a + factor * b: what enters, a bias, a shift, or a residual sum."""
    a, b = node.args[0], node.args[1]
    factor = (-1.0 if node.op == "aten.sub" else 1.0) * float(node.kwargs.get("alpha", 1))
    if node.op == "aten.rsub":
        a, b, factor = b, a, -1.0
    left, right = (reader.values.get(x) if isinstance(x, Node) else None for x in (a, b))
    shape = tuple(node.value.shape)
    for value, other, times in ((left, b, 1.0), (right, a, factor)):
        if scalar(other) == 0 and times == 1 and value is not None and _shape(value) == shape:
            return value
    if not isinstance(left, View | Opaque) and not isinstance(right, View | Opaque):
        return made.add(node, a, left, b, right, factor)
    for value, other_value, times in ((left, right, factor), (right, left, 1.0)):
        if isinstance(value, View) and isinstance(other_value, Made):
            moved = _shifted(node, value, other_value, times)
            if moved is not None and (times == factor or factor == 1):
                return moved
    joined = _sum(reader, node, a, b, factor)
    return reader.opaque(node) if joined is None else joined


def _shifted(node: Node, view: View, vector: Made, factor: float) -> Value | None:
    """A linear map with its bias, or a norm with its shift."""
    shift = _vector(vector, tuple(node.value.shape))
    term, width = view.term, view.term.width
    if shift is not None and width > 1 and bool((shift.index == shift.index[0]).all()):
        return None  # one number for all columns is neither a bias nor a shift
    if shift is None or view.index.shape != node.value.shape or view.index.shape[-1] != width:
        return None
    columns = view.index.reshape(-1, width) % width
    if not torch.equal(columns, torch.arange(width).expand_as(columns)):
        return None
    times = factor / view.scale
    scaled = replace(shift, scale=shift.scale * times, offset=shift.offset * times)
    if isinstance(term, Map) and term.bias is None:
        return replace(view, term=replace(term, bias=scaled, at=node, layout=view.index))
    if isinstance(term, Normed) and term.shift is None and term.kind != "centred":
        return replace(view, term=replace(term, shift=scaled, at=node, layout=view.index))
    return None


def _sum(reader: Context, node: Node, a: Any, b: Any, factor: float) -> Value | None:
    """A sum of two token matrices, where it is one."""
    values = [reader.values.get(x) if isinstance(x, Node) else None for x in (a, b)]
    if any(value is None or of_scores(value) or _mixes(value) for value in values):
        return None
    if _same_entries(*values) or a.value.shape != b.value.shape:
        return None
    try:
        (first, left, rows), (second, right, others) = reader.term(a), reader.term(b)
    except UnsupportedModuleError as error:
        return Unknown(error.module, error.why)
    if left.width != right.width or not torch.equal(rows, others):
        raise UnsupportedModuleError(node.module, "a sum of different tokens")
    layout = arrange(rows, left.width)
    parts = ((first, left), (factor * second, right))
    return View(Sum(width=left.width, at=node, layout=layout, parts=parts), layout)


def _mixes(value: Value | None) -> bool:
    return isinstance(value, Opaque) and value.index is None


def _same_entries(left: Value | None, right: Value | None) -> bool:
    """Whether two values are functions of the same entries of one term."""
    (first, index), (second, other) = _entries(left), _entries(right)
    return first is not None and first is second and index is not None and torch.equal(index, other)


def _entries(value: Value | None) -> tuple[Term | None, Any]:
    match value:
        case View(term=term, index=index):
            return term, index
        case Opaque(entries=entries, index=index):
            return entries[0].term, index
        case _:
            return None, None


def multiply(reader: Context, node: Node) -> Value:
    """Product a * b or a / b: a factor, a learned gain, or two branches multiplied."""
    a, b = node.args[0], node.args[1]
    divide = node.op == "aten.div"
    left, right = (reader.values.get(x) if isinstance(x, Node) else None for x in (a, b))
    scaled = _times(reader, a, b, node, divide=divide)
    if scaled is None and not divide:
        scaled = _times(reader, b, a, node, divide=False)
    if scaled is not None or divide:
        return scaled if scaled is not None else reader.opaque(node)
    for x, value, other in ((a, left, right), (b, right, left)):
        if isinstance(other, Made) and not other.tokens and value is not None:
            if isinstance(value, Made):
                reader.root(x, value)
            return _gained(reader, node, x, other)
    apart = not _mixes(left) and not _mixes(right) and _shapes_agree(left, right)
    if apart and not _same_entries(left, right):
        return _product(reader, node, a, b)
    return reader.opaque(node)


def _shapes_agree(left: Value | None, right: Value | None) -> bool:
    (_, index), (_, other) = _entries(left), _entries(right)
    return index is not None and other is not None and index.shape == other.shape


def _times(reader: Context, x: Any, other: Any, node: Node, *, divide: bool) -> Value | None:
    """A multiple of a value, where the other factor is a number."""
    number = scalar(other)
    value = reader.values.get(x) if isinstance(x, Node) else None
    if number is None or value is None or (divide and number == 0):
        return None
    number = 1 / number if divide else number
    if isinstance(value, Made) and value.tokens and not made.read_once(reader, x):
        value = reader.root(x, value)  # others read the same vectors
    if isinstance(value, View) and value.index.shape == node.value.shape:
        return replace(value, scale=value.scale * number)
    return made.scale(value, number) if isinstance(value, Made) else None


def _gained(reader: Context, node: Node, x: Node, factor: Made) -> Value:
    """Times a parameter: the gain of a norm, or a learned factor for each column."""
    value = reader.values[x]
    if isinstance(value, Opaque):
        scale, term, rows = reader.term(x)
        value = View(term, arrange(rows, term.width), scale)
    assert isinstance(value, View)
    gain = _vector(factor, tuple(node.value.shape)) if value.index.shape == node.value.shape else None
    if gain is None:
        raise UnsupportedModuleError(
            node.module, "a parameter multiplies different tokens or heads differently"
        )
    term = value.term
    single = term.width > 1 and bool((gain.index == gain.index[0]).all())  # one factor for all columns
    bare = isinstance(term, Normed) and term.gain is None and term.shift is None and term.kind != "centred"
    if isinstance(term, Normed) and bare and not single:
        return replace(value, term=replace(term, gain=gain, at=node, layout=value.index))
    if isinstance(reader.values[x], View):
        scale, term, rows = reader.term(x)
    else:
        scale, rows = value.scale, value.index[..., 0] // term.width
    gain = replace(gain, index=_distinct(node, gain.index))
    layout = arrange(rows, term.width)
    return View(Gained(width=term.width, at=node, layout=layout, x=term, gain=gain), layout, scale)


def _distinct(node: Node, index: Tensor) -> Tensor:
    """The factors of a gain: one for each column, for each of equal blocks of columns, or for all."""
    found, counts = torch.unique_consecutive(index, return_counts=True)
    if len(set(counts.tolist())) > 1 or len(set(found.tolist())) < len(found):
        raise UnsupportedModuleError(node.module, "learned factors for columns that stand in no equal blocks")
    return found


def _product(reader: Context, node: Node, a: Node, b: Node) -> Value:
    """Two hidden states multiplied entry by entry, as in a gated network."""
    (first, left, rows), (second, right, others) = reader.term(a), reader.term(b)
    if left.width != right.width or not torch.equal(rows, others):
        raise UnsupportedModuleError(node.module, "a product of different tokens")
    layout = arrange(rows, left.width)
    return View(Product(width=left.width, at=node, layout=layout, a=left, b=right), layout, first * second)


def choose(reader: Context, node: Node) -> Value:
    """A mask put over what parameters make; over hidden states it is a function like any other."""
    if node.op == "aten.masked_fill":
        part, hidden, fill = node.args[:3]
        keep = ~hidden.value
    else:
        condition, part, fill = node.args[:3]
        keep = condition.value
        if isinstance(fill, Node) and fill.variable:
            part, fill, keep = fill, part, ~keep
    value = reader.values.get(part) if isinstance(part, Node) else None
    variable = isinstance(fill, Node) and fill.variable
    if not isinstance(value, Made) or variable or not node.value.is_floating_point():
        return reader.opaque(node)
    other = fill.value if isinstance(fill, Node) else torch.tensor(float(fill))
    return made.chosen(node, value, keep, other)


def join(reader: Context, node: Node) -> Value:
    """Tensors put together: class token and patches, an empty cache and keys, halves that turn."""
    parts, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    put = torch.stack if node.op == "aten.stack" else torch.cat
    values = [reader.values.get(part) for part in parts]
    filled = [(part, value) for part, value in zip(parts, values, strict=True) if part.value.numel()]
    if all(value is None or isinstance(value, Made) for value in values):
        return made.join(node, parts, values, put, axis)
    views = [value for _, value in filled if isinstance(value, View)]
    if len(views) < len(filled) or len({(id(view.term), view.scale) for view in views}) > 1:
        return reader.opaque(node)
    indices = [view.index for view in views]
    return replace(views[0], index=put(indices, axis))


ELEMENTWISE: dict[str, Callable[[Context, Node], Value]] = {
    "aten.add": add,
    "aten.add_": add,
    "aten.sub": add,
    "aten.rsub": add,
    "aten.mul": multiply,
    "aten.mul_": multiply,
    "aten.div": multiply,
    "aten.cat": join,
    "aten.stack": join,
    "aten.where": choose,
    "aten.masked_fill": choose,
}
"""Rules by operation."""
