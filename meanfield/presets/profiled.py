"""Admin: factors that the forward pass itself determines, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from meanfield.errors import positive_integer
from meanfield.ops import Op, Repeat, Residual, Sequential, Transformer
from meanfield.presets.builder import placed
from meanfield.presets.options import OPTIONS, options_from


def admin(*, width: int, depth: int, tokens: int = 32, **options: Any) -> Transformer:
    """Build Admin: Post-LN whose skip connections are scaled by what the branches before them add.

        x <- N(omega_k x + F_k(x)),  omega_1 = 1,  omega_{k+1}^2 = omega_k^2 Var x_k + Var F_k

    After a norm Var x_k = 1, so that omega_k^2 is 1 + the sum of Var F_j over j < k. The authors profile a
    batch; here the mean-field forward pass gives the variances, with every omega in place.

    Args:
        width: Size of a token.
        depth: Number of layers.
        tokens: Tokens of a sequence in the profile: attention averages over them.
        options: As for `post_ln`, without skip_scale and branch_scale.

    Returns:
        The architecture; omega is a constant here, and a learned vector in the authors' code.

    Assumes:
        Input vectors are independent, of second moment 1; width to infinity.

    Source:
        liu2020, Sec. 4.3; one stack, with the order of the authors' code.

    Example:
        Attention over a single token, with weights of variance 1/n_in, adds 1.

        >>> arch = admin(width=64, depth=1, tokens=1, init="lecun_normal", norm_eps=0.0)
        >>> [round(op.skip_scale**2, 9) for op in arch.layers[0].block.ops if hasattr(op, "skip_scale")]
        [1.0, 2.0]
    """
    # The theory imports the presets: the other way round only when asked.
    from meanfield.moments.forward import forward
    from meanfield.moments.inputs import Input, input_kernel
    from meanfield.moments.stack import needs_order
    from meanfield.moments.state import Exchangeable, Gram

    accepted = tuple(name for name in OPTIONS if name not in ("skip_scale", "branch_scale"))
    options_from(options, accepted)
    base = placed("post_ln", width, depth, options, name="admin")
    tokens = positive_integer("tokens", tokens)
    layout = Gram(tokens, 1) if needs_order(base) else Exchangeable(tokens, 1)
    kernel = input_kernel(base, layout, Input())
    if base.entry is not None:
        kernel = forward(base.entry, kernel, layout).after
    omega_sq, runs = 1.0, []
    for _, block in base.blocks():
        ops: list[Op] = []
        for op in block.ops:
            scaled = replace(op, skip_scale=omega_sq**0.5) if isinstance(op, Residual) else op
            step = forward(scaled, kernel, layout)
            if isinstance(op, Residual):
                added = layout.own(step.inner["branch"].after)
                omega_sq = float(omega_sq * np.mean(layout.own(kernel)) + np.mean(added))
            kernel = step.after
            ops.append(scaled)
        runs.append(Repeat(Sequential(tuple(ops)), 1))
    return replace(base, placement="admin", layers=tuple(runs))
