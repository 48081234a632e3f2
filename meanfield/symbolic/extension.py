"""Gradients of deeper layers by recurrence: what the derivations for Post-LN and Pre-LN share."""

from __future__ import annotations

import sympy as sp

from meanfield.claims import Step
from meanfield.ops import ParameterKey
from meanfield.symbolic.backward import backward
from meanfield.symbolic.checks import instances
from meanfield.symbolic.forward import forward
from meanfield.symbolic.recurrence import DOWN, MIXING, PRESETS, RHO, A, B, N, Q, layer_map
from meanfield.symbolic.state import GradMoments, Moments

S = A + (N - 1) * B  # coherent part: n times the mean square of the mean gradient
DIFFERENCE = A - B
HALF = sp.Rational(1, 2)


def down_by_layer(placement: str, depth: int) -> list[sp.Expr]:
    """grad_sq of W2 by layer for one token and a unit gradient at the output, width 1, in exact arithmetic.

    Args:
        placement: ``"post"`` or ``"pre"``.
        depth: Number of layers.

    Returns:
        The values of layers 1 ... L, per unit of width.

    Source:
        xiong2020, App. F (the quantity).

    Example:
        >>> down_by_layer("pre", 3)
        [1/5, 1/8, 1/11]
    """
    one, zero = sp.Integer(1), sp.Integer(0)
    arch = PRESETS[placement](width=1, depth=depth)
    back = backward(arch, forward(arch, Moments(one, one, one)), GradMoments(one, zero))
    return [back.grad_sq[ParameterKey(layer, "ffn.down", "weight")] for layer in range(1, depth + 1)]


def grad_by_layer(placement: str, depth: int) -> list[sp.Expr]:
    """Mean square gradient A after every layer, for one token and a unit gradient at the output.

    Args:
        placement: ``"post"`` or ``"pre"``.
        depth: Number of layers.

    Returns:
        A after layers L, L - 1, ..., 0.

    Source:
        xiong2020, App. F (the quantity).

    Example:
        >>> grad_by_layer("pre", 2)
        [1/4, 2/5, 1]
    """
    one, zero = sp.Integer(1), sp.Integer(0)
    trace = forward(PRESETS[placement](width=1, depth=depth), Moments(one, one, one))
    stack, *ends = trace.inner
    grad = GradMoments(one, zero)
    for end in reversed(ends):
        grad = backward(end.op, end, grad).grad
    values = [grad.q_grad]
    for layer in reversed(stack.inner):
        grad = backward(layer.op, layer, grad).grad
        values.append(grad.q_grad)
    return values


def kappa(degree: int, rho: sp.Expr) -> sp.Expr:
    """Arc-cosine kernel of degree 0 or 1, normalised to 1 at rho = 1.

    Args:
        degree: 0 or 1.
        rho: The correlation.

    Returns:
        The kernel.

    Source:
        cho2009, Eq. (6).

    Example:
        >>> kappa(0, sp.Integer(0)), kappa(1, sp.Integer(0))
        (1/2, 1/pi)
    """
    angle = sp.pi - sp.acos(rho)
    return (angle if degree == 0 else sp.sqrt(1 - rho**2) + rho * angle) / sp.pi


def map_steps(placement: str) -> tuple[Step, ...]:
    """Check the maps of one layer, (q, cov) forward and (A, B) backward, against formulas written by hand.

    Args:
        placement: ``"post"`` or ``"pre"``.

    Returns:
        The steps.

    Source:
        xiong2020, App. F (the quantities); derived here.
    """
    q, m = sp.Integer(1) if placement == "post" else Q, MIXING
    one = layer_map(placement, q, RHO, N)
    inner = (q * RHO + m) / (q + m)  # correlation at the feed-forward op
    if placement == "post":
        cov = sp.Rational(2, 3) * (inner + kappa(1, inner) / 2)
        a1, b1 = A * sp.Rational(2, 3) * (1 + HALF), B * sp.Rational(2, 3) * (1 + kappa(0, inner) / 2)
        mean = (a1 + (N - 1) * b1) / N
        a, b = (a1 + mean) / (1 + m), (b1 + mean) / (1 + m)
        forward_latex = (
            r"\rho' = \frac{\rho + m}{1 + m}, \quad \rho \leftarrow \frac{2}{3} (\rho' + \frac{1}{2}"
            r" \kappa_1(\rho'))"
        )
        latex = (
            r"A' = A, B' = \frac{2}{3} B (1 + \frac{\kappa_0(\rho')}{2}); \quad M = \frac{A' + (n-1)"
            r" B'}{n}: \quad"
            r" A \leftarrow \frac{A' + M}{1 + m}, B \leftarrow \frac{B' + M}{1 + m}"
        )
    else:
        cov = q * RHO + m + kappa(1, inner) / 2
        a1, b1 = A * (1 + 1 / (2 * (q + m))), B * (1 + kappa(0, inner) / (2 * (q + m)))
        mean = (a1 + (N - 1) * b1) / N
        a, b = a1 + mean / q, b1 + mean / q
        forward_latex = (
            r"\rho' = \frac{c + m}{q + m}, \quad c \leftarrow c + m + \frac{1}{2} \kappa_1(\rho'), \quad"
            r" q \leftarrow q + m + \frac{1}{2}"
        )
        latex = (
            r"A' = A (1 + \frac{1}{2 (q + m)}), B' = B (1 + \frac{\kappa_0(\rho')}{2 (q + m)}); \quad"
            r" M = \frac{A' + (n-1) B'}{n}: \quad A \leftarrow A' + \frac{M}{q}, B \leftarrow B' +"
            r" \frac{M}{q}"
        )
    # At points: simplifying nested kernels takes minutes where the two sides disagree.
    points = [
        {RHO: sp.Rational(r, 7), N: n, Q: sp.Rational(5, 3), A: 2, B: sp.Rational(1, 3)}
        for r in (0, 2, 5)
        for n in (1, 2, 9)
    ]

    def agree(pairs: list[tuple[sp.Expr, sp.Expr]]) -> list[bool]:
        gaps = (sp.N((x - y).subs(point), 40) for point in points for x, y in pairs)
        return [bool(abs(gap) < sp.Float(10) ** -30) for gap in gaps]

    how = "interpreter against the formulas by hand, n = 1, 2, 9; "
    kappas = (
        "$\\kappa_1(\\rho) = (\\sqrt{1 - \\rho^2} + \\rho (\\pi - \\arccos(\\rho)))/\\pi$",
        "$\\kappa_0(\\rho) = 1 - \\arccos(\\rho)/\\pi$",
    )
    method = "30-digit arithmetic"
    after_q = sp.Integer(1) if placement == "post" else q + m + HALF
    grad = one.back.grad
    return (
        instances(
            forward_latex,
            how + kappas[0],
            agree([(one.trace.after.q, after_q), (one.trace.after.cov, cov)]),
            method,
        ),
        instances(latex, how + kappas[1], agree([(grad.q_grad, a), (grad.cov_grad, b)]), method),
    )


def collapsed(placement: str) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Pull a gradient through a layer whose tokens are equal, rho = 1, of width 1.

    Args:
        placement: ``"post"`` or ``"pre"``.

    Returns:
        The modes A + (n - 1) B and A - B before the layer, and grad_sq of its W2.

    Source:
        xiong2020, App. F (the quantities); derived here.
    """
    back = layer_map(placement, sp.Integer(1) if placement == "post" else Q, sp.Integer(1), N).back
    a, b = back.grad.q_grad, back.grad.cov_grad
    return a + (N - 1) * b, a - b, back.grad_sq[DOWN]
