"""What the symbolic interpreters pass along, for exchangeable tokens.

Every token has the same second moment and every pair of tokens the same overlap, so a T x T Gram matrix is
two expressions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import sympy as sp

from meanfield.errors import InputError, MissingRuleError
from meanfield.ops import Norm, Number, Op, ParameterKey, Transformer

_ZERO = sp.Integer(0)


@dataclass(frozen=True, slots=True)
class Moments:
    """Forward moments of exchangeable tokens.

    Args:
        q: Second moment per coordinate of a token.
        cov: The same between two tokens; any value where ``tokens`` is 1.
        tokens: Number of tokens, a symbol or a number.
        mean_sq: Square of the mean over a token's coordinates, which LayerNorm takes away; not 0 only on the
            hidden layer of a plain feed-forward op.
    """

    q: sp.Expr
    cov: sp.Expr
    tokens: sp.Expr
    mean_sq: sp.Expr = _ZERO

    def __add__(self, other: Moments) -> Moments:
        """Moments of a sum of uncorrelated tokens."""
        return Moments(self.q + other.q, self.cov + other.cov, self.tokens)

    def scaled(self, factor: sp.Expr) -> Moments:
        """All moments times a factor."""
        return Moments(factor * self.q, factor * self.cov, self.tokens, factor * self.mean_sq)

    def pair_sum(self, grad: GradMoments) -> sp.Expr:
        """Sum over all pairs of tokens of Q_ij G_ij, from which weight gradients are made."""
        n = self.tokens
        return n * self.q * grad.q_grad + n * (n - 1) * self.cov * grad.cov_grad


@dataclass(frozen=True, slots=True)
class Streams(Moments):
    """Forward moments of two streams: those of the first, x, and beside them those of the second, r.

    Args:
        cross: E<x_i, r_i> and E<x_i, r_j>, per coordinate.
        second: Moments of r.
    """

    cross: Moments = field(kw_only=True)
    second: Moments = field(kw_only=True)

    @property
    def first(self) -> Moments:
        """Moments of x alone."""
        return Moments(self.q, self.cov, self.tokens)


@dataclass(frozen=True, slots=True)
class GradMoments:
    """Backward moments of exchangeable tokens, summed over coordinates.

    Args:
        q_grad: Mean square of the gradient with respect to a token.
        cov_grad: The same between two tokens.
    """

    q_grad: sp.Expr
    cov_grad: sp.Expr

    def __add__(self, other: GradMoments) -> GradMoments:
        """Moments of a sum of uncorrelated gradients."""
        return GradMoments(self.q_grad + other.q_grad, self.cov_grad + other.cov_grad)

    def scaled(self, factor: sp.Expr) -> GradMoments:
        """Both moments times a factor."""
        return GradMoments(factor * self.q_grad, factor * self.cov_grad)

    def sum_over_tokens(self, tokens: sp.Expr) -> sp.Expr:
        """Mean square of the sum of all tokens' gradients, which is what a bias receives."""
        return tokens * self.q_grad + tokens * (tokens - 1) * self.cov_grad


@dataclass(frozen=True, slots=True)
class GradStreams(GradMoments):
    """Backward moments of two streams, as `Streams`."""

    cross: GradMoments = field(kw_only=True)
    second: GradMoments = field(kw_only=True)

    @property
    def first(self) -> GradMoments:
        """Moments of the gradient with respect to x alone."""
        return GradMoments(self.q_grad, self.cov_grad)


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


def centred(op: Norm, before: Moments) -> Moments:
    """Moments of what a norm divides by its root mean square: LayerNorm takes away each token's mean first.

    Args:
        op: The norm.
        before: Moments at its input.

    Returns:
        The moments.
    """
    if op.kind == "rmsnorm":
        return before
    return Moments(before.q - before.mean_sq, before.cov - before.mean_sq, before.tokens)


def normalised(op: Norm, before: Moments) -> Moments:
    """Moments of what a norm's gain multiplies.

    Args:
        op: The norm.
        before: Moments at its input.

    Returns:
        The moments.
    """
    tokens = centred(op, before)
    return tokens.scaled(1 / (tokens.q + exact(op.eps)))


def without_mean(op: Op, *moments: Moments) -> None:
    """Check that the coordinates of tokens that are added up have no mean in common.

    Args:
        op: The op that adds them.
        moments: Of the tokens.

    Raises:
        MissingRuleError: If they have.
    """
    if any(each.mean_sq != 0 for each in moments):
        raise MissingRuleError(
            f"{type(op).__name__} of coordinates that share a mean",
            "symbolic.forward",
            "put fresh weights behind an activation, or use the numeric prediction",
        )


def streams(op: Op, before: Moments) -> Streams:
    """Read moments as those of two streams.

    Args:
        op: The op that needs two.
        before: Moments at its input.

    Returns:
        The same moments.

    Raises:
        InputError: If there is one stream.
    """
    if not isinstance(before, Streams):
        raise InputError(f"{type(op).__name__} reads two streams and is given one: put Fork() in front")
    return before


def grad_streams(op: Op, after: GradMoments) -> GradStreams:
    """Read gradient moments as those of two streams.

    Args:
        op: The op that has two.
        after: Gradient moments at its output.

    Returns:
        The same moments.

    Raises:
        InputError: If there is one stream.
    """
    if not isinstance(after, GradStreams):
        raise InputError(
            f"{type(op).__name__} has two streams and is given the gradient of one: end with Merge"
        )
    return after
