"""`predict`: from an architecture and its input to the theory table, at infinite or at the real width."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from meanfield.checks import (
    check_architecture,
    check_gram,
    check_ids,
    check_moments,
    check_padding,
    check_positions,
)
from meanfield.errors import InputError, positive_integer
from meanfield.moments.inputs import Input
from meanfield.moments.loss import Loss
from meanfield.moments.stack import needs_order, propagate, propagate_encoder_decoder
from meanfield.moments.state import Exchangeable, Gram, Layout
from meanfield.ops import EncoderDecoder, Transformer
from meanfield.predict.table import Prediction, configuration
from meanfield.threads import one_thread

if TYPE_CHECKING:
    from meanfield.moments.record import Record


def predict(
    arch: Transformer | EncoderDecoder,
    *,
    tokens: int,
    batch: int = 1,
    source_tokens: int | None = None,
    loss: str = "linear",
    label_smoothing: float = 0.0,
    q: float = 1.0,
    cov: float = 0.0,
    gram: npt.ArrayLike | None = None,
    ids: npt.ArrayLike | None = None,
    padding: npt.ArrayLike | None = None,
    samples: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Predict E||dL/dtheta||_F^2 of every parameter tensor at initialisation.

    Nothing is measured or fitted: the numbers follow from the architecture value alone. Without samples they
    are those of infinite width. With samples they hold at the real width: the hidden states of that many
    initialisations are drawn, exactly in law, without any weight (`meanfield.weight_free`).

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        loss: ``"linear"``: (1/T) sum_i <r_i, y_i>, r_i ~ N(0, I/d); ``"mse"``: the mean of (y - t)^2 over
            tokens and coordinates, t ~ N(0, 1); ``"cross_entropy"``: the mean over tokens, uniform random
            labels.
        label_smoothing: For cross entropy, in [0, 1).
        q: Second moment per coordinate of the input vectors; an embedding gives its own.
        cov: The same between two input tokens of a sequence, |cov| <= q.
        gram: T x T second moments per coordinate of the input vectors, in place of q and cov; T = batch *
            tokens, sequence by sequence.
        ids: Token ids of shape (batch, tokens) where there is an embedding; uniform random ones if None.
        padding: Booleans of shape (batch, tokens), True where a token is real; all if None.
        samples: Initialisations to draw for the means and error bars at the real width; 0 for the limit.
        progress: Called with the number of initialisations drawn since the last call.

    Returns:
        The table, with ``.df`` for parameters and ``.activations`` for the points of every block.

    Raises:
        InputError: If this is no architecture, LayerNorm has one coordinate, a size or the input cannot be,
            or an argument has no meaning here.
        MissingRuleError: If the theory has no rule for a part of the architecture.

    Assumes:
        Independent weights of mean 0. Without samples: width to infinity; heads of infinite size where tokens
        are exchangeable, of their real size where they are not.

    Source:
        xiong2020, App. B-F, with the residual branches kept in the backward pass.

    Example:
        For one token Post-LN keeps the squared gradient: ||dL/dW_2||^2 = d/3 in every layer.

        >>> from meanfield import paper_post_ln
        >>> df = predict(paper_post_ln(width=300, depth=3), tokens=1).df
        >>> down = df[(df.module == "ffn.down") & (df.parameter == "weight")]
        >>> [round(value, 9) for value in down.grad_sq]
        [100.0, 100.0, 100.0]
    """
    arch = check_architecture(arch)
    tokens, batch = positive_integer("tokens", tokens), positive_integer("batch", batch)
    if not isinstance(label_smoothing, Real):
        raise InputError(f"label_smoothing={label_smoothing!r} is not a number: give a real number")
    objective = Loss(loss, float(label_smoothing))
    stack = arch.decoder if isinstance(arch, EncoderDecoder) else arch
    for part in (arch.encoder, arch.decoder) if isinstance(arch, EncoderDecoder) else (arch,):
        check_positions(part, tokens)
    if samples != 0 and positive_integer("samples", samples) < 2:
        raise InputError("samples=1 has no spread: give 0 for the limit, or at least 2")
    if stack.embedding is not None and ((q, cov) != (1, 0) or gram is not None):
        raise InputError(
            "q, cov and gram mean nothing where an embedding makes the input: leave them out, or leave out "
            "vocab"
        )
    if gram is not None and (q, cov) != (1, 0):
        raise InputError("gram holds what q and cov say: give one or the other")
    check_moments(q, cov, tokens)
    mask = None if padding is None else check_padding(padding, batch, tokens)
    given = Input(
        q,
        cov,
        None if gram is None else check_gram(gram, batch * tokens),
        None if ids is None else check_ids(ids, batch, tokens, stack),
    )
    with one_thread():
        record, layout = _limit(arch, tokens, batch, source_tokens, mask, given, objective)
    if samples == 0:
        return Prediction(configuration(arch, tokens, batch, loss), record, layout)
    if source_tokens not in (None, tokens):
        raise InputError(f"samples need source_tokens={tokens}, as many as in the target: leave it out")
    from meanfield import weight_free  # needs an array library of its own: not at import

    drawn = weight_free.sample(
        arch,
        tokens=tokens,
        batch=batch,
        seeds=range(samples),
        loss=loss,
        label_smoothing=label_smoothing,
        q=q,
        cov=cov,
        gram=gram,
        ids=ids,
        padding=padding,
        dtype="float32" if _moderate(record) else "float64",
        progress=progress,
    )
    return Prediction(configuration(arch, tokens, batch, loss), record, layout, drawn)


def _limit(
    arch: Transformer | EncoderDecoder,
    tokens: int,
    batch: int,
    source_tokens: int | None,
    padding: npt.NDArray[np.bool_] | None,
    given: Input,
    loss: Loss,
) -> tuple[Record, Layout]:
    """Run the recursion in the smallest layout that holds what differs."""
    if isinstance(arch, EncoderDecoder):
        if given.gram is not None or given.ids is not None or padding is not None:
            raise InputError("gram, ids and padding are for one stack: leave them out for an encoder-decoder")
        source = positive_integer("source_tokens", tokens if source_tokens is None else source_tokens)
        target = Gram(tokens, batch)
        encoder = Gram(source, batch, streams=target.streams, errors=target.errors)
        return propagate_encoder_decoder(arch, encoder, target, loss=loss, given=(given, given)), target
    if source_tokens is not None:
        raise InputError("source_tokens is for an encoder-decoder: leave it out")
    layout, given = _layout(arch, tokens, batch, padding, given)
    return propagate(arch, layout, loss=loss, given=given), layout


def _layout(
    arch: Transformer, tokens: int, batch: int, padding: npt.NDArray[np.bool_] | None, given: Input
) -> tuple[Layout, Input]:
    """Choose the smaller layout where tokens are exchangeable."""
    whole = Gram(tokens, batch, padding)
    if needs_order(arch, batch) or padding is not None or given.ids is not None:
        return whole, given
    if given.gram is None:
        return Exchangeable(tokens, batch), given
    values = whole.contract(given.gram)
    if values is None or values[2] != 0:
        return whole, given
    return Exchangeable(tokens, batch), Input(float(values[0]), float(values[1]))


def _moderate(record: Record) -> bool:
    """Whether all gradients are well inside the range of single precision, squares and sums included."""
    sizes = [abs(size) for size in record.log10_grad_sq.values() if size > -np.inf]
    return max(sizes, default=0.0) < _SINGLE


_SINGLE = 15.0
"""Decades from 1 within which squares of square gradients stay far from the ends of float32."""
