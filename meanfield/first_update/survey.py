"""The first step of every parameter tensor of an architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from meanfield.first_update.algebra import Rows
from meanfield.first_update.hidden import Hidden
from meanfield.first_update.moves import (
    GAUSSIAN,
    NOTHING,
    Move,
    after_activation,
    before_activation,
    bias_move,
    gain_move,
    weight_move,
)
from meanfield.first_update.sides import Sides
from meanfield.first_update.tables import head_moves, table_move
from meanfield.given import Given
from meanfield.moments.forward import forward
from meanfield.moments.inputs import same_row
from meanfield.moments.loss import Loss
from meanfield.moments.state import Gram, Layout, Step
from meanfield.ops import Attention, Embedding, FeedForward, Gain, Linear, Norm, ParameterKey

Found = Iterator[tuple[str, str, Move]]


@dataclass(slots=True)
class Survey:
    """The first step of every parameter tensor.

    Attributes:
        sides: What the recursion has passed by.
        moves: The first step of each tensor.
        peaks: By layer, feed-forward op and role, of what a gradient is multiplied by at the activation:
            E s^4 / (E s^2)^2 of its mean over tokens, and of each token.
    """

    sides: Sides
    moves: dict[ParameterKey, Move] = field(default_factory=dict)
    peaks: dict[tuple[int, str, str], tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, sides: Sides, fed: tuple[Given, ...], loss: Loss) -> Survey:
        """Go through all stacks.

        Args:
            sides: What the recursion has passed by.
            fed: What goes into each stack, in the order encoder, decoder.
            loss: The loss.

        Returns:
            The survey.
        """
        found = cls(sides)
        prefixes = ("encoder.", "decoder.") if len(fed) == 2 else ("",)
        for prefix in prefixes:
            stack = sides.stacks[prefix]
            for layer, step in stack.steps:
                found._keep(layer, prefix, found._step(layer, prefix, step, stack.layout))
        found._tables(dict(zip(prefixes, fed, strict=True)))
        if loss.name == "cross_entropy":
            found._head(prefixes[-1], fed[-1], loss)
        return found

    def _keep(self, layer: int, prefix: str, found: Found) -> None:
        for module, parameter, move in found:
            name = module if module == self.sides.common else prefix + module
            key = ParameterKey(layer, name, parameter)
            self.moves[key] = move if self.sides.grad_sq.get(key) else NOTHING

    def _tables(self, fed: dict[str, Given]) -> None:
        inputs = {
            prefix: (
                self.sides.stacks[prefix].layout,
                self.sides.points[0, f"{prefix}input"][1],
                given.input.ids,
            )
            for prefix, given in fed.items()
        }
        for prefix, given in fed.items():
            arch, stack = given.stack, self.sides.stacks[prefix]
            parts = list(inputs.values()) if self.sides.common else [inputs[prefix]]
            for kind in ("embedding", "position", "segment"):
                table = getattr(arch, kind)
                if table is not None:
                    readers = parts if kind == "embedding" else [inputs[prefix]]
                    move = table_move(arch, kind, table, stack, inputs[prefix][1], readers)
                    self._keep(0, prefix, iter([(table.name, "weight", move)]))
            self._keep(0, prefix, ((name, "weight", Move(GAUSSIAN, 1.0)) for name in given.input.features))

    def _head(self, prefix: str, given: Given, loss: Loss) -> None:
        arch, stack = given.stack, self.sides.stacks[prefix]
        assert arch.head is not None
        kernel, layer = stack.after, arch.depth + 1
        if arch.head.transform is not None:
            mean = stack.steps[-1][1].mean if stack.steps else 0.0
            step = forward(arch.head.transform, kernel, stack.layout, mean)
            self._keep(layer, prefix, self._step(layer, prefix, step, stack.layout))
            kernel = step.after
        weight, bias = head_moves(arch, kernel, stack.layout, loss)
        self._keep(layer, prefix, iter([(arch.head.name, "bias", bias)]))
        if not arch.head.tied:
            self._keep(layer, prefix, iter([(arch.head.name, "weight", weight)]))
        elif arch.embedding is not None:
            self._tied(prefix, given, arch.embedding, weight)

    def _tied(self, prefix: str, given: Given, table: Embedding, weight: Move) -> None:
        """All rows of a tied table move by the head's part, which is fresh to the tokens that read them."""
        name, stack = table.name, self.sides.stacks[prefix]
        key = ParameterKey(0, name if name == self.sides.common else prefix + name, "weight")
        change, grad_sq = self.moves[key].change, self.sides.grad_sq[key]
        if change is not None:
            rows = float(table.scale) ** 2 * same_row(given.stack, "embedding", stack.layout, given.input.ids)
            of_input = stack.layout.inner(rows, self.sides.points[0, f"{prefix}input"][1])
            of_head = max(grad_sq - of_input, 0.0) / (table.vocab * table.width)
            change = change._replace(sgd=change.sgd + of_head * rows)
        self.moves[key] = weight._replace(change=change)

    def _step(self, layer: int, prefix: str, step: Step, layout: Layout) -> Found:
        op = step.op
        match op:
            case Linear():
                yield from self._linear(layer, prefix, op.name, step, layout)
            case Attention():
                yield from self._attention(layer, prefix, op, step, layout)
            case FeedForward():
                yield from self._feed_forward(layer, prefix, op, step, layout)
            case Norm() | Gain():
                yield from self._gain(layer, prefix, op, step, layout)
            case _:
                for part in step.inner.values():
                    yield from self._step(layer, prefix, part, layout)

    def _gain(self, layer: int, prefix: str, op: Norm | Gain, step: Step, layout: Layout) -> Found:
        gradient, given = self.sides.points[layer, prefix + op.name][1], step.before
        if isinstance(op, Norm):
            first, second = layout.pair(layout.own(step.before) + op.eps)
            given = step.before / np.sqrt(first * second)
            yield op.name, "bias", bias_move(gradient, op.width, step.after, layout)
        yield op.name, "weight", gain_move(given, gradient, op.width, step.after, layout)

    def _linear(self, layer: int, prefix: str, name: str, step: Step, layout: Layout) -> Found:
        op, gradient = step.op, self.sides.behind[layer, prefix + name]
        assert isinstance(op, Linear)
        yield name, "weight", weight_move(op, step.before, gradient, step.after, layout)
        if op.bias is not None:
            yield name, "bias", bias_move(gradient, op.d_out, step.after, layout)

    def _attention(self, layer: int, prefix: str, op: Attention, step: Step, layout: Layout) -> Found:
        source = layout.memory if op.cross and isinstance(layout, Gram) else layout
        assert source is not None
        if op.key_norm is None and op.rotary is None and op.softcap is None:
            self._centre_keys((layer, f"{prefix}{op.name}.k"), source)
        for role, part in step.inner.items():
            where = source if role.startswith(("key", "value")) else layout
            if role in ("query", "key", "value", "output"):
                yield from self._linear(layer, prefix, f"{op.name}.{role[0]}", part, where)
            elif role != "mixed":
                yield from self._step(layer, prefix, part, where)
        if op.relative_bias is not None:
            yield op.relative_bias.name, "weight", Move(GAUSSIAN, 1.0)

    def _centre_keys(self, place: tuple[int, str], layout: Layout) -> None:
        """Take out what all keys of a sequence share: exactly 0, and rounding of drawn averages where drawn.

        Tokens that are alike would multiply that rounding by their number.
        """
        behind = self.sides.behind.get(place)
        if behind is not None and isinstance(layout, Gram):
            blocks = behind.reshape(layout.batch, layout.tokens, layout.batch, layout.tokens)
            blocks = blocks - blocks.mean(axis=1, keepdims=True)
            blocks = blocks - blocks.mean(axis=3, keepdims=True)
            self.sides.behind[place] = blocks.reshape(behind.shape)

    def _feed_forward(self, layer: int, prefix: str, op: FeedForward, step: Step, layout: Layout) -> Found:
        if "inner" in step.inner:
            yield from self._step(layer, prefix, step.inner["inner"], layout)
        down, of_down = step.inner["down"], self.sides.behind[layer, f"{prefix}{op.name}.down"]
        if not np.any(of_down):
            return
        hidden = Hidden.draw(step, of_down, layout)
        yield f"{op.name}.down", "weight", after_activation(op.down, hidden, of_down, down, layout)
        if op.down.bias is not None:
            yield f"{op.name}.down", "bias", bias_move(of_down, op.down.d_out, down.after, layout)
        for role, slopes in hidden.slopes.items():
            part, name = step.inner[role], f"{op.name}.{role}"
            linear = part.op
            assert isinstance(linear, Linear)
            self.peaks[layer, prefix + op.name, role] = _peak(slopes.mean(axis=1)), _peak(slopes)
            gradient = self.sides.behind[layer, prefix + name]
            weight, bias = before_activation(linear, hidden, role, gradient, part, layout)
            yield name, "weight", weight
            if linear.bias is not None:
                yield name, "bias", bias


def _peak(x: Rows) -> float:
    return float((x**4).mean() / (x**2).mean() ** 2)
