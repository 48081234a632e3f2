"""From terms to steps: residual sums, branches and sequences, found by which term every path runs through.

A term u dominates v when all paths from the input to v run through u. Between a term and its nearest
dominator lies one step: a map, a norm, an attention, or a sum whose parts are branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import Mixed, Product, Sum, Term


@dataclass(frozen=True, eq=False, slots=True)
class Single:
    """One term that reads the step before it alone."""

    term: Term


@dataclass(frozen=True, eq=False, slots=True)
class Gate:
    """Two branches multiplied."""

    first: Steps
    second: Steps


@dataclass(frozen=True, eq=False, slots=True)
class Attend:
    """Attention before its output projection; ``memory`` is what keys and values read, where it is not x."""

    mixed: Mixed
    memory: Term | None


@dataclass(frozen=True, eq=False, slots=True)
class Add:
    """skip * x + sum of factor * branch(x)."""

    skip: float
    branches: tuple[tuple[float, Steps], ...]


Step: TypeAlias = Single | Gate | Attend | Add
Steps: TypeAlias = tuple[Step, ...]


class Paths:
    """The terms between a source and a target, with their nearest dominators.

    Args:
        target: The last term.
        source: The first one.
    """

    def __init__(self, target: Term, source: Term) -> None:
        self.source = source
        self.order: list[Term] = []
        self.inside: dict[int, bool] = {}
        self._collect(target)
        self.above: dict[int, Term | None] = {id(source): None}
        self.depth = {id(source): 0}
        self.readers: dict[int, int] = {}
        for term in self.order:
            for part in term.sources:
                self.readers[id(part)] = self.readers.get(id(part), 0) + 1
            if term is not source and self.inside[id(term)]:
                above = self.meet(part for part in term.sources if self.inside[id(part)])
                self.above[id(term)] = above
                self.depth[id(term)] = self.depth[id(above)] + 1

    def _collect(self, target: Term) -> None:
        """Sort terms so that each comes after its sources, and mark those that hang on the source."""
        stack: list[tuple[Term, bool]] = [(target, False)]
        seen: set[int] = set()
        while stack:
            term, done = stack.pop()
            if done:
                self.order.append(term)
                self.inside[id(term)] = term is self.source or any(self.inside[id(p)] for p in term.sources)
            elif id(term) not in seen:
                seen.add(id(term))
                stack.append((term, True))
                stack += [(part, False) for part in term.sources if part is not term]

    def meet(self, terms: Iterable[Term]) -> Term:
        """The nearest term that every path to any of these runs through."""
        first, *others = terms
        for other in others:
            while first is not other:
                if self.depth[id(first)] >= self.depth[id(other)]:
                    first = self._up(first)
                else:
                    other = self._up(other)  # noqa: PLW2901  (a walk up)
        return first

    def _up(self, term: Term) -> Term:
        above = self.above[id(term)]
        assert above is not None
        return above

    def steps(self, target: Term, source: Term) -> Steps:
        """Take apart what leads from one term to another that it dominates.

        Args:
            target: The last term.
            source: The first one.

        Returns:
            The steps in order.

        Raises:
            UnsupportedModuleError: If branches share parts or do not come together in a sum.
        """
        chain = [target]
        while chain[-1] is not source:
            if not self.inside.get(id(chain[-1]), False):
                raise UnsupportedModuleError(target.at.module, "a part that does not hang on the tokens")
            chain.append(self._up(chain[-1]))
        chain.reverse()
        return tuple(self._step(below, above) for above, below in pairwise(chain))

    def _step(self, term: Term, above: Term) -> Step:
        match term:
            case Sum():
                return self._sum(self._parts(term), above, term)
            case Product(a=a, b=b):
                self._check_apart([a, b], above)
                return Gate(self.steps(a, above), self.steps(b, above))
            case Mixed():
                return self._attend(term, above)
            case _:
                if term.sources != (above,):
                    raise UnsupportedModuleError(
                        term.at.module, "its input is put together in a way that is not read"
                    )
                return Single(term)

    def _parts(self, term: Sum) -> list[tuple[float, Term]]:
        """The parts of a sum, and of sums in it that nothing else reads."""
        found = []
        for factor, part in term.parts:
            if isinstance(part, Sum) and self.readers[id(part)] == 1:
                found += [(factor * inner, deeper) for inner, deeper in self._parts(part)]
            else:
                found.append((factor, part))
        return found

    def _sum(self, parts: list[tuple[float, Term]], above: Term, term: Term) -> Step:
        skip = sum(factor for factor, part in parts if part is above)
        rest = [(factor, part) for factor, part in parts if part is not above]
        if any(not self.inside[id(part)] for _, part in rest):
            raise UnsupportedModuleError(
                term.at.module, "something that does not hang on the tokens is added to them"
            )
        if not rest:
            raise UnsupportedModuleError(term.at.module, "a sum of a token with itself")
        if len(rest) == 1:
            return Add(skip, ((rest[0][0], self.steps(rest[0][1], above)),))
        joint = self.meet(part for _, part in rest)
        if joint is above:
            self._check_apart([part for _, part in rest], above)
            return Add(skip, tuple((factor, self.steps(part, above)) for factor, part in rest))
        inner = (*self.steps(joint, above), self._sum(rest, joint, term))
        return Add(skip, ((1.0, inner),))

    def _check_apart(self, terms: list[Term], above: Term) -> None:
        """Branches must share nothing but what they read."""
        seen: dict[int, int] = {}
        for number, branch in enumerate(terms):
            stack = [branch]
            while stack:
                term = stack.pop()
                if term is above or not self.inside[id(term)] or seen.get(id(term)) == number:
                    continue
                if id(term) in seen:
                    raise UnsupportedModuleError(
                        term.at.module,
                        "two streams of tokens share it: only sums of separate branches are read",
                    )
                seen[id(term)] = number
                stack += term.sources

    def _attend(self, mixed: Mixed, above: Term) -> Attend:
        query, key, value = mixed.sources
        if query is not above:
            raise UnsupportedModuleError(mixed.at.module, "queries do not read what the other branches read")
        if key is above and value is above:
            return Attend(mixed, None)
        if key is value and not self.inside[id(key)]:
            return Attend(mixed, key)
        raise UnsupportedModuleError(mixed.at.module, "queries, keys and values read different things")
