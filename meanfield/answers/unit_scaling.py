"""The gradients of unit-scaled networks, whose published measurements are a test vector."""

from __future__ import annotations

import math

from meanfield.errors import InputError
from meanfield.gaussian.duals import dual, dual_grad


def unit_scaling_gradients(expansion: float) -> dict[str, float]:
    """Predict the gradients' standard deviation in the unit-scaled gated network, in units of their target 1.

        z = s x_up silu(x_gate), s = 2^(3/4)
        up: s sqrt(E[silu(u)^2] / e),  gate: s sqrt(E[silu'(u)^2] / e),  u ~ N(0, 1)

    Each weight has variance 1 and its map a factor fan_in^(-1/2); the backward pass uses the forward factors,
    so that the gradient of the hidden layer has variance 1/e, where e is the expansion d_ff / width.

    Args:
        expansion: d_ff over width.

    Returns:
        Standard deviation of an entry of the gradient of ``up`` and of ``gate``.

    Raises:
        InputError: If the expansion is not above 0.

    Assumes:
        Unit Gaussian input and output gradient; width to infinity.

    Source:
        blake2024, App. on operations; the published measurements are those of one random model of width 128.

    Example:
        >>> [round(unit_scaling_gradients(e)["up"], 2) for e in (1, 2, 4)]
        [1.0, 0.71, 0.5]
    """
    if not (math.isfinite(expansion) and expansion > 0):
        raise InputError(f"expansion={expansion} is no ratio of sizes: give a number above 0, such as 4")
    scale_sq = 2**1.5 / expansion
    return {
        "up": math.sqrt(scale_sq * float(dual("silu", 1.0, 1.0, 1.0))),
        "gate": math.sqrt(scale_sq * float(dual_grad("silu", 1.0, 1.0, 1.0))),
    }
