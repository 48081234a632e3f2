"""Which keys a query sees, and which bucket of relative positions a pair falls into."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from meanfield.errors import InputError
from meanfield.moments.state import Gram, Kernel
from meanfield.ops import Attention, RelativeBias


def visible(op: Attention, layout: Gram) -> npt.NDArray[np.bool_]:
    """Say which keys each query sees.

    Args:
        op: The attention op: causal, window, cross.
        layout: Layout of the queries; its memory holds the keys of cross-attention.

    Returns:
        (batch, queries, keys), True where seen. Padded keys are hidden from all.

    Raises:
        InputError: If cross-attention has no memory, or a real query sees nothing.

    Example:
        >>> from meanfield import pre_ln
        >>> op = pre_ln(width=8, depth=1, causal=True).attention
        >>> visible(op, Gram(tokens=2, batch=1))[0].tolist()
        [[True, False], [True, True]]
    """
    source = layout
    if op.cross:
        if layout.memory is None:
            raise InputError(f"{op.name} is cross-attention and got no memory: predict an EncoderDecoder")
        source = layout.memory
    i, j = np.arange(layout.tokens)[:, None], np.arange(source.tokens)[None, :]
    seen = np.ones((layout.tokens, source.tokens), dtype=bool)
    if op.causal:
        seen &= j <= i
    if op.window is not None:
        seen &= np.abs(i - j) < op.window
    keys = np.ones((source.batch, source.tokens), dtype=bool) if source.padding is None else source.padding
    per_sequence = seen[None] & keys[:, None, :]
    blind = ~per_sequence.any(axis=-1)
    if layout.padding is not None:
        # A padded query may see nothing, as where padding is on the left of a causal sequence: it then looks
        # at itself, which no real token and no loss will notice.
        lost = blind & ~layout.padding
        blind &= layout.padding
        where = np.nonzero(lost)
        per_sequence[where[0], where[1], where[1]] = True
    if blind.any():
        sequence, token = (int(axis[0]) for axis in np.nonzero(blind))
        raise InputError(
            f"{op.name}: token {token} of sequence {sequence} has nothing to attend to: widen the mask or "
            "unpad a token that it sees"
        )
    return per_sequence


def distances(op: Attention, tokens: int) -> npt.NDArray[np.float64]:
    """Find what ALiBi adds to the scores of every head: minus its slope times the distance.

    Args:
        op: The attention op; without slopes it is 0.
        tokens: Tokens in a sequence.

    Returns:
        (heads or 1, tokens, tokens).

    Source:
        press2022, Sec. 3.

    Example:
        >>> from dataclasses import replace
        >>> from meanfield import pre_ln
        >>> op = replace(pre_ln(width=8, depth=1, heads=2).attention, alibi=(0.5, 0.25))
        >>> distances(op, 2).tolist()
        [[[0.0, -0.5], [-0.5, 0.0]], [[0.0, -0.25], [-0.25, 0.0]]]
    """
    slopes = np.array([float(slope) for slope in op.alibi or (0,)])
    place = np.arange(tokens)
    return np.asarray(-slopes[:, None, None] * np.abs(place[:, None] - place) + 0.0)


def block_diagonal(blocks: Kernel) -> Kernel:
    """Put one matrix per sequence on the diagonal of one over all tokens.

    Args:
        blocks: (..., batch, queries, keys).

    Returns:
        (..., batch * queries, batch * keys), zero between sequences.

    Example:
        >>> block_diagonal(np.array([[[1.0]], [[2.0]]])).tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    *draws, batch, queries, keys = blocks.shape
    whole = np.zeros((*draws, batch, queries, batch, keys), dtype=blocks.dtype)
    for b in range(batch):
        whole[..., b, :, b, :] = blocks[..., b, :, :]
    return whole.reshape(*draws, batch * queries, batch * keys)


def bucket(op: RelativeBias, tokens: int) -> npt.NDArray[np.intp]:
    """Find the bucket of relative positions of every pair of a sequence.

        half of a direction's buckets: one distance each; the others: equal shares of log distance

    Args:
        op: The table.
        tokens: Tokens in a sequence.

    Returns:
        (tokens, tokens), query first.

    Source:
        raffel2020, Sec. 2.1 (relative position embeddings with logarithmic buckets).

    Example:
        >>> from meanfield.ops import Draw
        >>> bucket(RelativeBias("attention.relative_bias", Draw(1)), 3).tolist()
        [[0, 17, 18], [1, 0, 17], [2, 1, 0]]
    """
    offset = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    buckets = op.buckets // 2 if op.bidirectional else op.buckets
    later = np.where(offset > 0, buckets, 0) if op.bidirectional else 0
    distance = np.abs(offset) if op.bidirectional else np.maximum(-offset, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(op.max_distance / exact)
    far = np.minimum(exact + (ratio * (buckets - exact)).astype(np.intp), buckets - 1)
    return np.asarray(later + np.where(distance < exact, distance, far), dtype=np.intp)
