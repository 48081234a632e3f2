"""Embedding tables in symbols: rows of exchangeable tokens, and the gradient that a table collects."""

from __future__ import annotations

import sympy as sp

from meanfield.ops import Embedding, Transformer
from meanfield.symbolic.state import GradMoments, Moments, exact


def lookup(op: Embedding, same: sp.Expr, tokens: sp.Expr) -> Moments:
    """Moments of rows of a table, of which two tokens share one with a given probability.

        q = s^2 (mean^2 + Var),  cov = s^2 (mean^2 + same Var)

    Args:
        op: The table; s is its scale.
        same: Probability that two tokens read the same row.
        tokens: Number of tokens.

    Returns:
        The moments, on average over the rows that are read.

    Source:
        xiong2020, Sec. 3.2; definition.

    Example:
        >>> from meanfield.ops import Draw
        >>> lookup(Embedding("embedding", 10, 4, Draw(5)), sp.Rational(1, 10), sp.Integer(2)).cov
        1/2
    """
    scale_sq, variance = exact(op.scale) ** 2, exact(op.weight.variance)
    mean_sq = exact(op.weight.mean) ** 2
    return Moments(scale_sq * (mean_sq + variance), scale_sq * (mean_sq + same * variance), tokens)


def table_gradient(op: Embedding, same: sp.Expr, tokens: sp.Expr, after: GradMoments) -> sp.Expr:
    """grad_sq of a table: each row collects the gradients of the tokens that read it.

        s^2 (n A + n (n-1) same B)

    Args:
        op: The table.
        same: Probability that two tokens read the same row.
        tokens: Number of tokens n.
        after: Gradient moments of the rows that were read.

    Returns:
        The expression.

    Source:
        definition; xiong2020, Sec. 3.2.
    """
    return exact(op.scale) ** 2 * GradMoments(after.q_grad, same * after.cov_grad).sum_over_tokens(tokens)


def tables(op: Transformer) -> list[tuple[Embedding, sp.Expr]]:
    """List the tables that a stack begins with, and how often two tokens of a sequence share a row.

    Tokens are random, positions all differ, segments are all the first.

    Args:
        op: The Transformer.

    Returns:
        Tables and probabilities.
    """
    chances = (
        (op.embedding, sp.Integer(0) if op.embedding is None else sp.Rational(1, op.embedding.vocab)),
        (op.position, sp.Integer(0)),
        (op.segment, sp.Integer(1)),
    )
    return [(table, same) for table, same in chances if table is not None]
