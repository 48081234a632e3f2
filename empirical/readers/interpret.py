"""From the operations of a pass to terms: what every tensor means."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from empirical.layers import ACTIVATIONS
from empirical.readers import made, probing
from empirical.readers.elementwise import ELEMENTWISE
from empirical.readers.products import PRODUCTS
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import (
    Activated,
    Capped,
    Made,
    Normed,
    Opaque,
    Root,
    Scaled,
    Term,
    Unknown,
    Value,
    View,
    arrange,
    of_scores,
    scalar,
    take,
)
from empirical.readers.trace import Graph, Node

VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "transpose",
        "permute",
        "t",
        "unsqueeze",
        "squeeze",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "unbind",
        "clone",
        "alias",
        "detach",
        "_to_copy",
        "lift_fresh",
        "repeat",
        "index",
        "index_select",
        "flip",
    )
)
"""Operations that move entries and change none."""


REDUCTIONS = frozenset(
    f"aten.{name}" for name in ("mean", "sum", "var", "var_mean", "linalg_vector_norm", "norm")
)
"""Operations that sum over coordinates."""


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
            raise refusal(value.at, f"{value.at.op} of hidden states is no known norm or activation")
        return self._pointwise(node, value, value.entries[0].term, value.index)

    def _pointwise(self, node: Node, value: Opaque, base: Term, index: Tensor) -> tuple[float, Term, Tensor]:
        """A function of every entry for itself: an activation or a soft cap."""
        term, rows = self._columns(node, base, index)
        layout = arrange(rows, term.width)
        activation = probing.activation_of(self.graph, base, index, node)
        if activation is not None:
            name, factor = activation
            if name == "identity":
                return factor, term, rows
            made_of = Activated(width=term.width, at=node, layout=layout, x=term, activation=name)
            return factor, made_of, rows
        capped = probing.cap_of(self.graph, base, index, node)
        if capped is not None:
            cap, slope = capped
            inner = self.scaled(term, slope)
            return 1.0, Capped(width=term.width, at=node, layout=layout, x=inner, cap=cap), rows
        known = ", ".join(sorted(ACTIVATIONS))
        raise refusal(value.at, f"{value.at.op} gives no activation that is known: accepted are {known}")

    def _columns(self, node: Node, term: Term, index: Tensor) -> tuple[Term, Tensor]:
        """The columns of a term that a view shows in full, and which of its rows."""
        last = index.shape[-1] if index.dim() else 1
        flat = index.reshape(-1, last)
        rows, columns = flat[:, 0] // term.width, flat[0] % term.width
        if not torch.equal(flat, rows[:, None] * term.width + columns):
            raise refusal(node, f"{node.op} reads parts of several tokens or heads at once")
        return take(term, columns), rows.reshape(index.shape[:-1])

    def scaled(self, term: Term, factor: float) -> Term:
        """A multiple of a term, the same object each time."""
        if factor == 1:
            return term
        known = self.multiples.get((id(term), factor))
        if known is None:
            known = Scaled(width=term.width, at=term.at, layout=term.layout, x=term, factor=factor)
            self.multiples[id(term), factor] = known
        return known

    def root(self, node: Node, value: Made) -> View:
        """Vectors enter here."""
        if not value.tokens or len(value.shape) < 2:
            raise refusal(
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
        if node.op in REDUCTIONS:
            return self.opaque(node, reduced=True)
        rule = ELEMENTWISE.get(node.op) or PRODUCTS.get(node.op)
        return self.opaque(node) if rule is None else rule(self, node)

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
        scored = any(of_scores(self.values[part]) for part in node.inputs if part.variable)
        for part in node.inputs:
            if not part.variable:
                # Pointwise functions know constants that are one number.
                indices += [] if scalar(part) is not None else [None]
                continue
            value = self.values[part]
            if isinstance(value, Made) and value.tokens and not scored:
                value = self.root(part, value)
            match value:
                case View():
                    entries.append(value)
                    indices.append(value.index)
                case Opaque():
                    entries += value.entries
                    tables += value.tables
                    reduced = reduced or value.reduced
                    indices.append(value.index)
                case _:
                    tables.append(part)
                    indices.append(None)
        if not entries:
            raise refusal(node, f"{node.op} of parameters alone is not understood")
        unique = tuple({(id(entry.term), id(entry.index)): entry for entry in entries}.values())
        one = len({id(entry.term) for entry in unique}) == 1 and not reduced
        index = _common(indices, tuple(node.value.shape)) if one else None
        opaque = Opaque(node, unique, index, reduced, tuple(dict.fromkeys(tables)))
        return self._norm(node, opaque) if reduced and not tables else opaque

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
            normed = Normed(width=last, at=node, layout=layout, x=term, kind=kind, eps=eps, groups=columns)
            return View(normed, layout, factor)
        if not torch.equal(flat // width, (flat[:, :1] // width).expand_as(flat)):
            raise refusal(node, "a norm over parts of several tokens")
        order = patterns[patterns[:, 0].argsort()]
        term = Normed(width=width, at=node, layout=view.index, x=view.term, kind=kind, eps=eps, groups=order)
        return View(term, view.index, factor)


def _common(indices: list[Tensor | None], shape: tuple[int, ...]) -> Tensor | None:
    """The entries that all arguments show, where they are the same ones in the same places."""
    first = indices[0]
    if first is None or tuple(first.shape) != shape:
        return None
    return first if all(index is not None and torch.equal(index, first) for index in indices) else None


def _base(term: Term) -> Term:
    return term.x if isinstance(term, Normed) and term.kind == "centred" else term


def refusal(node: Node, why: str) -> UnsupportedModuleError:
    """The error that names where a node was computed."""
    return UnsupportedModuleError(node.module, why)
