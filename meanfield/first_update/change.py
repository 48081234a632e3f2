"""The change of hidden states at a point, and what it meets on its way."""

from __future__ import annotations

from typing import NamedTuple

from meanfield.first_update.algebra import multiply
from meanfield.gaussian import dual, dual_grad
from meanfield.moments.state import Kernel, Layout, Step
from meanfield.ops import FeedForward, Sequential


class Tangent(NamedTuple):
    """The change of the hidden states at a point.

    Attributes:
        aligned: K.
        fresh: F, per coordinate.
        gradient: G at the point, summed over coordinates.
    """

    aligned: Kernel
    fresh: Kernel
    gradient: Kernel


class Point(NamedTuple):
    """Relative change of the hidden states behind a layer.

    Attributes:
        layer: The layer.
        module: Name of its last op.
        change: Root of E||D||^2 / E||x||^2 over all tokens, at rate 1.
        aligned: The same of the aligned part.
    """

    layer: int
    module: str
    change: float
    aligned: float


def aligned_part(tangent: Tangent, width: int, layout: Layout) -> Kernel:
    """Compute the kernel of the aligned part, per coordinate: K G K / d.

    Args:
        tangent: The change.
        width: d.
        layout: Layout of the tokens.

    Returns:
        The kernel.
    """
    return multiply(layout, tangent.aligned, tangent.gradient, tangent.aligned) / width


def slope_products(op: FeedForward, step: Step, layout: Layout) -> dict[str, Kernel]:
    """Compute E s_i s_j of what a change is multiplied by at the activation.

    Args:
        op: The feed-forward op.
        step: Its step.
        layout: Layout of the tokens.

    Returns:
        The kernel by the map that the change comes from: phi' of ``up``; phi' times up(x) of ``gate`` and phi
        of ``up`` where there are both.
    """
    inner = step.inner
    acted = inner.get("gate", inner["up"]).after
    first, second = layout.pair(layout.own(acted))
    slope = dual_grad(op.activation, first, second, acted)
    if op.gate is None:
        return {"up": slope}
    return {"gate": slope * inner["up"].after, "up": dual(op.activation, first, second, acted)}


def last_name(step: Step) -> str:
    """Find the name of the last op of a step, behind which its output is a point.

    Args:
        step: The step of a block.

    Returns:
        The name.
    """
    while isinstance(step.op, Sequential) and step.inner:
        step = list(step.inner.values())[-1]
    return str(getattr(step.op, "name", "entry"))
