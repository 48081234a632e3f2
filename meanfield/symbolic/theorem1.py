"""Theorem 1: the gradient of the last W2, its bound with every constant, and its exact size."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import sympy as sp

from meanfield.claims import Derivation, Setting, Step
from meanfield.symbolic.checks import instances, proved, proved_sign
from meanfield.symbolic.concentration import DELTA, EPS, upper_tail_only
from meanfield.symbolic.moments_of_norm import post_ln_norm_variance, pre_ln_norm_variance
from meanfield.symbolic.recurrence import DOWN, MIXING, RHO, A, B, D, N, Q, layer_map, profile

ALPHA = Fraction(1, 10)


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


def _chain_rule() -> tuple[Step, ...]:
    h, g = sp.Matrix([sp.symbols("h1:4", real=True)]), sp.Matrix([sp.symbols("g1:3", real=True)])
    gradient = h.T * g
    frobenius = sum(entry**2 for entry in gradient)
    top, more = sp.symbols("t k", nonnegative=True)
    below = sp.symbols("s1:4", nonnegative=True)  # h_p^2 = max - s_p
    return (
        proved(
            r"\frac{\partial L}{\partial W^2_{pq}} = h_p g_q, \quad h = \mathrm{ReLU}(x_3 W^1), \quad"
            r" g = \frac{\partial L}{\partial x_{out}} J_{LN}: \quad"
            r" \|\frac{\partial L}{\partial W^2}\|_F^2 = \|h\|^2 \|g\|^2",
            "one token, 3 x 2 matrix, $h W^2$ differentiated against a given g",
            frobenius - (h * h.T)[0] * (g * g.T)[0],
            sp.Matrix(
                3,
                2,
                lambda p, q: sp.diff(
                    (h * sp.Matrix(3, 2, sp.symbols("w1:7")) * g.T)[0], sp.Symbol(f"w{2 * p + q + 1}")
                ),
            )
            - gradient,
        ),
        proved_sign(
            r"\|h\|^2 \|g\|^2 \le d \|g\|^2 \max_p h_p^2 \le d^2 \|g\|^2 \max_p h_p^2",
            "signs, with $h_p^2 = \\max - s_p$ for three entries, and d = 1 + k; the last step is the "
            "paper's, which puts $\\|g\\|$ for each of the d entries $g_q$",
            sp.expand(3 * top - sum(top - s for s in below)),
            sp.expand(((1 + more) ** 2 - (1 + more)) * top),
        ),
    )


def _tail() -> tuple[Step, ...]:
    z, lam = sp.symbols("z lambda", real=True)
    d, n, t = sp.symbols("d n t", positive=True)
    moment = sp.integrate(sp.exp(lam * z - z**2 / 2) / sp.sqrt(2 * sp.pi), (z, -sp.oo, sp.oo))
    chernoff = sp.simplify((moment * sp.exp(-lam * t)).subs(lam, t))
    return (
        proved(
            r"\Pr[h_p^2 \ge 2 \ln(100 d)] \le \exp(-\frac{1}{2} \cdot 2 \ln(100 d)) = \frac{0.01}{d}:"
            r" \quad \Pr[\max_p h_p^2 \ge 2 \ln(100 d)] \le 0.01",
            "Chernoff bound of a standard normal, union over p for one token",
            moment - sp.exp(lam**2 / 2),
            chernoff - sp.exp(-(t**2) / 2),
            d * chernoff.subs(t, sp.sqrt(2 * sp.log(100 * d))) - sp.Rational(1, 100),
        ),
        proved(
            r"\text{all } n \text{ tokens: } \Pr[\max_{i,p} h_{ip}^2 \ge 2 \ln(100 n d)] \le 0.01",
            "the loss averages n tokens, so the union is over $n d$ events; the paper leaves out $\\ln n$",
            n * d * chernoff.subs(t, sp.sqrt(2 * sp.log(100 * n * d))) - sp.Rational(1, 100),
        ),
    )


def _repair() -> tuple[Step, ...]:
    """Step 3: what is wrong with it, and the inequality that replaces it."""
    a = ALPHA
    conditional, repaired, cauchy = [], [], []
    for p in (Fraction(1, 8), Fraction(1, 20), Fraction(1, 100)):
        top = 1 + EPS
        for low in (Fraction(0), Fraction(1, 20), Fraction(1, 2)):
            # Z = low with probability 1 - p, else so large that EZ = 1.
            high = (1 - low * (1 - p)) / p
            law = {low: 1 - p, high: p}
            mean = sum(z * c for z, c in law.items())
            kept = sum(z * c for z, c in law.items() if z <= top) / sum(c for z, c in law.items() if z <= top)
            conditional.append(mean == 1 and top - kept >= EPS)
            tau = sum((z - top) * c for z, c in law.items() if z > top)
            chance = sum((c for z, c in law.items() if z <= a), Fraction(0))
            repaired.append(chance <= (EPS + tau) / (1 + EPS - a))
            variance = sum((z - 1) ** 2 * c for z, c in law.items())
            above = sum((c for z, c in law.items() if z > top), Fraction(0))
            cauchy.append(tau**2 <= variance * above)
    # Nine laws with more than two values, where tau is small.
    for k in range(3, 12):
        values = [Fraction(2 * i + 1, k) for i in range(k)]  # uniform, mean 1
        tau = sum((v - 1 - EPS for v in values if v > 1 + EPS), Fraction(0)) / k
        chance = Fraction(sum(v <= a for v in values), k)
        repaired.append(sum(values) == k and chance <= (EPS + tau) / (1 + EPS - a))
        above = Fraction(sum(v > 1 + EPS for v in values), k)
        cauchy.append(tau**2 <= sum((v - 1) ** 2 for v in values) / k * above)
    e, t, alpha = sp.symbols("epsilon tau alpha", positive=True)
    b, u = sp.symbols("b u", positive=True)
    tenth = sp.Rational(1, 10)
    return (
        instances(
            r"B = (1 + \epsilon) EZ: \quad E[Z | Z \le B] \le EZ, \text{ so } B - E[Z | Z \le B] \ge"
            r" \epsilon EZ",
            "the paper conditions on $Z \\le B$ and then uses Lemma 5 with the unconditional mean: the wrong "
            "direction",
            conditional,
        ),
        upper_tail_only(),
        proved(
            r"\Pr[Z \le \alpha EZ] \le \frac{\epsilon + \tau}{1 + \epsilon - \alpha},"
            r" \quad \tau = \frac{E[(Z - B)^+]}{EZ}",
            "Lemma 5 for min(Z, B), no conditioning; its mean is $(1 - \\tau) EZ$, since "
            "$\\min(Z, B) = Z - (Z - B)^+$ above and below B",
            sp.Min(b + u, b) - (b + u - sp.Max(u, 0)),
            sp.Min(b - u, b) - (b - u - sp.Max(-u, 0)),
            ((1 + e) - (1 - t)) / ((1 + e) - alpha) - (e + t) / (1 + e - alpha),
        ),
        instances(
            r"\epsilon = \alpha = \frac{1}{10}: \quad \Pr[Z \le \frac{EZ}{10}] \le \frac{1}{10} + \tau",
            "discrete laws, the counter-example among them",
            repaired,
        ),
        instances(
            r"\tau \le \frac{\mathrm{sd}(Z)}{EZ} \sqrt{\delta}", "Cauchy-Schwarz, the same laws", cauchy
        ),
        proved(
            r"\text{all } n \text{ tokens: } \Pr[\min_i Z_i \le \frac{EZ}{10}] \le n (\frac{1}{10} + \tau),"
            r" \text{ which says nothing from } n = 10 \text{ on}",
            "union over tokens: the loss needs the lower tail of every token, and the paper counts it once",
            (N * (e + t) / (1 + e - alpha)).subs({e: tenth, alpha: tenth}) - N * (tenth + t),
            (N * tenth).subs(N, 10) - 1,
        ),
    )


def _mean_over(expression: sp.Expr, variances: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """Average a quadratic form over independent centred variables with these variances."""
    poly, total = sp.Poly(expression, *variances), sp.Integer(0)
    for powers, coefficient in poly.terms():
        if all(power % 2 == 0 for power in powers):
            total += coefficient * sp.prod(
                v for v, power in zip(variances.values(), powers, strict=True) if power
            )
    return total


def _centring(second_moment: sp.Expr, placement: str) -> tuple[Step, ...]:
    """What the centred y of Lemma 3 costs where the paper writes x."""
    centre_sq, share_sq, added = [], [], []
    input_share = 1 - 1 / D
    for d in (2, 3, 4):
        s, r = (sp.Matrix([sp.symbols(f"{name}1:{d + 1}", real=True)]) for name in "sr")
        w = sp.Matrix(d, d, sp.symbols(f"w1:{d * d + 1}", real=True))
        centre = sp.eye(d) - sp.ones(d, d) / d
        v = sp.Symbol("v", positive=True)

        def square(row: sp.Matrix) -> sp.Expr:
            return sp.expand((row * row.T)[0])

        centre_sq.append(square(s) - square(s * centre) - sp.Rational(1, d) * sum(s) ** 2)
        entries = dict.fromkeys(w, sp.Rational(1, d))
        y_sq = _mean_over(square((s + r * w) * centre), entries)
        added.append(y_sq - square(s * centre) - (1 - sp.Rational(1, d)) * square(r))
        coordinates = dict.fromkeys(s, v)
        share_sq.append(_mean_over(y_sq, coordinates) - input_share.subs(D, d) * (d * v + square(r)))
    if placement == "post":
        share = 1 - 1 / (3 * D)
        shares = proved(
            r"s = x_3 \text{ is centred}, \quad E\|r\|^2 = \frac{d}{2}: \quad c ="
            r" \frac{E\|y\|^2}{E\|x_5\|^2} = 1 - \frac{1}{3d}",
            "Lemma 2, at every width",
            (D + (1 - 1 / D) * (second_moment - 1) * D) / (second_moment * D) - share,
        )
    else:
        share = input_share
        shares = proved(
            r"s = x_0 \text{ with independent centred coordinates of variance } v: \quad c ="
            r" \frac{E\|y\|^2}{E\|x\|^2} = 1 - \frac{1}{d}, \text{ and so after every further } r W",
            "the same average over $x_0$ as well, d = 2, 3, 4",
            *share_sq,
        )
    return (
        proved(
            r"x = s + r W: \quad E_W\|y\|^2 = \|s (I - \frac{1}{d} 1^T 1)\|^2 + (1 - \frac{1}{d}) \|r\|^2",
            "average over W with independent centred entries of variance 1/d, any s and r, d = 2, 3, 4",
            *added,
        ),
        shares,
        proved(
            r"\|J_{LN}\|_2^2 = \frac{d}{\|y\|^2}, \quad \|y\|^2 = \|x\|^2 - \frac{1}{d} (\sum_p x_p)^2:"
            r" \quad \|y\|^2 \ge \alpha_0 E\|y\|^2 \text{ costs a factor } c^{-1/2}",
            "Lemma 3 has the centred y where the paper writes x; step 3 is needed for y, d = 2, 3, 4",
            *centre_sq,
            _bounds_sq(share * second_moment)[0] / _bounds_sq(second_moment)[0] - 1 / share,
        ),
    )


def _bounds_sq(second_moment: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Square of the paper's bound and of the sharper one for a unit gradient, put together from the steps."""
    jacobian_sq = D / (sp.Rational(ALPHA.numerator, ALPHA.denominator) * second_moment * D)
    tail = 2 * sp.log(100 * D)
    return D**2 * jacobian_sq * tail, D * jacobian_sq * tail


def _assembly(second_moment: sp.Expr, name: str) -> tuple[Step, ...]:
    paper_sq, sharper_sq = _bounds_sq(second_moment)
    return (
        proved(
            rf"\|\frac{{\partial L}}{{\partial W^2}}\|_F \le \|\frac{{\partial L}}{{\partial x_{{out}}}}\| d"
            rf" \sqrt{{\frac{{2 \ln(100 d)}}{{\alpha_0 s}}}}, \quad s = {name}, \quad"
            r" \alpha_0 = \frac{1}{10}",
            "Lemma 2, Lemma 3 and the tail put together",
            paper_sq - (D * sp.sqrt(20 * sp.log(100 * D) / second_moment)) ** 2,
        ),
        proved(
            r"\|\frac{\partial L}{\partial W^2}\|_F \le \|g\| \sqrt{d} \max_p |h_p| \le"
            r" \|\frac{\partial L}{\partial x_{out}}\| \sqrt{\frac{2 d \ln(100 d)}{\alpha_0 s}}",
            "sharper: the $g_q^2$ are summed to $\\|g\\|^2$, which saves a factor $\\sqrt{d}$",
            sharper_sq - 20 * D * sp.log(100 * D) / second_moment,
        ),
    )


def _normalisations(
    exact_sq: sp.Expr, second_moment: sp.Expr, ratio: sp.Expr, result: str
) -> tuple[Step, ...]:
    """Bound over exact value with unit gradient, and with gradient coordinates of unit size."""
    log = sp.log(100 * D)
    paper_sq, sharper_sq = _bounds_sq(second_moment)
    return (
        proved(
            r"\|\frac{\partial L}{\partial x_{out}}\| = 1: \quad \frac{\mathrm{bound}^2}{\mathrm{exact}^2} = "
            + rf"{result} d \ln(100 d)",
            "the exact value grows like $\\sqrt{d}$, the bound like $d \\sqrt{\\ln d}$",
            paper_sq / exact_sq - ratio * D * log,
        ),
        proved(
            r"|\frac{\partial L}{\partial x_{out,q}}| = 1, \text{ so } \|\frac{\partial L}{\partial"
            r" x_{out}}\|"
            r" = \sqrt{d}: \quad \frac{\text{sharper bound}^2}{\mathrm{exact}^2} = "
            + rf"{result} \ln(100 d)",
            "the exact value grows like d; the sharper bound is then the paper's expression "
            "$d \\sqrt{2 \\ln(100 d) / (\\alpha_0 s)}$",
            D * sharper_sq / (D * exact_sq) - ratio * log,
            sp.sqrt(D * sharper_sq) - D * sp.sqrt(20 * log / second_moment),
        ),
    )


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
            *_chain_rule(),
            *_tail(),
            *_repair(),
            proved(
                r"\frac{\mathrm{Var} \|x_5\|^2}{(E\|x_5\|^2)^2} = \frac{5}{3d} + \frac{10}{9d^2}: \quad"
                r" \Pr[\|x_5\|^2 \le \alpha_0 E\|x_5\|^2] \le \frac{v}{v + (1 - \alpha_0)^2}",
                "exact variance v and Cantelli's inequality: step 3 without any boundedness, and better "
                "with width",
                relative - sp.Rational(5, 3) / D - sp.Rational(10, 9) / D**2,
                ((v + u**2) / (t + u) ** 2).subs(u, v / t) - v / (v + t**2),
                sp.limit(cantelli, D, sp.oo),
            ),
            *_centring(s, "post"),
            *_assembly(s, r"\frac{3}{2}"),
            proved(
                r"E\|\frac{\partial L}{\partial W^2}\|_F^2 = d \cdot \frac{1}{2} \cdot \frac{2}{3} n A ="
                r" \frac{d}{3} n A",
                "interpreter, incoherent gradients of mean square A per token, any correlation of tokens: "
                "independent of L",
                D * incoherent - D * N * A / 3,
            ),
            *_normalisations(D / 3, s, sp.Integer(40), "40"),
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
            *_chain_rule(),
            *_tail(),
            *_repair(),
            proved(
                r"n = 1, L \to \infty: \quad \frac{\mathrm{Var} \|x_L\|^2}{(E\|x_L\|^2)^2} \to \frac{2}{d}",
                "exact variance at every width, summed over layers: Cantelli's inequality replaces step 3",
                sp.limit(relative, depth, sp.oo) - 2 / D,
            ),
            *_centring(low, "pre"),
            *_assembly(low, r"1 + \frac{L}{2}"),
            proved(
                r"E\|\frac{\partial L}{\partial W^{2,L}}\|_F^2 = \frac{d}{2 q_L} n A, \quad"
                r" q_L = q + m + \frac{1}{2}",
                "interpreter and final norm, incoherent gradients of mean square A per token",
                D * incoherent / layer.trace.after.q - D * N * A / (2 * (Q + MIXING + sp.Rational(1, 2))),
            ),
            *_normalisations(D / (2 * high), low, ratio, r"40 \frac{1 + 3L/2}{1 + L/2}"),
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
