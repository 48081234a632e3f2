"""Draws around an activation, where neither inputs nor gradients of a map are Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meanfield.first_update.algebra import Rows, normal
from meanfield.gaussian.activations import ACTIVATION
from meanfield.moments.backward import backward
from meanfield.moments.record import Record
from meanfield.moments.state import Kernel, Layout, Step
from meanfield.ops import FeedForward

DRAWS = 1024
"""Draws of a hidden unit: a mean of squares is then within 5 %, the ratio of a root to it within 2 %."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Draws of a unit of the hidden layer.

    Attributes:
        value: What goes into ``down``, (draws, T).
        slopes: What the gradient behind the activation is multiplied by on its way to a map, by the map's
            role: phi'(u) to ``up``; phi'(u) v to ``gate`` and phi(u) to ``up`` where v = up(x) is gated.
        gradient: Kernel of the gradient behind the activation, summed over units.
    """

    value: Rows
    slopes: dict[str, Rows]
    gradient: Kernel

    @classmethod
    def draw(cls, step: Step, of_down: Kernel, layout: Layout) -> Hidden:
        """Draw units of a feed-forward op, always the same ones.

        Args:
            step: The op's step.
            of_down: Gradient kernel behind ``down``.
            layout: Layout of the tokens.

        Returns:
            The draws.
        """
        op, inner = step.op, step.inner
        assert isinstance(op, FeedForward)
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(0x6D66)))
        gradient = op.down.d_in * float(op.down.weight.variance) * of_down
        if "inner" in inner:
            gradient = backward(inner["inner"].op, inner["inner"], gradient, layout, Record())
        acted = inner.get("gate", inner["up"])
        phi, u = ACTIVATION[op.activation], normal(layout, acted.after, DRAWS, rng)
        value, slope = phi.value(u), phi.derivative(u)
        if op.gate is None:
            slopes = {"up": slope}
        else:
            linear = normal(layout, inner["up"].after, DRAWS, rng)
            slopes = {"gate": slope * linear, "up": value}
            value = value * linear
        if "inner" in inner:  # a norm divides each token by its size
            sizes = layout.own(inner["inner"].after) / layout.own(inner["inner"].before)
            value = value * np.sqrt(sizes)
        return cls(value, slopes, gradient)

    def gradients(self, role: str, layout: Layout) -> Rows:
        """Draw gradients behind a map of this role, (draws, T).

        Args:
            role: ``"up"`` or ``"gate"``.
            layout: Layout of the tokens.

        Returns:
            The draws, up to their size.
        """
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(0x6D67)))
        return self.slopes[role] * normal(layout, self.gradient, DRAWS, rng)
