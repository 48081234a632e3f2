"""Definition 1, the chi-square lemma, and what they say about hidden states of real width."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import sympy as sp

from meanfield.claims import Derivation, Setting, Step
from meanfield.symbolic.checks import instances, proved, proved_sign
from meanfield.symbolic.moments_of_norm import post_ln_norm_variance

EPS, DELTA = Fraction(1, 10), Fraction(1, 8)


def chi2_tail(width: int, eps: Fraction) -> float:
    """Pr[||Y||^2 > (1 + eps) d] for Y ~ N(0, I_d), from the incomplete gamma function.

    Args:
        width: The dimension d.
        eps: Relative excess.

    Returns:
        The probability.

    Source:
        xiong2020, App. G.

    Example:
        >>> chi2_tail(2, Fraction(1)) == float(mpmath.exp(-2))
        True
    """
    # Gamma(a, x) = x^a e^-x int_0^inf (1 + u)^(a-1) e^(-x u) du; series need as many terms as the width has.
    with mpmath.workdps(20 + len(str(width))):  # x - a ln x loses as many digits as the width has
        a = mpmath.mpf(width) / 2
        x = a * (1 + mpmath.mpf(eps.numerator) / eps.denominator)
        front = mpmath.exp(a * mpmath.log(x) - x - mpmath.loggamma(a))
        if float(front) == 0:
            return 0.0
        decay = x - a + 1
        rest = mpmath.quad(
            lambda s: mpmath.exp((a - 1) * mpmath.log1p(s / decay) - x * s / decay), [0, 1, mpmath.inf]
        )
        return float(front * rest / decay)


def lemma_tail(width: int, eps: Fraction) -> float:
    """The paper's bound exp(-d eps^2/8) on that probability.

    Args:
        width: The dimension d.
        eps: Relative excess, between 0 and 1.

    Returns:
        The bound.

    Source:
        xiong2020, App. G.

    Example:
        >>> round(lemma_tail(512, Fraction(1, 10)), 3)
        0.527
    """
    return float(mpmath.exp(-width * mpmath.mpf(eps.numerator) ** 2 / mpmath.mpf(eps.denominator) ** 2 / 8))


def _bounded(law: dict[Fraction, Fraction], eps: Fraction, delta: Fraction) -> bool:
    """Whether a discrete law, value to probability, is (eps, delta)-bounded."""
    mean = sum((z * p for z, p in law.items()), Fraction(0))
    return sum((p for z, p in law.items() if z - mean <= eps * mean), Fraction(0)) >= 1 - delta


def upper_tail_only() -> Step:
    """Check a law that is (eps, p)-bounded for every eps and yet 0 with probability 1 - p.

    Returns:
        The step.

    Source:
        xiong2020, Definition 1.
    """
    cases = []
    for p in (Fraction(1, 8), Fraction(1, 100), Fraction(1, 10**6)):
        law = {Fraction(0): 1 - p, 1 / p: p}
        near_zero = sum(chance for z, chance in law.items() if z <= Fraction(1, 10))
        cases += [_bounded(law, eps, p) and near_zero == 1 - p for eps in (EPS, Fraction(1, 2), Fraction(2))]
    return instances(
        r"Z \in \{0, \frac{1}{p}\}, \Pr[Z = \frac{1}{p}] = p: \quad EZ = 1, \quad \Pr[Z > 1 + \epsilon]"
        r" \le p,"
        r" \quad \Pr[Z \le \frac{1}{10}] = 1 - p",
        "p = 1/8, 1/100, 1e-6 and eps = 1/10, 1/2, 2: boundedness leaves the lower tail free",
        cases,
    )


def definition1(setting: Setting) -> Derivation:
    """Say what Definition 1 does and does not bound.

    Args:
        setting: Sizes for the numbers; none here.

    Returns:
        The derivation.

    Source:
        xiong2020, Definition 1.
    """
    constant = [_bounded({c: Fraction(1)}, Fraction(0), Fraction(0)) for c in (Fraction(1, 3), Fraction(7))]
    spread = {Fraction(0): Fraction(1, 2), Fraction(2): Fraction(1, 2)}
    return Derivation(
        steps=(
            instances(
                r"Z = c > 0 \text{ is } (0, 0)\text{-bounded}; \quad"
                r" \Pr[Z = 0] = \Pr[Z = 2] = \frac{1}{2} \text{ is not } (\frac{1}{2},"
                r" \frac{1}{4})\text{-bounded}",
                "discrete laws",
                [*constant, not _bounded(spread, Fraction(1, 2), Fraction(1, 4))],
            ),
            upper_tail_only(),
        ),
        result=r"\Pr[Z > (1 + \epsilon) EZ] \le \delta; \quad \Pr[Z \le \alpha EZ]"
        r" \text{ is not bounded}",
        verdict="holds",
        condition="a definition; it bounds the upper tail only, and nothing keeps $Z$ away from 0",
    )


def chi2(setting: Setting) -> Derivation:
    """Derive the chi-square lemma by Chernoff's method, with its slack.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, App. G.
    """
    y, u = sp.symbols("y u", positive=True)
    e, t = sp.symbols("epsilon t", positive=True)
    # E exp(t Y^2), with u = 1 - 2t > 0.
    moment = 2 * sp.integrate(sp.exp(-u * y**2 / 2) / sp.sqrt(2 * sp.pi), (y, 0, sp.oo))
    exponent = -sp.log(1 - 2 * t) / 2 - t * (1 + e)  # of one coordinate
    best = e / (2 * (1 + e))
    rate = (e - sp.log(1 + e)) / 2
    slack = rate - e**2 / 8
    inner = sp.Symbol("z", positive=True)
    slope = sp.factor(sp.diff(2 * slack, e)).subs(e, 1 / (1 + inner))  # 0 < eps < 1
    tails = [
        chi2_tail(width, Fraction(k, 10)) <= lemma_tail(width, Fraction(k, 10))
        for width in (2, 16, 128, 512)
        for k in (1, 5, 9)
    ]
    value = float(EPS)
    chernoff = float(mpmath.exp(-setting.width * (value - mpmath.log(1 + value)) / 2))
    return Derivation(
        steps=(
            proved(
                r"E[\exp(t Y_p^2)] = (1 - 2t)^{-1/2}, \quad t < \frac{1}{2}",
                "integral",
                moment - 1 / sp.sqrt(u),
            ),
            proved(
                r"\min_t E[\exp(t \|Y\|^2)] \exp(-t d (1 + \epsilon))"
                r" = \exp(-\frac{d}{2} (\epsilon - \ln(1 + \epsilon))),"
                r" \quad t = \frac{\epsilon}{2(1 + \epsilon)}",
                "derivative at the minimum, value there, and second derivative $2/(1 - 2t)^2 > 0$",
                sp.diff(exponent, t).subs(t, best),
                sp.diff(exponent, t, 2) - 2 / (1 - 2 * t) ** 2,
                sp.expand_log(sp.simplify(exponent.subs(t, best) + rate), force=True),
            ),
            proved(
                r"f(\epsilon) = \epsilon - \ln(1 + \epsilon) - \frac{\epsilon^2}{4}: \quad f(0) = 0,"
                r" \quad f'(\epsilon) = \frac{\epsilon (1 - \epsilon)}{2 (1 + \epsilon)}",
                "derivative",
                (2 * slack).subs(e, 0),
                sp.diff(2 * slack, e) - e * (1 - e) / (2 * (1 + e)),
            ),
            proved_sign(
                r"f'(\epsilon) \ge 0 \text{ for } 0 < \epsilon < 1, \text{ so }"
                r" \frac{\epsilon - \ln(1 + \epsilon)}{2} \ge \frac{\epsilon^2}{8}",
                "sign, with $\\epsilon = 1/(1 + z)$",
                sp.factor(slope),
            ),
            instances(
                r"\Pr[\|Y\|^2 > (1 + \epsilon) d] \le \exp(-\frac{d \epsilon^2}{8})",
                "d = 2 to 512, eps = 0.1, 0.5, 0.9",
                tails,
                "incomplete gamma function",
            ),
        ),
        result=r"\Pr[\|Y\|^2 > (1 + \epsilon) d] \le \exp(-\frac{d}{2} (\epsilon - \ln(1 + \epsilon)))"
        r" \le \exp(-\frac{d \epsilon^2}{8})",
        verdict="holds",
        condition="the exponent gives away a factor of 2 for small $\\epsilon$: "
        "$\\frac{1}{2} (\\epsilon - \\ln(1 + \\epsilon)) \\approx \\epsilon^2/4$",
        numbers={
            "eps": value,
            "delta_lemma": lemma_tail(setting.width, EPS),
            "delta_chernoff": chernoff,
            "delta_exact": chi2_tail(setting.width, EPS),
        },
    )


def _smallest_width(low: int, high: int) -> int:
    """The smallest width between low and high at which the exact tail at eps = 1/10 is at most 1/8."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if chi2_tail(middle, EPS) <= DELTA else (middle + 1, high)
    return low


def measured(setting: Setting) -> Derivation:
    """Compare the measured (0.1, 0.125) with what theory gives at real width.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Sec. 3.4, App. G.
    """
    from_lemma = sp.log(8) * 8 / sp.Rational(1, 100)
    exact_width = _smallest_width(2, 2048)
    relative = float(
        post_ln_norm_variance(sp.Integer(setting.width)) / (sp.Rational(3, 2) * setting.width) ** 2
    )
    return Derivation(
        steps=(
            instances(
                r"d = 512, \epsilon = 0.1: \quad \exp(-\frac{d \epsilon^2}{8}) = 0.527 > 0.125",
                "the exponential and 1/8",
                [
                    sp.exp(-sp.Rational(512, 800)) > sp.Rational(1, 8),
                    abs(lemma_tail(512, EPS) - 0.5273) < 1e-4,
                ],
                "numerical comparison by SymPy",
            ),
            proved(
                r"\exp(-\frac{d \epsilon^2}{8}) = \frac{1}{8} \text{ at } d = 800 \ln 8 = 1663.6",
                "substitution",
                sp.exp(-from_lemma / 800) - sp.Rational(1, 8),
            ),
            instances(
                rf"\Pr[\chi^2_d > 1.1 d] \le \frac{{1}}{{8}} \text{{ from }} d = {exact_width}"
                rf" \text{{ on}}",
                "this width and the one before, then 512, 1024 and 2048: the tail falls with the width",
                [
                    chi2_tail(exact_width - 1, EPS) > DELTA,
                    DELTA >= chi2_tail(exact_width, EPS) > chi2_tail(512, EPS),
                    chi2_tail(512, EPS) > chi2_tail(1024, EPS) > chi2_tail(2048, EPS),
                ],
                "incomplete gamma function",
            ),
            *_post_variance_steps(),
        ),
        result=r"\delta_{lemma}(d) = \exp(-\frac{d}{800}); \quad"
        r" \delta_{exact}(d) = \Pr[\chi^2_d > 1.1 d]",
        verdict="holds_under",
        condition=f"width of at least {exact_width} for Gaussian hidden states, by the exact tail; the "
        f"paper's own "
        "lemma gives 0.527 at $d = 512$ and would need $d \\ge 1664$, so it does not imply the measured pair",
        numbers={
            "delta_lemma": lemma_tail(setting.width, EPS),
            "delta_exact_gaussian": chi2_tail(setting.width, EPS),
            "delta_cantelli_post": relative / (relative + float(EPS) ** 2),
            "relative_variance_gaussian": 2 / setting.width,
            "relative_variance_post": relative,
        },
    )


def _post_variance_steps() -> tuple[Step, ...]:
    width = sp.Symbol("d", positive=True)
    claimed = sp.Rational(15, 4) * width + sp.Rational(5, 2)
    return (
        proved(
            r"\text{Post-LN: } \mathrm{Var} \|x_5\|^2 = \frac{15}{4} d + \frac{5}{2}",
            "moments of ReLU of a Gaussian and of chi-square, at every width",
            post_ln_norm_variance(width) - claimed,
        ),
    )


DERIVATIONS = {
    "definition1": definition1,
    "concentration.chi2": chi2,
    "concentration.measured": measured,
}
