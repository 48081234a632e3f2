"""What may be predicted: checks of architectures, Gram matrices, ids and masks."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from meanfield.errors import InputError
from meanfield.moments.state import Kernel
from meanfield.ops import EncoderDecoder, Norm, Transformer, walk


def check_architecture(arch: object) -> Transformer | EncoderDecoder:
    """Check that a value is an architecture on which gradients say something.

    Args:
        arch: The value.

    Returns:
        The value.

    Raises:
        InputError: If it is no architecture, or a LayerNorm has a single coordinate: x - mean(x) is then 0.

    Example:
        >>> from meanfield import paper_post_ln
        >>> check_architecture(paper_post_ln(width=2, depth=3)).name
        'paper_post_ln'
    """
    if not isinstance(arch, Transformer | EncoderDecoder):
        shown = repr(arch).partition("\n")[0]
        raise InputError(
            f"arch={shown} is no architecture: give a Transformer, for example mf.pre_ln(width=512, depth=6)"
        )
    for stack in (arch.encoder, arch.decoder) if isinstance(arch, EncoderDecoder) else (arch,):
        transform = None if stack.head is None else stack.head.transform
        parts = (stack.entry, *(run.block for run in stack.layers), stack.final_norm, transform)
        for op in (op for part in parts if part is not None for op in walk(part)):
            if isinstance(op, Norm) and op.kind == "layernorm" and op.width < 2:
                raise InputError(
                    f"width={op.width} is too small: LayerNorm needs at least 2 coordinates; give a greater "
                    "width, or norm='rmsnorm'"
                )
    return arch


def _rectangular(what: str, value: object) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:
        raise InputError(f"{what} have rows of different lengths: give (batch, tokens)") from None


def check_gram(gram: object, total: int, *, zeros: bool = False) -> Kernel:
    """Check that a value is a Gram matrix of T tokens.

    Args:
        gram: T x T second moments, per coordinate.
        total: T.
        zeros: Whether tokens may be 0, as a class token is that starts at 0.

    Returns:
        The matrix in float64.

    Raises:
        InputError: If it has another size, NaN or infinite entries, is not symmetric, not positive
            semidefinite, or has a token of second moment 0 that it must not have.

    Example:
        >>> check_gram([[1, 0.5], [0.5, 1]], 2).shape
        (2, 2)
    """
    matrix = _inner_products("gram", gram, total, "X X^T / d")
    if not zeros and np.any(np.diagonal(matrix) <= 0):
        raise InputError("gram has a token of second moment 0: give every token a vector that is not 0")
    return matrix


def check_feature(name: object, kernel: object, total: int) -> Kernel:
    """Check the inner products of what a parameter is multiplied by in each of T input vectors.

    Args:
        name: The parameter's name.
        kernel: T x T; a token that does not see the parameter has 0.
        total: T.

    Returns:
        The matrix in float64.

    Raises:
        InputError: If the name is no text, or as for `check_gram`.

    Example:
        >>> check_feature("cls", [[1, 0], [0, 0]], 2).tolist()  # the first token alone reads it
        [[1.0, 0.0], [0.0, 0.0]]
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"features have the name {name!r}: give each the name of its parameter")
    return _inner_products(f"features[{name!r}]", kernel, total, "F F^T")


def _inner_products(what: str, value: object, total: int, remedy: str) -> Kernel:
    """Check that a value holds the inner products of T vectors, whatever they are."""
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):  # the last from tensors that still collect gradients
        found = type(value).__name__
        raise InputError(f"{what}={found} is no matrix of numbers: give a T x T array") from None
    if matrix.shape != (total, total):
        raise InputError(
            f"{what} has shape {matrix.shape}: give (T, T) = ({total}, {total}), T = batch * tokens"
        )
    if not np.isfinite(matrix).all():
        row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(matrix)))
        raise InputError(f"{what}[{row}, {column}]={matrix[row, column]} is not finite: give real numbers")
    scale = float(np.max(np.abs(matrix)))
    gap = np.abs(matrix - matrix.T)
    if gap.max() > 1e-8 * scale:
        row, column = (int(i) for i in np.unravel_index(np.argmax(gap), gap.shape))
        raise InputError(
            f"{what} is not symmetric: [{row}, {column}]={matrix[row, column]:g} and "
            f"[{column}, {row}]={matrix[column, row]:g}; give {remedy}"
        )
    lowest = float(np.linalg.eigvalsh(matrix)[0])
    if lowest < -1e-8 * scale:
        raise InputError(
            f"{what} is not positive semidefinite: it has the eigenvalue {lowest:g}; give {remedy}"
        )
    return matrix


def check_ids(ids: object, batch: int, tokens: int, arch: Transformer) -> npt.NDArray[np.intp]:
    """Check token ids against sizes and vocabulary.

    Args:
        ids: Integers of shape (batch, tokens).
        batch: Sequences.
        tokens: Tokens in a sequence.
        arch: The stack that embeds them.

    Returns:
        The ids.

    Raises:
        InputError: If the architecture takes vectors, or an id or the shape is wrong.
    """
    if arch.embedding is None:
        raise InputError("ids mean nothing where the input is vectors: leave them out, or give vocab")
    array = _rectangular("ids", ids)
    if array.shape != (batch, tokens) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"ids have shape {array.shape} and type {array.dtype}: give integers of shape ({batch}, {tokens})"
        )
    outside = array[(array < 0) | (array >= arch.embedding.vocab)]
    if outside.size:
        raise InputError(
            f"id {int(outside[0])} is outside the vocabulary: give 0 ... {arch.embedding.vocab - 1}"
        )
    return array.astype(np.intp)


def check_padding(padding: object, batch: int, tokens: int) -> npt.NDArray[np.bool_]:
    """Check a padding mask.

    Args:
        padding: Booleans of shape (batch, tokens), True where a token is real.
        batch: Sequences.
        tokens: Tokens in a sequence.

    Returns:
        The mask.

    Raises:
        InputError: If it has another shape, holds something else, or leaves a sequence without a token.
    """
    array = _rectangular("padding", padding)
    if array.shape != (batch, tokens) or not np.isin(array, (0, 1)).all():
        raise InputError(
            f"padding has shape {array.shape} and type {array.dtype}: give booleans of shape "
            f"({batch}, {tokens})"
        )
    real = array.astype(bool)
    if not real.any(axis=1).all():
        empty = int(np.argmin(real.any(axis=1)))
        raise InputError(
            f"padding leaves sequence {empty} without a real token: keep at least one True per row"
        )
    return real


def check_positions(arch: Transformer, tokens: int) -> None:
    """Check that learned positions reach as far as the sequences.

    Args:
        arch: One stack.
        tokens: Tokens in a sequence.

    Raises:
        InputError: If there are fewer positions than tokens.
    """
    if arch.position is not None and arch.position.vocab < tokens:
        raise InputError(
            f"positions={arch.position.vocab} do not reach {tokens} tokens: give more, or fewer tokens"
        )


def check_moments(q: float, cov: float, tokens: int) -> None:
    """Check that input vectors with second moment q and covariance cov exist.

    Args:
        q: Second moment per coordinate.
        cov: The same between two tokens of a sequence.
        tokens: Tokens in a sequence.

    Raises:
        InputError: If a value is no number, or no such vectors exist.
    """
    for what, value in (("q", q), ("cov", cov)):
        if not isinstance(value, Real):
            raise InputError(f"{what}={value!r} is not a number: give a real number")
    if not (math.isfinite(q) and q > 0):
        raise InputError(f"q={q} is no second moment: give a finite number above 0")
    lowest = -q / max(1, tokens - 1)
    if not (math.isfinite(cov) and lowest <= cov <= q):
        raise InputError(f"cov={cov} is impossible for {tokens} tokens: give a number in [{lowest:g}, {q:g}]")
