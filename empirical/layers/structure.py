"""How modules are put together: residual sums, parallel branches, sequences, two streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from empirical.layers.base import ALONE, Context
from empirical.layers.token_maps import Norm
from meanfield import ops
from meanfield.errors import InputError


class Streams(NamedTuple):
    """Two streams of tokens: x, which the sub-layers read, and the sum r of all that they wrote."""

    x: Tensor
    r: Tensor


State: TypeAlias = Tensor | Streams


def _two(state: State, reader: str) -> Streams:
    if not isinstance(state, Streams):
        raise InputError(
            f"{reader} reads two streams and got one: put Fork() before it, for example as entry"
        )
    return state


class Residual(nn.Module):
    """A branch beside its skip connection."""

    def __init__(self, op: ops.Residual, branch: nn.Module) -> None:
        super().__init__()
        self.name = op.name
        self.skip_scale, self.branch_scale = float(op.skip_scale), float(op.branch_scale)
        self.branch = branch

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Add the branch to the skip connection."""
        return self.skip_scale * x + self.branch_scale * self.branch(x, context)  # (batch, tokens, width)


class Parallel(nn.Module):
    """Branches that read the same input, summed."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Add all branches."""
        first, *others = self.branches
        y: Tensor = first(x, context)
        for branch in others:
            y = y + branch(x, context)  # (batch, tokens, width)
        return y


class Sequential(nn.Module):
    """Modules one after another; a layer is one of these."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x: State, context: Context = ALONE) -> State:
        """Apply the modules in order."""
        for part in self.parts:
            x = part(x, context)  # (batch, tokens, width), or two of them
        return x


class Fork(nn.Module):
    """The start of a second stream."""

    def forward(self, x: Tensor, context: Context = ALONE) -> Streams:
        """Give both streams the same tokens; `context` is not read."""
        return Streams(x, x)


class Sum(nn.Module):
    """A sum with a name, so that it can be recorded."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add."""
        return x + y  # (batch, tokens, width)


class DualResidual(nn.Module):
    """One sub-layer F between two streams: (x, r) -> (N(x + F(x)), r + F(x))."""

    def __init__(self, op: ops.DualResidual, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.sum = Sum(op.name)
        self.norm = Norm(op.norm)

    def forward(self, streams: State, context: Context = ALONE) -> Streams:
        """Write the branch into both streams."""
        x, r = _two(streams, self.sum.name)
        y = self.branch(x, context)  # (batch, tokens, width)
        return Streams(self.norm(self.sum(x, y)), r + y)


class Merge(nn.Module):
    """The end of the second stream: x + N(r)."""

    def __init__(self, op: ops.Merge) -> None:
        super().__init__()
        self.norm = Norm(op.norm)

    def forward(self, streams: State, context: Context = ALONE) -> Tensor:
        """Add the normed second stream to the first; `context` is not read."""
        x, r = _two(streams, self.norm.name)
        return x + self.norm(r)  # (batch, tokens, width)
