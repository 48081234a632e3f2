"""Lemmas 1, 4 and 5 of the paper: those that are about no network."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.checks import instances, numeric, proved, proved_sign
from meanfield.symbolic.kernels import relu_dual


def lemma1(setting: Setting) -> Derivation:
    """Derive E||ReLU(X)||^2 = s^2 d / 2.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 1.
    """
    x, s = sp.symbols("x sigma", positive=True)
    p, d = sp.symbols("p d", positive=True, integer=True)
    density = sp.exp(-(x**2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    one = sp.integrate(x**2 * density, (x, 0, sp.oo))
    with mpmath.workdps(40):
        integral = mpmath.quad(lambda t: t**2 * mpmath.npdf(t, 0, 3), [0, 3, 9, 30, 90])
        pairs = [(integral, mpmath.mpf(9) / 2)]
        by_quadrature = numeric(r"\sigma = 3: E[\mathrm{ReLU}(X_p)^2] = \frac{9}{2}", "quadrature", pairs)
    return Derivation(
        steps=(
            proved(
                r"E[\mathrm{ReLU}(X_p)^2] = \int_0^{\infty} x^2"
                r" \frac{\exp(-x^2/(2\sigma^2))}{\sqrt{2\pi} \sigma} dx"
                r" = \frac{\sigma^2}{2}",
                "integral",
                one - s**2 / 2,
            ),
            by_quadrature,
            proved(
                r"\sum_{p=1}^d E[\mathrm{ReLU}(X_p)^2] = \frac{\sigma^2 d}{2}",
                "sum over coordinates, which need not be independent",
                sp.summation(one, (p, 1, d)) - s**2 * d / 2,
            ),
            proved(
                r"\text{kernel of the interpreter at } q = \sigma^2: \frac{\sigma^2}{2}",
                "substitution",
                relu_dual(s**2, s**2)[0] - one,
                relu_dual(s**2, s**2)[1] - one,
            ),
        ),
        result=r"E\|\mathrm{ReLU}(X)\|^2 = \frac{\sigma^2 d}{2}",
        verdict="holds",
        condition="exact at every width",
        numbers={"E_relu_sq": setting.width / 2},
    )


def lemma4(setting: Setting) -> Derivation:
    """Derive the spectrum of I - a^T a.

    Args:
        setting: Sizes for the numbers; none here.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 4.
    """
    lam = sp.Symbol("lambda")
    differences = []
    for d in (2, 3, 4, 5):
        a = sp.Matrix([sp.symbols(f"a1:{d + 1}", real=True)])
        norm_sq = (a * a.T)[0]
        charpoly = (lam * sp.eye(d) - sp.eye(d) + a.T * a).det(method="berkowitz")
        differences.append(charpoly - (lam - 1) ** (d - 1) * (lam - 1 + norm_sq))
    vector = sp.Matrix([sp.symbols("a1:4", real=True)])
    length_sq = (vector * vector.T)[0]
    return Derivation(
        steps=(
            proved(
                r"\det(\lambda I - I + a^T a) = (\lambda - 1)^{d-1} (\lambda - 1 + \|a\|^2)",
                "determinant with symbolic entries, d = 2, 3, 4, 5 (matrix determinant lemma)",
                *differences,
            ),
            proved(
                r"(I - a^T a) a^T = (1 - \|a\|^2) a^T",
                "the vector of eigenvalue 0, d = 3",
                (sp.eye(3) - vector.T * vector) * vector.T - (1 - length_sq) * vector.T,
            ),
        ),
        result=r"\text{eigenvalues } 0 \text{ (once) and } 1 \text{ (} d - 1 \text{ times)}",
        verdict="holds",
        condition="every d at least 1",
    )


def lemma5(setting: Setting) -> Derivation:
    """Derive the reverse Markov inequality and its case of equality.

    Args:
        setting: Sizes for the numbers; none here.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 5.
    """
    gap, t, below = sp.symbols("b t s", positive=True)
    a, p = sp.symbols("a p", real=True)
    high = a + gap
    cases = []
    for k in range(2, 14):
        values = [Fraction((7 * i * k) % 11, 3) for i in range(k)]
        weights = [Fraction((5 * i + k) % 7 + 1) for i in range(k)]
        total = sum(weights)
        top, level = max(values) + Fraction(1, k), Fraction(k, 5)
        if level < top:
            chance = sum((w for v, w in zip(values, weights, strict=True) if v <= level), Fraction(0)) / total
            mean = sum(v * w for v, w in zip(values, weights, strict=True)) / total
            cases.append(chance <= (top - mean) / (top - level))
    return Derivation(
        steps=(
            proved_sign(
                r"Y \le a: \frac{B - Y}{B - a} \ge 1; \quad a < Y \le B: \frac{B - Y}{B - a} \ge 0",
                "signs, with B = a + b, Y = a - t, and Y = B - s",
                sp.simplify((high - (a - t)) / (high - a) - 1),
                sp.simplify((high - (high - below)) / (high - a)),
            ),
            instances(
                r"\Pr[Y \le a] = E[1_{Y \le a}] \le \frac{E[B - Y]}{B - a}",
                "discrete laws with rational probabilities",
                cases,
            ),
            proved(
                r"Y \in \{a, B\}, \Pr[Y = a] = p: \quad \frac{E[B - Y]}{B - a} = p",
                "equality case",
                (high - (p * a + (1 - p) * high)) / (high - a) - p,
            ),
        ),
        result=r"\Pr[Y \le a] \le \frac{E[B - Y]}{B - a}",
        verdict="holds",
        condition="sharp: equality when $Y$ takes only the values $a$ and $B$",
    )


DERIVATIONS = {"lemma1": lemma1, "lemma4": lemma4, "lemma5": lemma5}
