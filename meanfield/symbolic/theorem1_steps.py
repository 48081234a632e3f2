"""The steps of Theorem 1: chain rule, tails, Lemma 3's centring, and the bound put together."""

from __future__ import annotations

from fractions import Fraction

import sympy as sp

from meanfield.claims import Step
from meanfield.symbolic.checks import instances, proved, proved_sign
from meanfield.symbolic.concentration import EPS, upper_tail_only
from meanfield.symbolic.recurrence import D, N

ALPHA = Fraction(1, 10)


def chain_rule() -> tuple[Step, ...]:
    """Take the gradient of W2 apart, and bound it by the gradient before it and the largest hidden entry.

    Returns:
        The steps.

    Source:
        xiong2020, App. E.
    """
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


def tail() -> tuple[Step, ...]:
    """Bound the largest hidden entry, of one token and of all.

    Returns:
        The steps.

    Source:
        xiong2020, App. E.
    """
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


def repair() -> tuple[Step, ...]:
    """Say what is wrong with step 3, and prove the inequality that replaces it.

    Returns:
        The steps.

    Source:
        xiong2020, App. E, step 3; the repair is derived here.
    """
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


def centring(second_moment: sp.Expr, placement: str) -> tuple[Step, ...]:
    """Work out what the centred y of Lemma 3 costs where the paper writes x.

    Args:
        second_moment: s, what Lemma 2 gives for E||x||^2 / d.
        placement: ``"post"`` or ``"pre"``.

    Returns:
        The steps.

    Source:
        xiong2020, App. E, with Lemma 3; derived here.
    """
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


def assembly(second_moment: sp.Expr, name: str) -> tuple[Step, ...]:
    """Put the bound together, and the sharper one that the same steps give.

    Args:
        second_moment: s, what Lemma 2 gives for E||x||^2 / d.
        name: s in LaTeX.

    Returns:
        The steps.

    Source:
        xiong2020, Theorem 1, App. E.
    """
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


def normalisations(
    exact_sq: sp.Expr, second_moment: sp.Expr, ratio: sp.Expr, result: str
) -> tuple[Step, ...]:
    """Compare bound and exact value, with a unit gradient and with gradient coordinates of unit size.

    Args:
        exact_sq: The exact square for a unit gradient.
        second_moment: s, what Lemma 2 gives for E||x||^2 / d.
        ratio: What bound over exact, squared, has in front of d ln(100 d).
        result: The same in LaTeX.

    Returns:
        The steps.

    Source:
        xiong2020, Theorem 1; derived here.
    """
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
