"""What a rule for an operation may ask of the reader that calls it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from empirical.readers.terms import Made, Root, Term, Value, View
from empirical.readers.trace import Graph, Node


class Context(Protocol):
    """The reader, as rules see it.

    Attributes:
        graph: The pass.
        values: What the nodes before mean.
        roots: Vectors that have entered, by the node that made them.
        uses: How many operations read a node.
    """

    graph: Graph
    values: dict[Node, Value]
    roots: dict[Node, Root]
    uses: dict[Node, int]

    def term(self, node: Node) -> tuple[float, Term, Tensor]:
        """Read a node as a multiple of a whole token matrix, with its rows."""

    def scaled(self, term: Term, factor: float) -> Term:
        """A multiple of a term, the same object each time."""

    def root(self, node: Node, value: Made) -> View:
        """Let vectors enter here."""

    def opaque(self, node: Node, *, reduced: bool = False) -> Value:
        """A function whose meaning is found out later."""

    def normed(self, node: Node, view: View, kind: str, eps: float, factor: float) -> View:
        """The norm of a view over its last axis."""
