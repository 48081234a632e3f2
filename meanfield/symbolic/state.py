"""What the symbolic interpreters pass along, for exchangeable tokens.

Every token has the same second moment and every pair of tokens the same overlap, so a T x T Gram matrix is
two expressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import sympy as sp

from meanfield.ops import Number, Op, ParameterKey, Transformer


@dataclass(frozen=True, slots=True)
class Moments:
    """Forward moments of exchangeable tokens.

    Args:
        q: Second moment per coordinate of a token.
        cov: The same between two tokens; any value where ``tokens`` is 1.
        tokens: Number of tokens, a symbol or a number.
    """

    q: sp.Expr
    cov: sp.Expr
    tokens: sp.Expr

    def pair_sum(self, grad: GradMoments) -> sp.Expr:
        """Sum over all pairs of tokens of Q_ij G_ij, from which weight gradients are made."""
        n = self.tokens
        return n * self.q * grad.q_grad + n * (n - 1) * self.cov * grad.cov_grad


@dataclass(frozen=True, slots=True)
class GradMoments:
    """Backward moments of exchangeable tokens, summed over coordinates.

    Args:
        q_grad: Mean square of the gradient with respect to a token.
        cov_grad: The same between two tokens.
    """

    q_grad: sp.Expr
    cov_grad: sp.Expr

    def scaled(self, factor: sp.Expr) -> GradMoments:
        """Both moments times a factor."""
        return GradMoments(factor * self.q_grad, factor * self.cov_grad)

    def sum_over_tokens(self, tokens: sp.Expr) -> sp.Expr:
        """Mean square of the sum of all tokens' gradients, which is what a bias receives."""
        return tokens * self.q_grad + tokens * (tokens - 1) * self.cov_grad


@dataclass(frozen=True, slots=True)
class Trace:
    """One op of a forward pass: moments in, moments out, and the ops inside it in order."""

    op: Op | Transformer
    before: Moments
    after: Moments
    inner: tuple[Trace, ...] = ()


@dataclass(frozen=True, slots=True)
class Pullback:
    """One op of a backward pass: gradient moments at its input, and grad_sq of every parameter inside it."""

    grad: GradMoments
    grad_sq: dict[ParameterKey, sp.Expr]


def exact(number: Number) -> sp.Expr:
    """Read a number as an exact rational; a float is read as the decimal that it prints.

    Args:
        number: A number of an op.

    Returns:
        The rational.

    Example:
        >>> exact(1e-5), exact(Fraction(2, 3))
        (1/100000, 2/3)
    """
    if isinstance(number, Fraction):
        return sp.Rational(number.numerator, number.denominator)
    return sp.Rational(repr(number)) if isinstance(number, float) else sp.Integer(number)
