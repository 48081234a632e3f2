"""What the recursion passes by: the forward steps of each stack, and the gradient behind every linear map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from meanfield.moments.record import Record
from meanfield.moments.state import Kernel, Layout, Step


class Stack(NamedTuple):
    """The forward pass of one stack.

    Attributes:
        steps: Steps with their layer, from the entry to what follows the layers.
        start: Kernel of the input.
        layout: Layout of its tokens.
    """

    steps: Sequence[tuple[int, Step]]
    start: Kernel
    layout: Layout

    @property
    def after(self) -> Kernel:
        """Kernel of the final hidden states."""
        return self.steps[-1][1].after if self.steps else self.start


@dataclass(slots=True)
class Sides(Record):
    """A record that keeps both sides of every map.

    Attributes:
        behind: Gradient kernel behind a linear map, by layer and name.
        stacks: The forward passes by their prefix, in the order of the backward pass.
    """

    behind: dict[tuple[int, str], Kernel] = field(default_factory=dict)
    stacks: dict[str, Stack] = field(default_factory=dict)

    def product(self, module: str, gradient: Kernel) -> None:
        """Keep the gradient kernel behind a linear map."""
        whole = np.ldexp(gradient, self.exponent) if self.exponent else gradient
        self.behind[self.layer, self.prefix + module] = whole

    def swept(self, steps: Sequence[tuple[int, Step]], start: Kernel, layout: Layout) -> None:
        """Keep the forward pass."""
        self.stacks[self.prefix] = Stack(steps, start, layout)
