"""How the first step changes every hidden state, to first order in the learning rate.

The change of token i is D_i = -sum_j K_ij g_j + f_i. g_j is the gradient there; the aligned part follows it.
f is what signs add and what fresh weights scatter, with kernel F per coordinate. Both go forward through the
weights that the gradients have come back through: a part -K g W^T goes to -K g W^T W, whose mean is along g
and whose spread is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.first_update.algebra import multiply, within_sequences
from meanfield.first_update.change import Point, Tangent, aligned_part, last_name, slope_products
from meanfield.first_update.moves import NOTHING, Move
from meanfield.first_update.scores import mixed, scored, unevenness
from meanfield.first_update.survey import Survey
from meanfield.given import Given
from meanfield.moments.backward import backward
from meanfield.moments.identity import identity_share
from meanfield.moments.inputs import same_row
from meanfield.moments.record import Record
from meanfield.moments.state import Gram, Kernel, Layout, Step
from meanfield.ops import (
    Attention,
    Dropout,
    FeedForward,
    Gain,
    Linear,
    Norm,
    ParameterKey,
    Residual,
    Scale,
    Sequential,
)

INTERPRETER = "first_update.tangent"
_REMEDY = "use .df, which has no change of hidden states"


@dataclass(slots=True)
class Flow:
    """Carries a change through the stacks.

    Attributes:
        survey: The first step of every tensor.
        sizes: Entries of every tensor.
        adam: Whether steps are by signs.
        prefix: Of the present stack.
        layer: The present layer.
        width: Size of a token.
        memory: The change of the encoder's output.
    """

    survey: Survey
    sizes: Mapping[ParameterKey, int]
    adam: bool
    prefix: str = ""
    layer: int = 0
    width: int = 0
    memory: Tangent | None = None

    def through(self, fed: tuple[Given, ...]) -> Iterator[Point]:
        """Follow the change from the embeddings to the final hidden states.

        Args:
            fed: What goes into each stack, in the order encoder, decoder.

        Yields:
            The relative change behind every layer.
        """
        prefixes = ("encoder.", "decoder.") if len(fed) == 2 else ("",)
        for self.prefix, given in zip(prefixes, fed, strict=True):
            stack, self.width = self.survey.sides.stacks[self.prefix], given.stack.width
            tangent = self._input(given, stack.start, stack.layout)
            for self.layer, step in stack.steps:
                tangent = self._step(step, tangent, stack.layout)
                yield self._point(step, tangent, stack.layout)
            self.memory = tangent

    def _point(self, step: Step, tangent: Tangent, layout: Layout) -> Point:
        aligned = aligned_part(tangent, self.width, layout)
        real = layout.real if isinstance(layout, Gram) else ...
        changed, along, before = (
            float(np.sum(layout.own(kernel)[real]))
            for kernel in (tangent.fresh + aligned, aligned, step.after)
        )
        module = f"{self.prefix}{last_name(step)}"
        return Point(self.layer, module, math.sqrt(changed / before), math.sqrt(along / before))

    def _gradient(self, name: str) -> Kernel:
        return self.survey.sides.points[self.layer, self.prefix + name][1]

    def _behind(self, name: str) -> Kernel:
        return self.survey.sides.behind[self.layer, self.prefix + name]

    def _moved(
        self, tangent: Tangent, name: str, aligned: dict[str, Kernel], width: int, layout: Layout
    ) -> Tangent:
        """Add what the step of an op's own parameters does behind it; ``aligned`` is K at rate 1."""
        for parameter, kernel in aligned.items():
            key = ParameterKey(self.layer, self._name(name), parameter)
            move, rate = self._rate(key)
            if move.change is None:
                continue
            along = rate * kernel
            spread = move.change.adam if self.adam else move.change.sgd
            rest = spread - multiply(layout, along, tangent.gradient, along) / width
            tangent = tangent._replace(aligned=tangent.aligned + along, fresh=tangent.fresh + rest)
        return tangent

    def _name(self, name: str) -> str:
        return name if name == self.survey.sides.common else self.prefix + name

    def _rate(self, key: ParameterKey) -> tuple[Move, float]:
        """Step along the gradient, E|g|_1 / E||g||^2 for signs, so that both descend alike to first order."""
        move, grad_sq = self.survey.moves.get(key, NOTHING), self.survey.sides.grad_sq.get(key, 0.0)
        if not self.adam or not grad_sq:
            return move, 1.0
        return move, move.share * math.sqrt(self.sizes[key] / grad_sq)

    def _input(self, given: Given, start: Kernel, layout: Layout) -> Tangent:
        self.layer, arch = 0, given.stack
        gradient = self._gradient("input")
        tangent = Tangent(np.zeros_like(start), np.zeros_like(start), gradient)
        for kind in ("embedding", "position", "segment"):
            table = getattr(arch, kind)
            if table is not None:
                rows = float(table.scale) ** 2 * same_row(arch, kind, layout, given.input.ids)
                tangent = self._moved(tangent, table.name, {"weight": rows}, arch.width, layout)
        return tangent

    def _step(self, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        op = step.op
        match op:
            case Linear():
                return self._linear(op.name, step, tangent, layout)
            case Norm() | Gain() | Scale() | Dropout():
                return self._scaled(step, tangent, layout)
            case Attention():
                return self._attention(op, step, tangent, layout)
            case FeedForward():
                return self._feed_forward(op, step, tangent, layout)
            case Residual():
                return self._residual(op, step, tangent, layout)
            case Sequential():
                for part in step.inner.values():
                    tangent = self._step(part, tangent, layout)
                return tangent
            case _:
                raise MissingRuleError(op, INTERPRETER, _REMEDY)

    def _linear(self, name: str, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        """K -> sigma_w^2 K, F -> sigma_w^2 (F + K G K / d_in): W^T W has the mean sigma_w^2, and a spread."""
        op = step.op
        assert isinstance(op, Linear)
        sigma_sq = op.d_in * float(op.weight.variance)
        # G is sigma_w^2 times that behind, and what other readers of the same input send back: fresh here
        fresh = tangent.fresh + aligned_part(tangent, op.d_in, layout)
        after = Tangent(sigma_sq * tangent.aligned, sigma_sq * fresh, self._behind(name))
        own = {"weight": op.d_in * step.before, "bias": np.ones_like(step.after)}
        return self._moved(after, name, own, op.d_out, layout)

    def _scaled(self, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        """Factors on tokens, forward and back."""
        op = step.op
        if isinstance(op, Norm):
            first, second = layout.pair(layout.own(step.before) + op.eps)
            size = np.sqrt(first * second)
            factor, given = float(op.gain_sq) / size, step.before / size
        elif isinstance(op, Gain):
            factor, given = np.float64(float(op.value) ** 2), step.before
        elif isinstance(op, Scale):
            factor = float(op.factor) ** 2
            back = tangent.gradient / factor if factor else np.zeros_like(tangent.gradient)
            return Tangent(factor * tangent.aligned, factor * tangent.fresh, back)
        else:
            assert isinstance(op, Dropout)
            keep = 1 - float(op.rate)
            aligned, fresh = (layout.raise_own(kernel, 1 / keep) for kernel in tangent[:2])
            return Tangent(aligned, fresh, layout.raise_own(tangent.gradient, keep))
        after = Tangent(factor * tangent.aligned, factor * tangent.fresh, self._gradient(op.name))
        own = {"weight": given, "bias": np.ones_like(step.after)}
        return self._moved(after, op.name, own, op.width, layout)

    def _attention(self, op: Attention, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        """Through the values, K -> E[A K A^T]; through the scores by the transpose of their backward rule."""
        source, read = layout, tangent
        if op.cross:
            assert isinstance(layout, Gram)
            assert layout.memory is not None
            assert self.memory is not None
            source, read = layout.memory, self.memory
        value = self._projected(op, "value", step, read, source)
        aligned, fresh = mixed(step.weights, value.aligned, value.fresh)
        gradient = self._mixed_gradient(op, step, layout)
        if op.query is not None:
            uneven = unevenness(step, layout)
            for role, met, where in (("query", tangent, layout), ("key", read, source)):
                of_scores = self._projected(op, role, step, met, where)
                along, rest = scored(step, role, layout, of_scores.aligned, of_scores.fresh)
                again = within_sequences(layout, along)
                met_again = aligned_part(Tangent(again, rest, gradient), op.value.d_out, layout)
                aligned, fresh = aligned + along, fresh + rest + uneven * met_again
        tangent = Tangent(aligned, fresh, gradient)
        if "inner" in step.inner:
            tangent = self._step(step.inner["inner"], tangent, layout)
        if op.output is None:
            return tangent
        return self._linear(f"{op.name}.o", step.inner["output"], tangent, layout)

    def _mixed_gradient(self, op: Attention, step: Step, layout: Layout) -> Kernel:
        """G of the mixed values."""
        if op.output is None:
            gradient = self._gradient(op.name)
        else:
            gradient = op.output.d_in * float(op.output.weight.variance) * self._behind(f"{op.name}.o")
        part = step.inner.get("inner")
        return gradient if part is None else backward(part.op, part, gradient, layout, Record())

    def _projected(self, op: Attention, role: str, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        tangent = self._linear(f"{op.name}.{role[0]}", step.inner[role], tangent, layout)
        norm = step.inner.get(f"{role}_norm")
        return tangent if norm is None else self._step(norm, tangent, layout)

    def _feed_forward(self, op: FeedForward, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        """K_ij -> K_ij E s_i s_j, F alike; K G K meets the same slopes twice more."""
        inner = step.inner
        if not np.any(self._behind(f"{op.name}.down")):
            zero = np.zeros_like(step.after)
            return self._linear(f"{op.name}.down", inner["down"], Tangent(zero, zero, zero), layout)
        gradient = op.down.d_in * float(op.down.weight.variance) * self._behind(f"{op.name}.down")
        if "inner" in inner:
            gradient = backward(inner["inner"].op, inner["inner"], gradient, layout, Record())
        aligned, fresh = np.zeros_like(gradient), np.zeros_like(gradient)
        for role, slope in slope_products(op, step, layout).items():
            after = self._linear(f"{op.name}.{role}", inner[role], tangent, layout)
            along = slope * after.aligned
            common, own = self.survey.peaks[self.layer, self.prefix + op.name, role]
            whole = slope * (after.fresh + common * aligned_part(after, op.up.d_out, layout))
            # a token meets its own slope four times
            alone = layout.raise_own(along**2 * gradient, 2.0) - along**2 * gradient
            rest = whole + ((own - common) * alone - multiply(layout, along, gradient, along)) / op.up.d_out
            aligned, fresh = aligned + along, fresh + rest
        tangent = Tangent(aligned, fresh, gradient)
        if "inner" in inner:
            tangent = self._step(inner["inner"], tangent, layout)
        return self._linear(f"{op.name}.down", inner["down"], tangent, layout)

    def _residual(self, op: Residual, step: Step, tangent: Tangent, layout: Layout) -> Tangent:
        """Each way sees the other's gradient as fresh: g_x = a g + b J^T g, both of them along K."""
        branch = step.inner["branch"]
        if np.any(identity_share(branch, layout)):
            raise MissingRuleError(f"{op.name}, whose branch shares its input", INTERPRETER, _REMEDY)
        skip, scale = float(op.skip_scale) ** 2, float(op.branch_scale) ** 2
        behind = self._gradient(op.name)
        of_branch = tangent.gradient - skip * behind
        K, width = tangent.aligned, self.width
        met = tangent.fresh + skip * multiply(layout, K, behind, K) / width
        inside = self._step(branch, Tangent(K, met, of_branch), layout)
        fresh = skip * (tangent.fresh + multiply(layout, K, of_branch, K) / width) + scale * inside.fresh
        return Tangent(skip * K + scale * inside.aligned, fresh, behind)
