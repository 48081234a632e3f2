"""Lemma 3: the Jacobian of LayerNorm and its norm."""

from __future__ import annotations

import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.checks import instances, proved


def layer_norm(x: sp.Matrix) -> sp.Matrix:
    """LayerNorm by its definition: subtract the mean over coordinates, divide by the standard deviation.

    Args:
        x: A token, one row.

    Returns:
        The normed token.

    Source:
        ba2016, Eq. (3).

    Example:
        >>> layer_norm(sp.Matrix([[5, 1]]))
        Matrix([[1, -1]])
    """
    d = x.shape[1]
    centred = x - sp.ones(1, d) * (sum(x) / d)
    return centred / sp.sqrt(sum(entry**2 for entry in centred) / d)


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
        derivative = layer_norm(xs).jacobian(xs).T.subs(at)
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
                layer_norm(x).jacobian(x).T - _jacobian_claimed(x),
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


DERIVATIONS = {"lemma3": lemma3}
