"""Lemma 2: the second moment of hidden states, Post-LN and Pre-LN."""

from __future__ import annotations

import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.checks import instances, proved
from meanfield.symbolic.lemma3 import layer_norm
from meanfield.symbolic.recurrence import MIXING, RHO, N, Q, layer_map, profile


def lemma2_post(setting: Setting) -> Derivation:
    """Derive E||x5||^2 = (3/2) d.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 2.
    """
    rows = [sp.Matrix([sp.symbols(f"x1:{d + 1}", real=True)]) for d in (2, 3, 4)]
    norms = [layer_norm(x) for x in rows]
    ffn = layer_map("post", sp.Integer(1), RHO, N).sublayers[2]
    s, r = (sp.Matrix([sp.symbols(f"{name}1:4", real=True)]) for name in "sr")
    w = sp.Matrix(3, 3, sp.symbols("w1:10", real=True))

    def square(row: sp.Matrix) -> sp.Expr:
        return (row * row.T)[0]

    return Derivation(
        steps=(
            proved(
                r"\|x_3\|^2 = \|LN(x_2)\|^2 = d",
                "from the definition of LayerNorm, d = 2, 3, 4",
                *(sum(e**2 for e in y) - y.shape[1] for y in norms),
            ),
            proved(
                r"x_3 W^1 \sim N(0, I_d): \quad E\|x_4\|^2 = E\|\mathrm{ReLU}(x_3 W^1)\|^2 = \frac{d}{2}",
                "Lemma 1 in the interpreter's branch, any number and correlation of tokens",
                ffn.inner[0].after.q - sp.Rational(1, 2),
            ),
            proved(
                r"E\langle x_3, x_4 \rangle = 0",
                "the cross term changes sign with $W^2$: it leaves the mean over $W^2$ and $-W^2$, d = 3",
                (square(s + r * w) + square(s - r * w)) / 2 - square(s) - square(r * w),
            ),
            proved(
                r"E\|x_5\|^2 = d + \frac{d}{2} = \frac{3}{2} d",
                "interpreter, any number and correlation of tokens",
                ffn.before.q - 1,
                ffn.after.q - sp.Rational(3, 2),
            ),
        ),
        result=r"E\|x_5\|^2 = \frac{3}{2} d",
        verdict="holds",
        condition="exact at every width, for every token and every layer",
        numbers={"E_x5_sq": 1.5 * setting.width},
    )


def lemma2_pre(setting: Setting) -> Derivation:
    """Derive the two bounds on the Pre-LN stream, and say when they are reached.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 2.
    """
    layer = sp.Symbol("l", integer=True, nonnegative=True)
    seq = sp.Function("q")
    lagrange = []
    for n in (2, 3, 5):
        u = sp.symbols(f"u1:{n + 1}", real=True)
        spread = sum((u[i] - u[j]) ** 2 for i in range(n) for j in range(i))
        lagrange.append(n * sum(x**2 for x in u) - sum(u) ** 2 - spread)
    one = layer_map("pre", Q, RHO, N).trace
    ends = [
        sp.rsolve(seq(layer + 1) - seq(layer) - m - sp.Rational(1, 2), seq(layer), {seq(0): 1})
        for m in (0, 1)
    ]
    first = layer_map("pre", sp.Integer(1), sp.Integer(0), N).trace.after
    rho_first = sp.limit(first.cov, N, sp.oo) / sp.limit(first.q, N, sp.oo)
    run = profile("pre", setting)
    long = 20_000
    slopes = [profile("pre", Setting(2, long, n)).q[-1] / long for n in (2, 16, 1000)]
    return Derivation(
        steps=(
            proved(
                r"\frac{1}{n} \sum_i \|u_i\|^2 - \|\frac{1}{n} \sum_i u_i\|^2"
                r" = \frac{1}{n^2} \sum_{i<j} \|u_i - u_j\|^2 \ge 0, \quad"
                r" \|u_i\|^2 = d: \quad 0 \le m \le 1",
                "identity by coordinate, n = 2, 3, 5: the mean of normed tokens has square norm m d, no "
                "average "
                "over weights needed",
                *lagrange,
            ),
            proved(
                r"q_{l+1} = q_l + m_l + \frac{1}{2}, \quad m = \frac{1 + (n-1) \rho}{n}",
                "interpreter",
                one.after.q - Q - MIXING - sp.Rational(1, 2),
            ),
            proved(
                r"m = 0: q_l = 1 + \frac{l}{2}; \quad m = 1: q_l = 1 + \frac{3l}{2}",
                "recurrence solved",
                ends[0] - 1 - layer / 2,
                ends[1] - 1 - 3 * layer / 2,
            ),
            proved(
                r"m = 1 \text{ for } n = 1 \text{ or } \rho = 1; \quad"
                r" m \to 0 \text{ for } \rho = 0, n \to \infty",
                "substitution and limit",
                MIXING.subs(N, 1) - 1,
                MIXING.subs(RHO, 1) - 1,
                sp.limit(MIXING.subs(RHO, 0), N, sp.oo),
            ),
            proved(
                r"\rho_0 = 0, n \to \infty: \quad \rho_1 = \frac{1}{3\pi} > 0",
                "the lower end is left after one layer: ReLU makes tokens overlap, so the next m is not 0",
                rho_first - 1 / (3 * sp.pi),
            ),
            instances(
                r"l = 20000: \quad \frac{q_l}{l} = " + ", ".join(f"{slope:.4f}" for slope in slopes),
                "n = 2, 16, 1000, uncorrelated input: between 1.48 and 1.5, the slope of the upper end",
                [1.48 < slope < 1.5001 for slope in slopes],
                "floating-point recurrence",
            ),
        ),
        result=r"1 + \frac{l}{2} \le \frac{1}{d} E\|x_l\|^2 = 1 + \sum_{k<l} (m_k + \frac{1}{2})"
        r" \le 1 + \frac{3l}{2}",
        verdict="holds",
        condition="exact at every width; the upper end is reached for n = 1 or equal tokens at every "
        "$l$, the lower "
        "end only at $l = 1$ in the limit of many uncorrelated tokens; since $\\rho \\to 1$ with depth, "
        "$q_l / l \\to 3/2$ for every $n$",
        numbers={
            "q_low": 1 + setting.depth / 2,
            "q": run.q[-1],
            "q_high": 1 + 1.5 * setting.depth,
            "rho": run.rho[-1],
        },
    )


DERIVATIONS = {"lemma2.post": lemma2_post, "lemma2.pre": lemma2_pre}
