"""How ops are put together: residual sums, parallel branches, sequences, runs of layers, two streams."""

from __future__ import annotations

from dataclasses import dataclass

from meanfield.errors import InputError, positive_integer
from meanfield.ops.base import Number, Op, finite
from meanfield.ops.token_maps import Norm


@dataclass(frozen=True, slots=True)
class Residual(Op):
    """The sum skip_scale * x + branch_scale * branch(x).

    Args:
        name: Module name of the sum in tables, for example ``"residual1"``.
        branch: The op beside the skip connection.
        skip_scale: Factor on x.
        branch_scale: Factor on branch(x).
    """

    name: str
    branch: Op
    skip_scale: Number = 1
    branch_scale: Number = 1

    def __post_init__(self) -> None:
        finite("skip_scale", self.skip_scale)
        finite("branch_scale", self.branch_scale)


@dataclass(frozen=True, slots=True)
class Parallel(Op):
    """The sum of several branches that read the same input.

    Args:
        branches: At least one op.

    Raises:
        InputError: If there is no branch.
    """

    branches: tuple[Op, ...]

    def __post_init__(self) -> None:
        if not self.branches:
            raise InputError("Parallel without branches: give at least one op")


@dataclass(frozen=True, slots=True)
class Sequential(Op):
    """Ops applied one after another, the first one first."""

    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Repeat(Op):
    """A block applied several times, each time with weights of its own: a run of equal layers.

    Args:
        block: The op of one layer.
        times: Number of layers, at least 1.
    """

    block: Sequential
    times: int

    def __post_init__(self) -> None:
        positive_integer("depth", self.times)


@dataclass(frozen=True, slots=True)
class Fork(Op):
    """The start of a second stream: x -> (x, x)."""


@dataclass(frozen=True, slots=True)
class DualResidual(Op):
    """One sub-layer F between two streams: (x, r) -> (N(x + F(x)), r + F(x)).

    Args:
        name: Module name of the sum x + F(x) in tables, for example ``"residual1"``.
        branch: F.
        norm: N.
    """

    name: str
    branch: Op
    norm: Norm


@dataclass(frozen=True, slots=True)
class Merge(Op):
    """The end of the second stream: (x, r) -> x + N(r).

    Args:
        norm: N.
    """

    norm: Norm
