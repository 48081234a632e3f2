"""From the operations of a pass to terms: what every tensor means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from empirical.readers import attention, made, probing
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import (
    Activated,
    Capped,
    Features,
    Gained,
    Made,
    Map,
    Mixed,
    Normed,
    Opaque,
    Probabilities,
    Product,
    Root,
    Scaled,
    Scores,
    Sum,
    Take,
    Term,
    Unknown,
    Value,
    View,
    Weight,
    arrange,
)
from empirical.readers.trace import Graph, Node

VIEWS = frozenset(
    "aten." + name
    for name in (
        "view _unsafe_view reshape transpose permute t unsqueeze squeeze expand slice select split chunk "
        "split_with_sizes unbind clone alias detach _to_copy contiguous lift_fresh repeat flatten unflatten "
        "index_select index narrow movedim swapaxes view_as expand_as _reshape_alias flip"
    ).split()
)
"""Operations that move entries and change none."""


class Interpreter:
    """Reads a pass, node by node.

    Args:
        graph: The pass.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[Node, Value] = {}
        self.terms: dict[Node, tuple[float, Term, Tensor]] = {}
        self.roots: dict[Node, Root] = {}
        self.multiples: dict[tuple[int, float], Scaled] = {}
        self.uses: dict[Node, int] = {}
        for node in graph.nodes:
            for part in node.inputs:
                self.uses[part] = self.uses.get(part, 0) + 1

    def read(self) -> None:
        """Find the value of every node that depends on parameters or vectors."""
        for node in self.graph.nodes:
            if not node.variable:
                continue
            try:
                self.values[node] = self._value(node)
            except UnsupportedModuleError as error:
                self.values[node] = Unknown(error.module, error.why)

    def term(self, node: Node) -> tuple[float, Term, Tensor]:
        """Read a node as a whole token matrix.

        Args:
            node: The node.

        Returns:
            A factor, the term of which it is that multiple, and the rows of the term by the node's axes but
            the last.

        Raises:
            UnsupportedModuleError: If it is no such thing.
        """
        if node not in self.terms:
            self.terms[node] = self._term(node, self.values[node])
        return self.terms[node]

    def _term(self, node: Node, value: Value) -> tuple[float, Term, Tensor]:
        if isinstance(value, Unknown):
            raise UnsupportedModuleError(value.module, value.why)
        if isinstance(value, Made):
            value = self.root(node, value)
        if isinstance(value, View):
            term, rows = self._columns(node, value.term, value.index)
            return value.scale, term, rows
        if value.index is None:
            raise _refusal(node, f"{node.op} of hidden states is no norm or activation that is known")
        base = value.entries[0].term
        term, rows = self._columns(node, base, value.index)
        found = probing.activation_of(self.graph, base, value.index, node)
        if found is not None:
            name, factor = found
            if name == "identity":
                return factor, term, rows
            return (
                factor,
                Activated(
                    width=term.width, at=node, layout=_whole(rows, term.width), x=term, activation=name
                ),
                rows,
            )
        capped = probing.cap_of(self.graph, base, value.index, node)
        if capped is not None:
            cap, slope = capped
            inner = self.scaled(term, slope)
            return (
                1.0,
                Capped(width=term.width, at=node, layout=_whole(rows, term.width), x=inner, cap=cap),
                rows,
            )
        raise _refusal(
            node,
            f"{node.op} is no activation that is known: accepted are {', '.join(sorted(probing.ACTIVATIONS))}",
        )

    def _columns(self, node: Node, term: Term, index: Tensor) -> tuple[Term, Tensor]:
        """The columns of a term that a view shows in full, and which of its rows."""
        last = index.shape[-1] if index.dim() else 1
        flat = index.reshape(-1, last)
        rows, columns = flat[:, 0] // term.width, flat[0] % term.width
        if not torch.equal(flat, rows[:, None] * term.width + columns):
            raise _refusal(node, f"{node.op} reads parts of several tokens or heads at once")
        return take(term, columns), rows.reshape(index.shape[:-1])

    def scaled(self, term: Term, factor: float) -> Term:
        """A multiple of a term, the same object each time."""
        if factor == 1:
            return term
        known = self.multiples.get((id(term), factor))
        if known is None:
            place = {"width": term.width, "at": term.at, "layout": term.layout}
            known = self.multiples[id(term), factor] = Scaled(**place, x=term, factor=factor)
        return known

    def root(self, node: Node, value: Made) -> View:
        """Vectors enter here."""
        if not value.tokens or len(value.shape) < 2:
            raise _refusal(
                node, f"{node.op} of a parameter is not understood: give parameters that are used as they are"
            )
        origin, place = value.origin or node, value.place
        count = math.prod(value.shape)
        place = torch.arange(count).reshape(value.shape) if place is None else place
        if origin not in self.roots:
            whole = origin.value.numel() == count and len(torch.unique(place)) == count
            if not whole:
                origin, place = node, torch.arange(count).reshape(value.shape)
            layout = torch.empty(count, dtype=torch.long)
            layout[place.reshape(-1)] = torch.arange(count)
            layout = layout.reshape(origin.value.shape)
            self.roots[origin] = Root(width=value.shape[-1], at=origin, layout=layout, made=value)
        root = self.roots[origin]
        view = View(root, root.layout.reshape(-1)[place])
        self.values[node] = view
        return view

    def _value(self, node: Node) -> Value:
        if node.leaf is not None:
            return made.leaf(node)
        inputs = [part for part in node.inputs if part.variable]
        for part in inputs:
            value = self.values[part]
            if isinstance(value, Unknown):
                return value
        if node.op in VIEWS:
            return self._view(node, inputs)
        handler = HANDLERS.get(node.op)
        if handler is not None:
            return handler(self, node)
        return self.opaque(node)

    def _view(self, node: Node, inputs: list[Node]) -> Value:
        (part,) = inputs
        value = self.values[part]

        def move(index: Tensor) -> Tensor:
            return made.moved(node, part, index)

        if isinstance(value, Made):
            gathered = node.op in ("aten.index", "aten.index_select")
            turned = made.move(value, move, tuple(node.value.shape), tokens=gathered)
            return turned if gathered else made.seen(part, value, turned, move)
        if isinstance(value, View):
            return replace(value, index=move(value.index))
        assert isinstance(value, Opaque)
        return replace(value, index=None if value.index is None else move(value.index))

    def opaque(self, node: Node, *, reduced: bool = False) -> Value:
        """A function whose meaning is found out later, or at once where it is a norm."""
        entries: list[View] = []
        tables: list[Node] = []
        indices: list[Tensor | None] = []
        # Beside products of queries and keys a table is a learned term of scores, no row of tokens.
        scored = any(_only_scores(self.values[part]) for part in node.inputs if part.variable)
        for part in node.inputs:
            if not part.variable:
                # Pointwise functions know constants that are one number.
                indices += [] if scalar(part) is not None else [None]
                continue
            value = self.values[part]
            if isinstance(value, Made) and value.tokens and not scored:
                value = self.root(part, value)
            if isinstance(value, Made):
                tables.append(part)
                indices.append(None)
            elif isinstance(value, View):
                entries.append(value)
                indices.append(value.index)
            else:
                assert isinstance(value, Opaque)
                entries += value.entries
                tables += value.tables
                reduced = reduced or value.reduced
                indices.append(value.index)
        if not entries:
            raise _refusal(node, f"{node.op} of parameters alone is not understood")
        unique = list({(id(entry.term), id(entry.index)): entry for entry in entries}.values())
        first = indices[0]
        pointwise = (
            not reduced
            and first is not None
            and first.shape == node.value.shape
            and all(index is not None and torch.equal(index, first) for index in indices)
            and len({id(entry.term) for entry in unique}) == 1
        )
        value = Opaque(tuple(unique), first if pointwise else None, reduced, tuple(dict.fromkeys(tables)))
        return self._norm(node, value) if reduced and not tables else value

    def _norm(self, node: Node, value: Opaque) -> Value:
        """Whether a function with sums over coordinates is a norm by now."""
        if node.op not in ("aten.mul", "aten.div", "aten.sub"):
            return value
        bases = {id(_base(entry.term)): entry for entry in value.entries}
        entry = value.entries[0]
        if len(bases) > 1 or entry.index.shape != node.value.shape:
            return value
        base = _base(entry.term)
        found = probing.norm_of(self.graph, base, entry.index, node)
        if found is None:
            return value
        kind, eps, factor = found
        return self.normed(node, View(base, entry.index), kind, eps, factor)

    def normed(self, node: Node, view: View, kind: str, eps: float, factor: float) -> View:
        """The norm of a view over its last axis."""
        width, last = view.term.width, view.index.shape[-1]
        flat = view.index.reshape(-1, last)
        patterns = torch.unique(flat % width, dim=0)
        if len(patterns) == 1:
            term, rows = self._columns(node, view.term, view.index)
            if kind == "rmsnorm" and isinstance(term, Normed) and term.kind == "centred":
                kind, term = "layernorm", term.x
            layout = arrange(rows, last)
            columns = torch.arange(last)[None]
            return View(
                Normed(width=last, at=node, layout=layout, x=term, kind=kind, eps=eps, groups=columns),
                layout,
                factor,
            )
        if not torch.equal(flat // width, (flat[:, :1] // width).expand_as(flat)):
            raise _refusal(node, "a norm over parts of several tokens")
        order = patterns[patterns[:, 0].argsort()]
        term = Normed(width=width, at=node, layout=view.index, x=view.term, kind=kind, eps=eps, groups=order)
        return View(term, view.index, factor)


def _base(term: Term) -> Term:
    return term.x if isinstance(term, Normed) and term.kind == "centred" else term


def _whole(rows: Tensor, width: int) -> Tensor:
    return arrange(rows, width)


def _refusal(node: Node, why: str) -> UnsupportedModuleError:
    return UnsupportedModuleError(node.module, why)


def take(term: Term, columns: Tensor) -> Term:
    """Take columns of a term; those of a linear map are a linear map."""
    if len(columns) == term.width and torch.equal(columns, torch.arange(term.width)):
        return term
    place = {"width": len(columns), "at": term.at, "layout": term.layout}
    if isinstance(term, Map):
        weight = replace(term.weight, index=term.weight.index[:, columns])
        bias = None if term.bias is None else replace(term.bias, index=term.bias.index[columns])
        return Map(**place, x=term.x, weight=weight, bias=bias)
    return Take(**place, x=term, columns=columns)


def scalar(value: Any) -> float | None:
    """The number that an argument is: a number, or a constant tensor of equal entries."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Node) and not value.variable and value.value.numel():
        flat = value.value.reshape(-1)
        if bool((flat == flat[0]).all()):
            return float(flat[0])
    return None


def _vector(view: View, made_value: Made, shape: tuple[int, ...]) -> Weight | None:
    """A parameter that stands beside the columns of a view, the same for all tokens."""
    weight = made.weight(made_value)
    if weight is None:
        return None
    index = weight.index.expand(shape).reshape(-1, shape[-1])
    return replace(weight, index=index[0]) if bool((index == index[0]).all()) else None


def _add(reader: Interpreter, node: Node) -> Value:
    a, b = node.args[0], node.args[1]
    sign = -1.0 if node.op == "aten.sub" else 1.0
    factor = sign * float(node.kwargs.get("alpha", 1))
    if node.op == "aten.rsub":
        a, b, factor = b, a, -1.0
    left, right = (reader.values.get(x) if isinstance(x, Node) else None for x in (a, b))
    if scalar(b) == 0 and isinstance(left, View | Made) and left_shape(left) == tuple(node.value.shape):
        return left
    if (
        scalar(a) == 0
        and factor == 1
        and isinstance(right, View | Made)
        and left_shape(right) == tuple(node.value.shape)
    ):
        return right
    if not isinstance(left, View | Opaque) and not isinstance(right, View | Opaque):
        return made.add(node, a, left, b, right, factor)
    for (x, value), (other, other_value), scale in (
        ((a, left), (b, right), factor),
        ((b, right), (a, left), 1.0),
    ):
        if (
            isinstance(value, View)
            and isinstance(other_value, Made)
            and other_value.shape[-1:] == node.value.shape[-1:]
        ):
            shift = _vector(value, other_value, tuple(node.value.shape))
            if shift is not None and isinstance(x, Node) and x is not other:
                shift = replace(shift, scale=shift.scale * (scale if other is b else 1.0))
                moved = _shifted(reader, node, value, shift)
                if moved is not None:
                    return moved
    both = [value for value in (left, right) if value is not None]
    if len(both) == 2 and all(not _only_scores(value) for value in both):
        joined = _sum(reader, node, a, b, factor)
        if joined is not None:
            return joined
    return reader.opaque(node)


def left_shape(value: View | Made) -> tuple[int, ...]:
    """Shape of a tensor by its value."""
    return tuple(value.index.shape) if isinstance(value, View) else value.shape


def _only_scores(value: Value) -> bool:
    views = value.entries if isinstance(value, Opaque) else (value,) if isinstance(value, View) else ()
    return any(isinstance(view.term, Scores | Probabilities) for view in views)


def _shifted(reader: Interpreter, node: Node, view: View, shift: Weight) -> Value | None:
    """A linear map with its bias, or a norm with its shift."""
    term = view.term
    scaled = replace(shift, scale=shift.scale / view.scale, offset=shift.offset / view.scale)
    if isinstance(term, Map) and term.bias is None and _is_all(view):
        return View(replace(term, bias=scaled, at=node, layout=view.index), view.index, view.scale)
    if isinstance(term, Normed) and term.shift is None and term.kind != "centred" and _is_all(view):
        return View(replace(term, shift=scaled, at=node, layout=view.index), view.index, view.scale)
    return None


def _is_all(view: View) -> bool:
    """Whether a view shows every column of whole rows in order."""
    width = view.term.width
    return view.index.shape[-1] == width and torch.equal(
        view.index.reshape(-1, width) % width, torch.arange(width).expand(view.index.numel() // width, width)
    )


def _sum(reader: Interpreter, node: Node, a: Any, b: Any, factor: float) -> Value | None:
    """A sum of token matrices."""
    values = [reader.values[x] for x in (a, b)]
    if any(isinstance(value, Opaque) and value.index is None for value in values):
        return None
    if all(isinstance(v, View | Opaque) for v in values):
        views = [v.entries[0] if isinstance(v, Opaque) else v for v in values]
        indices = [v.index for v in values]
        same = views[0].term is views[1].term and torch.equal(indices[0], indices[1])
        if same:
            return None  # a function of one view
    if len({left_shape_of(reader, x) for x in (a, b)}) > 1:
        return None
    try:
        (first, left, rows), (second, right, others) = reader.term(a), reader.term(b)
    except UnsupportedModuleError as error:
        return Unknown(error.module, error.why)
    if left.width != right.width or not torch.equal(rows, others):
        raise _refusal(node, "a sum of different tokens")
    layout = arrange(rows, left.width)
    parts = ((first, left), (factor * second, right))
    return View(Sum(width=left.width, at=node, layout=layout, parts=parts), layout)


def left_shape_of(reader: Interpreter, node: Node) -> tuple[int, ...]:
    """Shape of a node."""
    return tuple(node.value.shape)


def _mul(reader: Interpreter, node: Node) -> Value:
    a, b = node.args[0], node.args[1]
    divide = node.op == "aten.div"
    left, right = (reader.values.get(x) if isinstance(x, Node) else None for x in (a, b))
    for value, other, turned in ((left, b, False), (right, a, True)):
        number = scalar(other)
        if number is None or (divide and turned):
            continue
        number = 1 / number if divide else number
        if isinstance(value, View) and value.index.shape == node.value.shape:
            return replace(value, scale=value.scale * number)
        if isinstance(value, Made):
            return made.scale(value, number)
    if divide:
        return reader.opaque(node)
    for value, other_value in ((left, right), (right, left)):
        if isinstance(value, View | Opaque) and isinstance(other_value, Made) and not other_value.tokens:
            return _gained(reader, node, a if value is left else b, other_value)
    if isinstance(left, Made) and isinstance(right, Made):
        tokens, parameter = (a, right) if left.tokens else (b, left)
        if not parameter.tokens:
            reader.root(tokens, reader.values[tokens])
            return _gained(reader, node, tokens, parameter)
    if isinstance(left, View | Opaque) and isinstance(right, View | Opaque):
        indices = left.index, right.index
        if None not in indices and indices[0].shape == indices[1].shape:  # type: ignore[union-attr]
            terms = [v.entries[0].term if isinstance(v, Opaque) else v.term for v in (left, right)]
            if terms[0] is not terms[1] or not torch.equal(*indices):  # type: ignore[arg-type]
                return _product(reader, node, a, b)
    return reader.opaque(node)


def _gained(reader: Interpreter, node: Node, x: Node, factor: Made) -> Value:
    """Times a parameter: the gain of a norm, or a learned factor for each column."""
    value = reader.values[x]
    if isinstance(value, Opaque):
        scale, term, rows = reader.term(x)
        value = View(term, arrange(rows, term.width), scale)
    if value.index.shape != node.value.shape:
        raise _refusal(node, "a product with a parameter of larger shape is not understood")
    gain = _vector(value, factor, tuple(node.value.shape))
    if gain is None:
        raise _refusal(node, "a parameter multiplies different tokens or heads differently")
    term = value.term
    if isinstance(term, Normed) and term.gain is None and term.shift is None and term.kind != "centred":
        return replace(value, term=replace(term, gain=gain, at=node, layout=value.index))
    scale, term, rows = (
        reader.term(x) if isinstance(reader.values[x], View) else (value.scale, value.term, rows)
    )
    if len(gain.index) > 1 and bool((gain.index == gain.index[0]).all()):
        gain = replace(gain, index=gain.index[:1])
    layout = arrange(rows, term.width)
    return View(Gained(width=term.width, at=node, layout=layout, x=term, gain=gain), layout, scale)


def _product(reader: Interpreter, node: Node, a: Node, b: Node) -> Value:
    """Two hidden states multiplied entry by entry, as in a gated network."""
    (first, left, rows), (second, right, others) = reader.term(a), reader.term(b)
    if left.width != right.width or not torch.equal(rows, others):
        raise _refusal(node, "a product of different tokens")
    layout = arrange(rows, left.width)
    return View(Product(width=left.width, at=node, layout=layout, a=left, b=right), layout, first * second)


def _matmul(reader: Interpreter, node: Node) -> Value:
    a, b = node.args[0], node.args[1]
    left, right = reader.values.get(a), reader.values.get(b)
    if isinstance(right, Made) and not right.tokens:
        return _linear(reader, node, a, right)
    if isinstance(left, Made) and not left.tokens:
        raise _refusal(node, "a parameter multiplies hidden states from the left: it would mix tokens")
    for part, value in ((a, left), (b, right)):
        if isinstance(value, Made):
            reader.root(part, value)
    left = reader.values.get(a)
    if isinstance(left, View) and isinstance(left.term, Probabilities):
        return attention.mixed(reader, node, left, b)
    return attention.scores(reader, node, a, b)


def _linear(reader: Interpreter, node: Node, x: Node, matrix: Made) -> Value:
    """x W."""
    weight = made.weight(matrix)
    if weight is not None and weight.index.dim() == 3:
        same = bool((weight.index == weight.index[:1]).all())
        weight = replace(weight, index=weight.index[0]) if same else None
    if weight is None or weight.offset or weight.index.dim() != 2:
        raise _refusal(
            node, "a matrix that is no parameter as it stands: its entries are computed or put together"
        )
    if not x.variable or (isinstance(reader.values[x], Made) and made.given_once(reader, x)):
        return made.features(node, x, weight)
    factor, term, rows = reader.term(x)
    if term.width != len(weight.index):
        raise _refusal(node, "a matrix of another size than its input")
    while isinstance(term, Take) and len(term.columns.unique()) == term.x.width == term.width:
        # The matrix reads columns in another order, as of heads that are sorted here.
        weight, term = replace(weight, index=weight.index[term.columns.argsort()]), term.x
    width = weight.index.shape[1]
    layout = arrange(rows, width)
    unit = replace(weight, scale=1.0)
    return View(
        Map(width=width, at=node, layout=layout, x=reader.scaled(term, factor), weight=unit),
        layout,
        weight.scale,
    )


def _layer_norm(reader: Interpreter, node: Node) -> Value:
    x, shape, gain, shift, eps = node.args[:5]
    if node.output:
        return Unknown(node.module, "the moments of a norm are used by themselves")
    return _affine_norm(reader, node, x, shape, gain, shift, "layernorm", float(eps))


def _rms_norm(reader: Interpreter, node: Node) -> Value:
    if node.output:
        return Unknown(node.module, "the moments of a norm are used by themselves")
    x, shape, gain, eps = node.args[:4]
    eps = torch.finfo(x.value.dtype).eps if eps is None else float(eps)
    return _affine_norm(reader, node, x, shape, gain, None, "rmsnorm", eps)


def _affine_norm(
    reader: Interpreter, node: Node, x: Node, shape: Any, gain: Any, shift: Any, kind: str, eps: float
) -> Value:
    if len(shape) != 1:
        raise _refusal(node, "a norm over several axes")
    value = reader.values[x]
    if isinstance(value, Made):
        value = reader.root(x, value)
    if isinstance(value, Opaque):
        scale, term, rows = reader.term(x)
        value = View(term, arrange(rows, term.width), scale)
    assert isinstance(value, View)
    view = reader.normed(node, replace(value, scale=1.0), kind, eps / value.scale**2, 1.0)
    term = view.term
    assert isinstance(term, Normed)
    vectors = []
    for part, neutral in ((gain, 1.0), (shift, 0.0)):
        if part is None or (not part.variable and scalar(part) == neutral):
            vectors.append(None)
            continue
        known = reader.values.get(part)
        weight = made.weight(known) if isinstance(known, Made) else None
        if weight is None:
            raise _refusal(node, "a norm whose gain or shift is no parameter as it stands")
        vectors.append(weight)
    return replace(view, term=replace(term, gain=vectors[0], shift=vectors[1]))


def _reduced(reader: Interpreter, node: Node) -> Value:
    return reader.opaque(node, reduced=True)


def _cat(reader: Interpreter, node: Node) -> Value:
    parts, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    join = torch.stack if node.op == "aten.stack" else torch.cat
    values = [reader.values.get(part) for part in parts]
    variable = [value for value in values if value is not None]
    if all(isinstance(value, Made) for value in variable):
        return made.join(node, parts, values, join, axis)
    views = [value for value in values if isinstance(value, View)]
    alike = (
        len(views) == len(variable)
        and len({(id(view.term), view.scale) for view in views}) == 1
        and all(
            value is not None or part.value.numel() == 0 for part, value in zip(parts, values, strict=True)
        )
    )
    if alike:
        indices = [value.index for value in values if isinstance(value, View)]
        return replace(
            views[0], index=join(indices, axis) if len(indices) > 1 or join is torch.stack else indices[0]
        )
    return reader.opaque(node)


def _embedding(reader: Interpreter, node: Node) -> Value:
    return made.lookup(node, reader.values[node.args[0]])


def _convolution(reader: Interpreter, node: Node) -> Value:
    return made.convolution(reader, node)


def _softmax(reader: Interpreter, node: Node) -> Value:
    return attention.softmax(reader, node)


def _where(reader: Interpreter, node: Node) -> Value:
    """A mask put over what parameters make; over hidden states it is a function like any other."""
    if node.op == "aten.masked_fill":
        part, hidden, fill = node.args[:3]
        keep = ~hidden.value if isinstance(hidden, Node) else None
    else:
        keep_node, part, fill = node.args[:3]
        keep = keep_node.value
        if isinstance(fill, Node) and fill.variable:
            part, fill, keep = fill, part, ~keep
    value = reader.values.get(part) if isinstance(part, Node) else None
    constant = not (isinstance(fill, Node) and fill.variable)
    if not isinstance(value, Made) or keep is None or not constant or not node.value.is_floating_point():
        return reader.opaque(node)
    other = fill.value if isinstance(fill, Node) else torch.tensor(float(fill))
    return made.chosen(node, value, keep, other)


HANDLERS: dict[str, Callable[[Interpreter, Node], Value]] = {
    "aten.add": _add,
    "aten.add_": _add,
    "aten.sub": _add,
    "aten.rsub": _add,
    "aten.mul": _mul,
    "aten.mul_": _mul,
    "aten.div": _mul,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.native_layer_norm": _layer_norm,
    "aten._fused_rms_norm": _rms_norm,
    "aten.mean": _reduced,
    "aten.sum": _reduced,
    "aten.var": _reduced,
    "aten.var_mean": _reduced,
    "aten.linalg_vector_norm": _reduced,
    "aten.norm": _reduced,
    "aten.cat": _cat,
    "aten.stack": _cat,
    "aten.embedding": _embedding,
    "aten.convolution": _convolution,
    "aten._softmax": _softmax,
    "aten.where": _where,
    "aten.masked_fill": _where,
    "aten._safe_softmax": _softmax,
}
