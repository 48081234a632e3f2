"""What goes into each stack of an architecture: one record, checked once for every way to compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from meanfield.checks import (
    check_feature,
    check_gram,
    check_ids,
    check_moments,
    check_padding,
    check_positions,
)
from meanfield.errors import InputError, positive_integer
from meanfield.moments.inputs import Input
from meanfield.moments.state import Kernel
from meanfield.ops import EncoderDecoder, Op, Transformer, walk

PerStack: TypeAlias = npt.ArrayLike | tuple[npt.ArrayLike | None, npt.ArrayLike | None]
"""An array; for an encoder-decoder one for both stacks, or those of source and target."""

Features: TypeAlias = Mapping[str, npt.ArrayLike]
FeaturesPerStack: TypeAlias = Features | tuple[Features | None, Features | None]
"""Inner products, T x T, of what makes the input vectors, by the names of the parameters."""


class Given(NamedTuple):
    """What one stack is fed with.

    Attributes:
        stack: The stack.
        tokens: Tokens in a sequence.
        input: Ids, or second moments of vectors and what makes them.
        padding: (batch, tokens), True where a token is real; None where all are.
    """

    stack: Transformer
    tokens: int
    input: Input
    padding: npt.NDArray[np.bool_] | None


def given_inputs(
    arch: Transformer | EncoderDecoder,
    *,
    tokens: int,
    batch: int,
    source_tokens: int | None = None,
    q: float = 1.0,
    cov: float = 0.0,
    gram: PerStack | None = None,
    ids: PerStack | None = None,
    padding: PerStack | None = None,
    features: FeaturesPerStack | None = None,
) -> tuple[Given, ...]:
    """Check what the stacks of an architecture are fed with.

    For an encoder-decoder ``gram``, ``ids`` and ``padding`` are a tuple (source, target) whose parts may be
    None, or one value for both; ``features`` is such a tuple.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence; as many as in the target if None.
        q: Second moment per coordinate of input vectors.
        cov: The same between two input tokens of a sequence.
        gram: T x T second moments in place of q and cov.
        ids: Token ids (batch, tokens); uniform random ones if None.
        padding: Booleans (batch, tokens), True where a token is real; all if None.
        features: Names of parameters that make the vectors linearly, with the T x T inner products of what
            each is multiplied by.

    Returns:
        One record, or those of encoder and decoder.

    Raises:
        InputError: If a value cannot be, or means nothing here.

    Example:
        >>> from meanfield import encoder_decoder
        >>> arch = encoder_decoder(width=8, depth=1, vocab=9)
        >>> source, target = given_inputs(arch, tokens=2, batch=1, source_tokens=3, ids=([[1, 2, 3]], None))
        >>> source.input.ids.tolist(), target.input.ids
        ([[1, 2, 3]], None)
    """
    tokens, batch = positive_integer("tokens", tokens), positive_integer("batch", batch)
    pair = isinstance(arch, EncoderDecoder)
    if not pair and source_tokens is not None:
        raise InputError("source_tokens is for an encoder-decoder: leave it out")
    stacks = (arch.encoder, arch.decoder) if isinstance(arch, EncoderDecoder) else (arch,)
    source = tokens if source_tokens is None else positive_integer("source_tokens", source_tokens)
    if (q, cov) != (1, 0) and all(stack.embedding is not None for stack in stacks):
        raise InputError(
            "q, cov and gram mean nothing where an embedding makes the input: leave them out, or leave out "
            "vocab"
        )
    if pair and features is not None and not isinstance(features, tuple):
        raise InputError("features of an encoder-decoder are a tuple (source, target): give two mappings")
    parts = (_each(value, pair) for value in (gram, ids, padding, features))
    found = zip(stacks, (source, tokens) if pair else (tokens,), *parts, strict=True)
    return tuple(_given(stack, n, batch, q, cov, *values) for stack, n, *values in found)


def _each(value: object, pair: bool) -> tuple[Any, ...]:
    """Split a value into that of each stack."""
    if not pair:
        return (value,)
    if isinstance(value, tuple):
        if len(value) != 2:
            raise InputError(f"{len(value)} inputs for an encoder-decoder: give a tuple (source, target)")
        return value
    return value, value


def _given(stack: Transformer, tokens: int, batch: int, q: float, cov: float, *values: object) -> Given:
    gram, ids, padding, features = values
    check_positions(stack, tokens)
    if stack.embedding is not None and gram is not None:
        raise InputError(
            f"gram means nothing for {stack.name}, whose input is embedded ids: give ids, or leave out vocab"
        )
    if gram is not None and (q, cov) != (1, 0):
        raise InputError("gram holds what q and cov say: give one or the other")
    check_moments(q, cov, tokens)
    made = Input(
        q,
        cov,
        None if gram is None else check_gram(gram, batch * tokens, zeros=bool(features)),
        None if ids is None else check_ids(ids, batch, tokens, stack),
        _features(features, gram, batch * tokens, stack),
    )
    mask = None if padding is None else check_padding(padding, batch, tokens)
    return Given(stack, tokens, made, mask)


def _features(features: object, gram: object, total: int, stack: Transformer) -> dict[str, Kernel]:
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        raise InputError(f"features={type(features).__name__} is no mapping: give name -> T x T array")
    if features and gram is None:
        raise InputError(
            "features need gram=, the second moments of the vectors that they make, and a stack without an "
            "embedding: give gram, and leave out vocab"
        )
    checked = {name: check_feature(name, kernel, total) for name, kernel in features.items()}
    taken = {getattr(op, "name", None) for op in walk(stack.entry or Op())}
    for name in checked:
        if name in taken | {"input"}:
            raise InputError(f"features have the name {name!r}, which the stack has already: give another")
    return checked


def gram_root(gram: Kernel) -> Kernel:
    """Find R with R R^T = Q for a Gram matrix Q; what is 0 but for rounding stays 0.

    Args:
        gram: Q, positive semidefinite.

    Returns:
        R.

    Example:
        >>> root = gram_root(np.array([[4.0, 2.0], [2.0, 1.0]]))
        >>> (root @ root.T).round(12).tolist(), float(np.abs(root).min())
        ([[4.0, 2.0], [2.0, 1.0]], 0.0)
    """
    values, vectors = np.linalg.eigh(gram)
    rounding = len(gram) * np.finfo(np.float64).eps * values[-1]
    return np.asarray(vectors * np.sqrt(np.where(values > rounding, values, 0.0)))
