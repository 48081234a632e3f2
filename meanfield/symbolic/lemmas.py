"""Lemmas 1 to 5 of the paper, derived."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.checks import instances, numeric, proved, proved_sign
from meanfield.symbolic.kernels import relu_dual
from meanfield.symbolic.recurrence import MIXING, RHO, N, Q, layer_map, profile


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


def _layer_norm(x: sp.Matrix) -> sp.Matrix:
    """LayerNorm by its definition: subtract the mean over coordinates, divide by the standard deviation."""
    d = x.shape[1]
    centred = x - sp.ones(1, d) * (sum(x) / d)
    return centred / sp.sqrt(sum(entry**2 for entry in centred) / d)


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
    norms = [_layer_norm(x) for x in rows]
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


def _jacobian_claimed(x: sp.Matrix) -> sp.Matrix:
    d = x.shape[1]
    centre = sp.eye(d) - sp.ones(d, d) / d
    y = x * centre
    norm_sq = (y * y.T)[0]
    return (sp.eye(d) - y.T * y / norm_sq) * centre / sp.sqrt(norm_sq / d)


def lemma3(setting: Setting) -> Derivation:
    """Derive the Jacobian of LayerNorm and its norm, and when O(sqrt(d)/||x||) follows.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 3.
    """
    x = sp.Matrix([sp.symbols("x1:4", real=True)])
    # Points whose standard deviation is rational: no roots to simplify.
    rational = ([1, 3], [6, 0, 0, -2], [5, -1, 3, 1, 2], [4, -2, 3, 0, 0, 1])
    points = [sp.Matrix([p]) for p in rational]
    exact, projector = [], []
    for point in points:
        d = point.shape[1]
        xs = sp.Matrix([sp.symbols(f"x1:{d + 1}", real=True)])
        at = dict(zip(xs, point, strict=True))
        # Row vectors: entry (p, q) is the derivative of output q by input p.
        derivative = _layer_norm(xs).jacobian(xs).T.subs(at)
        claimed = _jacobian_claimed(point)
        exact.append(derivative == claimed)
        centred = point - sp.ones(1, d) * sp.Rational(sum(point), d)
        p = claimed * sp.sqrt((centred * centred.T)[0] / d)
        projector.append(p * p == p and p == p.T and p.trace() == d - 2)
    t, s = sp.symbols("t s", positive=True)
    shifted = sp.Matrix([[t + 1, t - 1, t]])
    normed = _jacobian_claimed(shifted.subs(t, 1)) * sp.sqrt(sp.Rational(2, 3))
    ratio = sp.sqrt((shifted * shifted.T)[0] / 2)  # ||x||/||y||: y = (1, -1, 0)
    trace = [
        sp.trace(sp.eye(d) - sp.ones(d, d) / d) * s**2 - s**2 * d * (1 - sp.Rational(1, d)) for d in (2, 3, 7)
    ]
    return Derivation(
        steps=(
            proved(
                r"J_{LN}(x) = \frac{\sqrt{d}}{\|y\|} (I - \frac{y^T y}{\|y\|^2}) (I - \frac{1}{d} 1^T 1)",
                "every entry, differentiated from the definition, d = 3",
                _layer_norm(x).jacobian(x).T - _jacobian_claimed(x),
            ),
            instances(
                r"\frac{\partial LN(x)_q}{\partial x_p} = J_{LN}(x)_{pq}",
                "rational points, d = 2, 4, 5, 6",
                exact,
            ),
            instances(
                r"P = \frac{\|y\|}{\sqrt{d}} J: \quad P^2 = P = P^T, \quad \mathrm{tr} P = d - 2",
                "rational points, d = 2, 4, 5, 6; a projector has norm 1, or 0 when its trace is 0",
                projector,
            ),
            proved(
                r"x = t 1 + (1, -1, 0): \quad \|J\|_2 = \frac{\sqrt{3}}{\sqrt{2}}"
                r" \text{ for every } t, \quad"
                r" \frac{\|x\|}{\|y\|} \to \infty",
                "counter-example to the step from $\\|y\\|$ to $\\|x\\|$: limit; $\\sqrt{2/3} J$ is a "
                "projector of trace 1",
                _jacobian_claimed(shifted) - _jacobian_claimed(shifted.subs(t, 1)),
                normed * normed - normed,
                sp.trace(normed) - 1,
                1 / sp.limit(ratio, t, sp.oo),
            ),
            proved(
                r"x \sim N(0, s^2 I_d): \quad E\|y\|^2 = s^2 \mathrm{tr}(I - \frac{1}{d} 1^T 1)"
                r" = (1 - \frac{1}{d}) E\|x\|^2",
                "trace, d = 2, 3, 7",
                *trace,
            ),
        ),
        result=r"\|J_{LN}(x)\|_2 = \frac{\sqrt{d}}{\|y\|} \text{ for } d \ge 3; \quad J_{LN} = 0"
        r" \text{ for } d = 2",
        verdict="holds_under",
        condition="the formula is exact; $O(\\sqrt{d}/\\|x\\|)$ needs $\\|y\\| \\ge c \\|x\\|$, that is, "
        "the mean over "
        "coordinates must not dominate $x$; at initialisation $E\\|y\\|^2 = (1 - 1/d) E\\|x\\|^2$",
        # Post-LN: x5 = x3 + x4, where LayerNorm has centred x3 already: E||y||^2/d = 1 + (1 - 1/d)/2.
        numbers={
            "centred_share": 1 - 1 / setting.width,
            "jacobian_norm_post": 0.0 if setting.width == 2 else (1.5 - 0.5 / setting.width) ** -0.5,
        },
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


DERIVATIONS = {
    "lemma1": lemma1,
    "lemma2.post": lemma2_post,
    "lemma2.pre": lemma2_pre,
    "lemma3": lemma3,
    "lemma4": lemma4,
    "lemma5": lemma5,
}
