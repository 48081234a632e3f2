"""A pass in the memory of one layer.

On the way forward a layer's weights are drawn, multiplied by and forgotten. On the way back they are drawn
again from their seed, the layer is computed once more from its input, and its gradients are read and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from empirical.dense import Dense
from meanfield.ops import Repeat
from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import Rule

STATES = 2**24  # bytes of the inputs of layers that are kept


class Start(NamedTuple):
    """Where a layer starts: its input, one or two streams of tokens, and the dropouts before it."""

    x: Any
    masks_drawn: int


@dataclass(slots=True, kw_only=True)
class Streamed(Dense):
    """A pass that keeps no weights, and of hidden states the inputs of some layers."""

    keeps_weights: bool = False

    def repeat(self, op: Repeat, x: Array, forward: Rule) -> tuple[Array, Any]:
        """Run equal layers, and keep the input of each, or of every k-th where all would be too much."""
        every = -(-op.times * _bytes(x) // STATES)
        starts = []
        for k in range(op.times):
            if k % every == 0:
                starts.append(Start(x, self.masks_drawn))
            x = self._layer(op, x, forward)[0]
        return x, (every, starts)

    def repeat_back(self, op: Repeat, kept: Any, g: Array, forward: Rule, backward: Rule) -> Array:
        """Compute each layer once more, the last one first, and run it back."""
        every, starts = kept
        first = self.layer - op.times
        for block in reversed(range(len(starts))):
            layer = first + block * every
            inside = self._starts(op, starts.pop(), layer, min(every, first + op.times - layer), forward)
            while inside:
                x, self.masks_drawn = inside.pop()
                self.layer = layer + len(inside)
                self.keeps_weights = True
                saved = self._layer(op, x, forward)[1]
                self.keeps_weights = False
                g = backward(op.block, saved, g, self)
        self.layer = first
        return g

    def _starts(self, op: Repeat, start: Start, layer: int, count: int, forward: Rule) -> list[Start]:
        """Find the starts of some layers from that of the first of them."""
        found = [start]
        self.layer, self.masks_drawn = layer, start.masks_drawn
        for _ in range(count - 1):
            x = self._layer(op, found[-1].x, forward)[0]
            found.append(Start(x, self.masks_drawn))
        return found

    def _layer(self, op: Repeat, x: Array, forward: Rule) -> tuple[Array, Any]:
        self.layer += 1
        self.matrices.clear()
        return forward(op.block, x, self)


def _bytes(x: Any) -> int:
    return sum(map(_bytes, x)) if isinstance(x, tuple) else x.numel() * x.element_size()
