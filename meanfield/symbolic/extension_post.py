"""Gradients of deeper Post-LN layers: the paper's extension against the recurrence."""

from __future__ import annotations

import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.backward import backward
from meanfield.symbolic.checks import instances, proved
from meanfield.symbolic.extension import (
    DIFFERENCE,
    HALF,
    S,
    collapsed,
    down_by_layer,
    grad_by_layer,
    kappa,
    map_steps,
)
from meanfield.symbolic.recurrence import MIXING, RHO, A, B, N, layer_map, profile
from meanfield.symbolic.state import GradMoments


def post(setting: Setting) -> Derivation:
    """Derive how Post-LN gradients depend on the layer.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, App. F; the recurrences are derived here.
    """
    one_token = layer_map("post", sp.Integer(1), sp.Integer(1), sp.Integer(1))
    parts = one_token.sublayers  # residual and norm, twice
    norms = [backward(part.op, part, GradMoments(A, B)) for part in parts[1::2]]
    whole = [backward(res.op, res, back.grad) for res, back in zip(parts[::2], norms, strict=True)]
    coherent, difference, down = collapsed("post")
    k = sp.Symbol("k", integer=True, nonnegative=True)
    closed = (1 + (N - 1) * 2 ** (-k)) / N  # A after k layers, from A = 1, B = 0
    closed_b = (1 - 2 ** (-k)) / N
    forward_map = layer_map("post", sp.Integer(1), RHO, N).trace.after.cov
    # rho' = (rho + m)/(1 + m) by attention; the FFN's map has slope 1 at rho' = 1.
    r = sp.Symbol("r", positive=True)
    normalised = kappa(1, r)
    ffn_slope = sp.limit(sp.diff(sp.Rational(2, 3) * (r + normalised / 2), r), r, 1, "-")
    attention_slope = sp.diff((RHO + MIXING) / (1 + MIXING), RHO).subs(RHO, 1)
    near = [
        abs(sp.N((1 - forward_map.subs({RHO: 1 - sp.Rational(1, 10**12), N: n})) * 10**12, 40) - HALF) < 1e-5
        for n in (2, 16, 100)
    ]
    n = setting.tokens
    floor = sp.Rational(1, n)
    limits = [
        sp.limit(closed.subs(N, t) / sp.Rational(2, 3) ** k, k, sp.oo) == sp.oo for t in (1, 2, 16, 1000)
    ]
    run = profile("post", setting)
    grid = [Setting(2, depth, t) for depth in (2, 4, 6, 12, 60) for t in (1, 2, 4, 16, 64, 1000, 10**6)]
    level = [profile("post", sizes).down for sizes in grid]
    return Derivation(
        steps=(
            proved(
                r"n = 1: \quad \frac{2}{3} (1 + \frac{1}{2}) = 1 \text{ (FFN)}, \quad"
                r" \frac{1}{2} (1 + 1) = 1 \text{ (attention)}: \quad A_{l-1} = A_l",
                "interpreter: the LN factor 2/3 is cancelled by the branch's own gradient",
                norms[0].grad.q_grad - A / 2,
                norms[1].grad.q_grad - A * sp.Rational(2, 3),
                *(back.grad.q_grad - A for back in (*whole, one_token.back)),
            ),
            instances(
                r"n = 1: \quad A_l = A_L, \quad E\|\frac{\partial L}{\partial W^{2,l}}\|_F^2"
                r" = \frac{d}{3} A_L \text{ for every } l",
                "whole stacks of 1 to 6 layers",
                [
                    *(v == sp.Rational(1, 3) for depth in range(1, 7) for v in down_by_layer("post", depth)),
                    *(v == 1 for depth in range(1, 7) for v in grad_by_layer("post", depth)),
                ],
            ),
            *map_steps("post"),
            proved(
                r"\rho = 1: \quad A + (n-1) B \text{ is kept}, \quad A - B \leftarrow \frac{1}{2} (A"
                r" - B)",
                "the two modes of the layer map",
                coherent - S,
                difference - DIFFERENCE / 2,
            ),
            proved(
                r"A_L = a, B_L = 0: \quad A_l = \frac{a}{n} (1 + (n-1) 2^{-(L-l)}),"
                r" \quad A_{L-1} = \frac{a}{2} (1 + \frac{1}{n}), \quad A_l \to \frac{a}{n}",
                "closed form put into the modes; first layer and limit",
                closed + (N - 1) * closed_b - 1,
                closed - closed_b - sp.Rational(1, 2) ** k,
                closed.subs(k, 1) - (1 + 1 / N) / 2,
                sp.limit(closed.subs(N, n), k, sp.oo) - floor,
            ),
            proved(
                r"\rho = 1: \quad E\|\frac{\partial L}{\partial W^{2,l}}\|_F^2 = \frac{d}{3} n (A_l +"
                r" (n-1) B_l)",
                "weights see the kept mode alone: their gradient does not decay at all, for any n",
                down - N * S / 3,
            ),
            instances(
                r"\rho = 1: \quad \frac{A_l}{(2/3)^{L-l}} \to \infty",
                "n = 1, 2, 16, 1000: no such factor bounds A",
                limits,
                "limits by SymPy",
            ),
            instances(
                r"\rho_0 = 0: \quad \frac{4}{5} < \frac{E\|\partial L/\partial W^{2,l}\|^2}"
                r"{E\|\partial L/\partial W^{2,L}\|^2} < \frac{7}{5}",
                "every layer at the real correlations, L = 2 to 60, n = 1 to 1,000,000; the claim at L = "
                "60: 4e-11",
                (4 / 5 < value / down_[-1] < 7 / 5 for down_ in level for value in down_),
                "floating-point recurrence",
            ),
            proved(
                r"1 - \rho_{l+1} \approx \frac{1}{2} (1 - \rho_l): \quad \frac{1}{1 + m} = \frac{1}{2}"
                r" \text{ (attention)}, \quad \frac{2}{3} (1 + \frac{1}{2}) = 1 \text{ (FFN)}",
                "slopes of the correlation map at its fixed point $\\rho = 1$, attention for any n > 1",
                attention_slope - HALF,
                ffn_slope - 1,
            ),
            instances(
                r"\text{slope of the whole layer} = \frac{1}{2}",
                "n = 2, 16, 100, distance 1e-12",
                near,
                "40-digit arithmetic",
            ),
        ),
        result=r"\rho = 1: \quad A_l = \frac{A_L}{n} (1 + (n-1) 2^{-(L-l)}), \quad"
        r" E\|\frac{\partial L}{\partial W^{2,l}}\|_F^2 = \frac{d}{3} n A_L \text{ for every } l",
        verdict="fails",
        condition="counter-example $n = 1$: every layer has the same gradient, $\\frac{2}{3} \\cdot "
        "\\frac{3}{2} = 1$. "
        "What decays, for $n > 1$, is the gradient of a token, by $\\frac{1}{2} (1 + \\frac{1}{n})$ per "
        "layer down to "
        "$\\frac{1}{n}$: token mixing, not LayerNorm. Weight gradients collect all tokens: they are kept "
        "where tokens "
        "have aligned, and stay within $-20$ and $+40$ percent in square at every depth and n tried, for "
        "incoherent output gradients",
        numbers={
            "claimed_factor_sq": (2 / 3) ** (setting.depth - 1),
            "q_grad_first_over_last": run.q_grad[1] / run.q_grad[-1],
            "down_first_over_last": run.down[0] / run.down[-1],
            "floor": 1 / n,
            "rate": (1 + 1 / n) / 2,
            "rho_last": run.rho[-1],
        },
    )


DERIVATIONS = {"extension.post": post}
