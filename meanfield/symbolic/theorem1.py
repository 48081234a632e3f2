"""Theorem 1: the gradient of the last W2, its bound with every constant, and its exact size."""

from __future__ import annotations

import math

import numpy as np
import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.checks import proved
from meanfield.symbolic.concentration import DELTA, EPS
from meanfield.symbolic.moments_of_norm import post_ln_norm_variance, pre_ln_norm_variance
from meanfield.symbolic.recurrence import DOWN, MIXING, RHO, A, B, D, N, Q, layer_map, profile
from meanfield.symbolic.theorem1_steps import (
    ALPHA,
    assembly,
    centring,
    chain_rule,
    normalisations,
    repair,
    tail,
)


def bound(width: int, second_moment: float) -> float:
    """The paper's bound on ||dL/dW2||_F for ||dL/dx_out|| = 1, every constant kept.

        d sqrt(2 ln(100 d) / (alpha_0 s)),  alpha_0 = 1/10

    Args:
        width: The width d.
        second_moment: s, what Lemma 2 gives for E||x||^2 / d: 3/2 or 1 + L/2.

    Returns:
        The bound.

    Source:
        xiong2020, App. E.

    Example:
        >>> round(bound(512, 1.5))
        6156
    """
    return width * math.sqrt(2 * math.log(100 * width) / (float(ALPHA) * second_moment))


def _best_probability(width: int) -> float:
    """The most that 0.99 - delta - eps/(0.9 + eps) promises with the chi-square lemma's delta, at least 0."""
    # The lemma gives a delta for every eps below 1; the best eps is above width^(-1/2).
    eps = np.geomspace(1e-9, 1, 20_001)
    promised = 0.99 - np.exp(-width * eps**2 / 8) - eps / (1 - float(ALPHA) + eps)
    return max(0.0, float(promised.max()))


def _numbers(setting: Setting, second_moment: float, exact: float) -> dict[str, float]:
    d, upper = setting.width, bound(setting.width, second_moment)
    unit = math.sqrt(d)
    return {
        "bound": upper,
        "bound_all_tokens": upper * math.sqrt(math.log(100 * d * setting.tokens) / math.log(100 * d)),
        "exact": exact,
        "factor": upper / exact,
        "exact_unit_coordinates": exact * unit,
        "factor_unit_coordinates": upper / (exact * unit),
        "probability_claimed_best": _best_probability(d),
        "probability_claimed_measured_pair": 0.99 - float(DELTA) - float(EPS / (1 + EPS - ALPHA)),
    }


def post(setting: Setting) -> Derivation:
    """Derive Theorem 1 for Post-LN.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Theorem 1, App. E.
    """
    s = sp.Rational(3, 2)
    one = layer_map("post", sp.Integer(1), RHO, N)
    incoherent = one.back.grad_sq[DOWN].subs(B, 0)
    relative = post_ln_norm_variance(D) / (s * D) ** 2
    alpha = sp.Rational(ALPHA.numerator, ALPHA.denominator)
    # Cantelli: Markov's inequality for (EZ - Z + u)^2 at its best shift u.
    u, v, t = sp.symbols("u v t", positive=True)
    cantelli = relative / (relative + (1 - alpha) ** 2)
    at_width = float(relative.subs(D, setting.width))
    numbers = _numbers(setting, 1.5, math.sqrt(setting.width / 3))
    lower_tail = at_width / (at_width + float(1 - ALPHA) ** 2)
    tau = math.sqrt(at_width * float(DELTA))
    repaired = (float(EPS) + tau) / float(1 + EPS - ALPHA)
    return Derivation(
        steps=(
            *chain_rule(),
            *tail(),
            *repair(),
            proved(
                r"\frac{\mathrm{Var} \|x_5\|^2}{(E\|x_5\|^2)^2} = \frac{5}{3d} + \frac{10}{9d^2}: \quad"
                r" \Pr[\|x_5\|^2 \le \alpha_0 E\|x_5\|^2] \le \frac{v}{v + (1 - \alpha_0)^2}",
                "exact variance v and Cantelli's inequality: step 3 without any boundedness, and better "
                "with width",
                relative - sp.Rational(5, 3) / D - sp.Rational(10, 9) / D**2,
                ((v + u**2) / (t + u) ** 2).subs(u, v / t) - v / (v + t**2),
                sp.limit(cantelli, D, sp.oo),
            ),
            *centring(s, "post"),
            *assembly(s, r"\frac{3}{2}"),
            proved(
                r"E\|\frac{\partial L}{\partial W^2}\|_F^2 = d \cdot \frac{1}{2} \cdot \frac{2}{3} n A ="
                r" \frac{d}{3} n A",
                "interpreter, incoherent gradients of mean square A per token, any correlation of tokens: "
                "independent of L",
                D * incoherent - D * N * A / 3,
            ),
            *normalisations(D / 3, s, sp.Integer(40), "40"),
        ),
        result=r"\sqrt{\frac{d}{3}} \|\frac{\partial L}{\partial x_{out}}\| = \mathrm{exact} \le"
        r" \|\frac{\partial L}{\partial x_{out}}\| d \sqrt{\frac{2 \ln(100 d)}{\alpha_0 \cdot 3/2}},"
        r" \quad \alpha_0 = \frac{1}{10}",
        verdict="holds_loosely",
        condition="factor bound/exact $\\sqrt{40 d \\ln(100 d)}$ for $\\|\\partial L/\\partial "
        "x_{out}\\| = 1$ (exact "
        "growth $\\sqrt{d}$), $\\sqrt{40 \\ln(100 d)}$ for unit coordinates (exact growth $d$); one "
        "token, else "
        "$\\ln(100 n d)$, and the tail of step 3 counts $n$ times; "
        "step 3 needs the lower tail too: $\\epsilon + \\tau$ in place of $\\epsilon$, "
        "or the exact "
        "variance of $\\|x_5\\|^2$; independence of $L$ is exact for incoherent token gradients",
        numbers={
            **numbers,
            "probability_repaired_measured_pair": 0.99 - repaired,
            "probability_cantelli": 0.99 - lower_tail,
            "probability_cantelli_all_tokens": max(0.0, 0.99 - setting.tokens * lower_tail),
        },
    )


def pre(setting: Setting) -> Derivation:
    """Derive Theorem 1 for Pre-LN.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Theorem 1, App. E.
    """
    depth = sp.Symbol("L", positive=True)
    low, high = 1 + depth / 2, 1 + 3 * depth / 2
    layer = layer_map("pre", Q, RHO, N)
    incoherent = layer.back.grad_sq[DOWN].subs(B, 0)
    relative = pre_ln_norm_variance(D, depth) / (high * D) ** 2
    q_last = profile("pre", setting).q[-1]
    exact = math.sqrt(setting.width / (2 * q_last))
    numbers = _numbers(setting, 1 + setting.depth / 2, exact)
    at_sizes = float(relative.subs({D: setting.width, depth: setting.depth}))
    ratio = sp.simplify(20 * 2 * high / low)
    return Derivation(
        steps=(
            *chain_rule(),
            *tail(),
            *repair(),
            proved(
                r"n = 1, L \to \infty: \quad \frac{\mathrm{Var} \|x_L\|^2}{(E\|x_L\|^2)^2} \to \frac{2}{d}",
                "exact variance at every width, summed over layers: Cantelli's inequality replaces step 3",
                sp.limit(relative, depth, sp.oo) - 2 / D,
            ),
            *centring(low, "pre"),
            *assembly(low, r"1 + \frac{L}{2}"),
            proved(
                r"E\|\frac{\partial L}{\partial W^{2,L}}\|_F^2 = \frac{d}{2 q_L} n A, \quad"
                r" q_L = q + m + \frac{1}{2}",
                "interpreter and final norm, incoherent gradients of mean square A per token",
                D * incoherent / layer.trace.after.q - D * N * A / (2 * (Q + MIXING + sp.Rational(1, 2))),
            ),
            *normalisations(D / (2 * high), low, ratio, r"40 \frac{1 + 3L/2}{1 + L/2}"),
            proved(
                r"n = 1: \quad \sqrt{L} \|\frac{\partial L}{\partial W^{2,L}}\|_F \to \sqrt{\frac{d}{3}}",
                "limit: the exact exponent of L is -1/2, as claimed",
                sp.limit(depth * D / (2 * high), depth, sp.oo) - D / 3,
            ),
        ),
        result=r"\sqrt{\frac{d}{2 q_L}} \|\frac{\partial L}{\partial x_{out}}\| = \mathrm{exact} \le"
        r" \|\frac{\partial L}{\partial x_{out}}\| d \sqrt{\frac{2 \ln(100 d)}{\alpha_0 (1 + L/2)}},"
        r" \quad 1 + \frac{L}{2} \le q_L \le 1 + \frac{3L}{2}",
        verdict="holds_loosely",
        condition="factor bound/exact $\\sqrt{40 d \\ln(100 d) q_L / (1 + L/2)}$ for "
        "$\\|\\partial L/\\partial x_{out}\\| = 1$, less by $\\sqrt{d}$ for unit coordinates; the "
        "exponents of $L$ agree; "
        "one token, else $\\ln(100 n d)$, and the tail of step 3 counts $n$ times; "
        "step 3 needs the lower tail too: $\\epsilon + \\tau$ in place "
        "of $\\epsilon$",
        numbers={
            **numbers,
            "q_L": q_last,
            "probability_cantelli_one_token": 0.99 - at_sizes / (at_sizes + float(1 - ALPHA) ** 2),
        },
    )


DERIVATIONS = {"theorem1.post": post, "theorem1.pre": pre}
