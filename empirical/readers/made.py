"""What parameters make before any token meets another: weights as they stand, embeddings, patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from empirical.readers.context import Context
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import Features, Made, Rows, Value, Weight
from empirical.readers.trace import Node


def leaf(node: Node) -> Made:
    """A parameter as it stands, or given vectors."""
    shape = tuple(node.value.shape)
    if node.leaf == "parameter":
        index = torch.arange(node.value.numel()).reshape(shape)
        return Made((Rows(node.name, index),), None, shape)
    return Made((), node.value.double(), shape, tokens=True)


def moved(node: Node, part: Node, values: Tensor) -> Tensor:
    """Move integers in the place of a node's input just as the operation moves its entries."""
    if node.op in ("aten._to_copy", "aten.lift_fresh", "aten.detach", "aten.alias"):
        return values
    if node.op in ("aten.view", "aten._unsafe_view", "aten.reshape"):
        return values.reshape(node.value.shape)  # integers may lie in memory otherwise than entries do

    def swap(argument: Any) -> Any:
        if argument is part:
            return values
        if isinstance(argument, Node):
            return argument.value
        return [swap(x) for x in argument] if isinstance(argument, list | tuple) else argument

    args = [swap(argument) for argument in node.args]
    kwargs = {key: swap(x) for key, x in node.kwargs.items() if key != "memory_format"}
    result = node.target(*args, **kwargs)
    return result if node.output is None else result[node.output]


def move(value: Made, change: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, tokens: bool) -> Made:
    """Move entries of parameters and constants alike."""
    parts: list[Rows | Features] = []
    for part in value.parts:
        if isinstance(part, Rows):
            parts.append(replace(part, index=change(part.index)))
        else:
            parts.append(replace(part, row=change(part.row), column=change(part.column)))
    constant = None if value.constant is None else change(value.constant)
    return Made(tuple(parts), constant, shape, value.tokens or tokens)  # made here, for all that is known


def seen(part: Node, before: Made, after: Made, change: Callable[[Tensor], Tensor]) -> Made:
    """Remember of which node a view shows the entries."""
    place = before.place
    if place is None:
        place = torch.arange(math.prod(before.shape)).reshape(before.shape)
    return replace(after, origin=before.origin or part, place=change(place))


def weight(value: Made) -> Weight | None:
    """A parameter that is used as it stands, up to a factor and a number added; None for anything else."""
    part = value.parts[0] if len(value.parts) == 1 else None
    if not isinstance(part, Rows):
        return None
    offset = 0.0
    if value.constant is not None:
        offset = float(value.constant.reshape(-1)[0])
        if not bool((value.constant == offset).all()):
            return None
    if bool((part.index < 0).any()):
        return None
    return Weight(part.name, part.index, part.scale, offset)


def table(value: Made) -> Weight | None:
    """Entries of one parameter with -1 where a mask is put over them."""
    if len(value.parts) != 1 or not isinstance(value.parts[0], Rows):
        return None
    return Weight(value.parts[0].name, value.parts[0].index, value.parts[0].scale)


def scale(value: Made, factor: float) -> Made:
    """Times a number."""
    parts = tuple(replace(part, scale=part.scale * factor) for part in value.parts)
    constant = None if value.constant is None else value.constant * factor
    return replace(value, parts=parts, constant=constant, origin=None, place=None)


def add(node: Node, a: Any, left: Value | None, b: Any, right: Value | None, factor: float) -> Made:
    """A sum of what parameters and constants make: left + factor * right."""
    shape = tuple(node.value.shape)
    parts: list[Rows | Features] = []
    constant = torch.zeros(shape, dtype=torch.float64)
    tokens = isinstance(left, Made) and isinstance(right, Made)
    for argument, value, times in ((a, left, 1.0), (b, right, factor)):
        if isinstance(value, Made):
            spread = move(scale(value, times), lambda x: x.expand(shape), shape, tokens=False)
            parts += spread.parts
            tokens = tokens or value.tokens
            if spread.constant is not None:
                constant = constant + spread.constant
        else:
            known = argument.value.double() if isinstance(argument, Node) else float(argument)
            constant = constant + times * known
    return Made(tuple(parts), constant if bool((constant != 0).any()) else None, shape, tokens)


def chosen(node: Node, value: Made, keep: Tensor, other: Tensor) -> Made:
    """Entries of a value where ``keep`` is True, constants elsewhere."""
    shape = tuple(node.value.shape)
    keep = keep.expand(shape)
    spread = move(value, lambda x: x.expand(shape), shape, tokens=False)
    parts: list[Rows | Features] = []
    for part in spread.parts:
        if isinstance(part, Rows):
            parts.append(replace(part, index=torch.where(keep, part.index, -1)))
        else:
            parts.append(replace(part, row=torch.where(keep, part.row, -1)))
    own = torch.zeros(shape, dtype=torch.float64) if spread.constant is None else spread.constant
    return replace(spread, parts=tuple(parts), constant=torch.where(keep, own, other.double()))


def lookup(node: Node, value: Value) -> Made:
    """Rows of a table."""
    if not isinstance(value, Made) or weight(value) is None:
        raise UnsupportedModuleError(node.module, "an embedding whose table is no parameter as it stands")
    ids = node.args[1].value
    return move(value, lambda index: index[ids], tuple(node.value.shape), tokens=True)


def join(
    node: Node, parts: Sequence[Node], values: Sequence[Value | None], put: Callable[..., Tensor], axis: int
) -> Made:
    """Put together what parameters and constants make."""
    shape = tuple(node.value.shape)
    found: list[Rows | Features] = []
    for place, value in enumerate(values):
        for part in value.parts if isinstance(value, Made) else ():

            def lay(index: Tensor, empty: int, place: int = place) -> Tensor:
                blank = [torch.full(tuple(other.value.shape), empty) for other in parts]
                blank[place] = index
                return put(blank, axis)

            if isinstance(part, Rows):
                found.append(replace(part, index=lay(part.index, -1)))
            else:
                found.append(replace(part, row=lay(part.row, -1), column=lay(part.column, 0)))
    constants = [
        (torch.zeros(value.shape, dtype=torch.float64) if value.constant is None else value.constant)
        if isinstance(value, Made)
        else part.value.double()
        for part, value in zip(parts, values, strict=True)
    ]
    constant = put(constants, axis)
    return Made(tuple(found), constant if bool((constant != 0).any()) else None, shape, tokens=True)


def given_once(reader: Context, node: Node) -> bool:
    """Whether given vectors are read by one operation alone, as by a projection in front of the stack."""
    value = reader.values[node]
    return isinstance(value, Made) and not value.parts and value.tokens and read_once(reader, node)


def read_once(reader: Context, node: Node) -> bool:
    """Whether a single operation reads what was made, through views or not."""
    value = reader.values[node]
    origin = value.origin if isinstance(value, Made) else None
    while reader.uses.get(node, 0) == 1:
        if node is (origin or node) or node.leaf is not None:
            return True
        node = next(part for part in node.inputs if part.variable)
    return False


def features(node: Node, x: Node, matrix: Weight) -> Made:
    """Constant features times a matrix."""
    given = x.value.double().reshape(-1, x.value.shape[-1])  # (rows, k)
    rows, width = len(given), matrix.index.shape[1]
    row = torch.arange(rows)[:, None].expand(rows, width).reshape(node.value.shape)
    column = torch.arange(width)[None].expand(rows, width).reshape(node.value.shape)
    part = Features(matrix.name, given, matrix.index, row, column, matrix.scale)
    return Made((part,), None, tuple(node.value.shape), tokens=True)


def convolution(reader: Context, node: Node) -> Made:
    """Patches of a constant image, or windows of a constant signal, times a matrix."""
    x, kernel, bias, stride, padding, dilation, transposed, _, groups = node.args
    known = reader.values.get(kernel)
    table = weight(known) if isinstance(known, Made) else None
    source = reader.values.get(x)
    constant = source is None or (isinstance(source, Made) and not source.parts)
    if not constant or table is None or transposed or groups != 1 or table.index.dim() not in (3, 4):
        raise UnsupportedModuleError(
            node.module, "a convolution of hidden states has no counterpart: only one of the input is read"
        )
    pixels, index = x.value.double(), table.index
    if index.dim() == 3:  # a signal is an image of height 1
        pixels, index = pixels[:, :, None], index[:, :, None]
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    padding = [*padding] * (2 // len(padding))  # one number for both axes
    steps = tuple(dilation), tuple(padding), tuple(stride)
    windows = torch.nn.functional.unfold(pixels, tuple(index.shape[2:]), *steps)  # (b, k, places)
    batch, size, places = windows.shape
    given = windows.transpose(1, 2).reshape(batch * places, size)
    width = index.shape[0]
    row = torch.arange(batch * places).reshape(batch, 1, places).expand(batch, width, places)
    column = torch.arange(width)[None, :, None].expand(batch, width, places)
    shape = tuple(node.value.shape)
    matrix = index.reshape(width, size).T
    part = Features(table.name, given, matrix, row.reshape(shape), column.reshape(shape), table.scale)
    made = Made((part,), None, shape, tokens=True)
    if bias is None:
        return made
    shift = reader.values.get(bias)
    assert isinstance(shift, Made)
    spread = [1, width] + [1] * (len(shape) - 2)
    beside = move(shift, lambda i: i.reshape(spread).expand(shape), shape, tokens=False)
    return replace(made, parts=(*made.parts, *beside.parts))
