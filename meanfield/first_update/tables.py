"""The first step of the tables before the layers and of the head behind them: few rows meet many tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from meanfield.first_update.algebra import Rows, multiply, normal, times
from meanfield.first_update.moves import GAUSSIAN, Change, Move
from meanfield.first_update.sides import Stack
from meanfield.moments.inputs import same_row
from meanfield.moments.loss import Loss, logit_variance
from meanfield.moments.state import Exchangeable, Gram, Kernel, Layout
from meanfield.moments.top import real_pairs
from meanfield.ops import Embedding, Transformer

CLASSES = 8192
"""Classes drawn for the head: most have no label, few have several."""


def rows_move(sums: npt.ArrayLike, chances: npt.ArrayLike, change: Change | None = None) -> Move:
    """Compute the first step of a table from the square gradients of its rows.

        E|g| / sqrt(E g^2) = sqrt(2/pi) E sqrt(s) / sqrt(E s), s the square gradient of a row

    Args:
        sums: s of each kind of row.
        chances: Share of the rows of that kind.
        change: What the step does to what the table gives.

    Returns:
        The move.

    Example:
        Half of the rows are read by one token each.

        >>> move = rows_move([1.0, 0.0], [0.5, 0.5])
        >>> round(move.share / GAUSSIAN, 6), move.moved
        (0.707107, 0.5)
    """
    s, p = np.maximum(np.asarray(sums, dtype=np.float64), 0.0), np.asarray(chances, dtype=np.float64)
    square = float(p @ s)
    share = GAUSSIAN * float(p @ np.sqrt(s)) / math.sqrt(square) if square else 0.0
    return Move(share, float(p @ (s > 0)), change)


def word_rows(
    parts: Sequence[tuple[Layout, Kernel, npt.NDArray[np.intp] | None]], vocab: int
) -> tuple[Kernel, Kernel]:
    """Compute the square gradients of the rows of a table of words, and how many rows have them.

    A row that m tokens read gets m A + m (m - 1) B, A and B the means of G over tokens and over pairs.

    Args:
        parts: Layout, gradient kernel of the input and ids of each stack that reads the table.
        vocab: Its rows.

    Returns:
        Square gradients and shares of the rows.
    """
    if all(ids is not None for *_, ids in parts):
        sums = np.zeros(vocab)
        for layout, gradient, ids in parts:
            assert isinstance(layout, Gram)
            assert ids is not None
            members = np.zeros((layout.total, vocab))
            members[np.arange(layout.total), ids.reshape(-1)] = 1.0
            sums += np.einsum("tv,tv->v", members, gradient @ members, optimize=True)
        return sums, np.full(vocab, 1 / vocab)
    tokens = own = pairs = 0.0
    for layout, gradient, _ in parts:
        ones, total = real_pairs(layout)
        alone = float(np.sum(layout.own(gradient)))
        alone *= layout.total if isinstance(layout, Exchangeable) else 1
        tokens, own, pairs = tokens + total, own + alone, pairs + layout.sum(ones * gradient) - alone
    count = int(tokens)
    m = np.arange(count + 1.0)
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in m]
    log_other = math.log1p(-1 / vocab) if vocab > 1 else -math.inf
    with np.errstate(invalid="ignore"):
        rest = np.where(count - m > 0, (count - m) * log_other, 0.0)
    chances = np.exp(np.array(logs) - m * math.log(vocab) + rest)
    return m * own / count + m * (m - 1) * pairs / max(count * (count - 1), 1), chances


def table_move(
    arch: Transformer,
    kind: str,
    table: Embedding,
    stack: Stack,
    gradient: Kernel,
    parts: Sequence[tuple[Layout, Kernel, npt.NDArray[np.intp] | None]],
) -> Move:
    """Compute the first step of a table before the layers.

    Args:
        arch: The stack that reads it.
        kind: ``"embedding"``, ``"position"`` or ``"segment"``.
        table: The table.
        stack: The forward pass.
        gradient: G at the input.
        parts: As for `word_rows`, for the table of words.

    Returns:
        The move.
    """
    ids = next(ids for layout, _, ids in parts if layout is stack.layout)
    rows, scale_sq = same_row(arch, kind, stack.layout, ids), float(table.scale) ** 2
    along = scale_sq**2 / table.width * multiply(stack.layout, rows, gradient, rows)
    change = Change(scale_sq * rows, along, stack.start)
    if kind == "embedding":
        return rows_move(*word_rows(parts, table.vocab), change)
    if kind == "segment":
        return rows_move([1.0, 0.0], [1 / table.vocab, 1 - 1 / table.vocab], change)
    return rows_move(*_position_rows(stack.layout, gradient, table.vocab), change)


def _position_rows(layout: Layout, gradient: Kernel, rows: int) -> tuple[Kernel, Kernel]:
    """Square gradients of the rows of a table of positions; those behind the last token have none."""
    sums = np.zeros(rows)
    if isinstance(layout, Exchangeable):  # one sequence, or the tokens would differ
        sums[: layout.tokens] = layout.own(gradient)
    else:
        blocks = gradient.reshape(layout.batch, layout.tokens, layout.batch, layout.tokens)
        sums[: layout.tokens] = np.einsum("ipjp->p", blocks)
    return sums, np.full(rows, 1 / rows)


def head_moves(arch: Transformer, kernel: Kernel, layout: Layout, loss: Loss) -> tuple[Move, Move]:
    """Compute the first step of the head's map, and of its bias, on draws of classes.

        column k: sum_i y_i^T (p_ik - t_ik), p_ik = exp(z_i - var_i/2)/V, z ~ N(0, K) over tokens

    Args:
        arch: The architecture, with a head.
        kernel: Q of what the map reads.
        layout: Layout of the tokens.
        loss: Cross entropy; of labels that collide with probability c, 1/(c V) of the classes have a label
            with probability c each, the others none.

    Returns:
        The moves of weight and bias.
    """
    assert arch.head is not None
    vocab, bias = arch.head.linear.d_out, arch.head.linear.bias
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(0x6D68)))
    spread = logit_variance(arch) * kernel + (0.0 if bias is None else float(bias.variance))
    logits = float(arch.head.scale) ** 2 * spread
    draws = min(CLASSES, max(1024, 2**22 // layout.total))
    z = normal(layout, logits, draws, rng)
    own, _ = layout.pair(layout.own(logits))
    p = np.exp(z - np.reshape(own, -1) / 2) / vocab
    equal = 1 / vocab if loss.label_collision is None else loss.label_collision
    live = rng.random(draws) < 1 / (equal * vocab)
    labels = (rng.random(z.shape) < equal) & live[:, None]
    smoothing = loss.label_smoothing
    v: Rows = p - (1 - smoothing) * labels - smoothing / vocab
    if isinstance(layout, Gram):
        v = v * layout.real
    s = np.maximum(np.einsum("dt,dt->d", times(layout, v, kernel), v), 0.0)
    shift = v.sum(axis=1) ** 2
    weight, of_bias = (Move(GAUSSIAN * float(np.sqrt(x).mean() / np.sqrt(x.mean())), 1.0) for x in (s, shift))
    # A bias has no Gaussian factor of its own.
    return weight, of_bias._replace(share=of_bias.share / GAUSSIAN)
