"""`predict`: from an architecture and its input to the theory table, at infinite or at the real width."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from meanfield.checks import check_architecture
from meanfield.errors import InputError, positive_integer
from meanfield.given import FeaturesPerStack, Given, PerStack, given_inputs
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
    gram: PerStack | None = None,
    ids: PerStack | None = None,
    padding: PerStack | None = None,
    features: FeaturesPerStack | None = None,
    fixed: bool = False,
    samples: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Predict E||dL/dtheta||_F^2 of every parameter tensor at initialisation.

    Nothing is measured or fitted: the numbers follow from the architecture value alone. Without samples they
    are those of infinite width. With samples they hold at the real width: the hidden states of that many
    initialisations are drawn, exactly in law, without any weight (`meanfield.weight_free`).

    For an encoder-decoder ``gram``, ``ids``, ``padding`` and ``features`` are tuples (source, target), whose
    parts may be None; an array that is no tuple is that of both.

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
        features: With ``gram``: parameters theta that make the vectors linearly, x_i = sum over theta of
            f_theta(i) theta, by name: K_ij = <f_theta(i), f_theta(j)>, T x T. Each gets a row of layer 0 with
            E||dL/dtheta||^2 = sum_ij K_ij G_ij, G the gradient kernel of the vectors: patch projections,
            class tokens, positions, biases.
        fixed: With ``gram`` and samples: whether the vectors are the same in every initialisation, so that
            gram is exactly theirs. Without, they are Gaussian and gram is its mean: of T tokens the traces of
            its powers are then larger by T/width and more, which queries and keys see.
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
    if not isinstance(label_smoothing, Real):
        raise InputError(f"label_smoothing={label_smoothing!r} is not a number: give a real number")
    objective = Loss(loss, float(label_smoothing))
    if samples != 0 and positive_integer("samples", samples) < 2:
        raise InputError("samples=1 has no spread: give 0 for the limit, or at least 2")
    fed = given_inputs(
        arch,
        tokens=tokens,
        batch=batch,
        source_tokens=source_tokens,
        q=q,
        cov=cov,
        gram=gram,
        ids=ids,
        padding=padding,
        features=features,
    )
    tokens, batch = fed[-1].tokens, positive_integer("batch", batch)
    with one_thread():
        record, layout = limit(arch, batch, fed, objective)
    if samples == 0:
        return Prediction(configuration(arch, tokens, batch, loss), record, layout)
    from meanfield import weight_free  # needs an array library of its own: not at import

    drawn = weight_free.sample(
        arch,
        tokens=tokens,
        batch=batch,
        source_tokens=source_tokens,
        seeds=range(samples),
        loss=loss,
        label_smoothing=label_smoothing,
        q=q,
        cov=cov,
        gram=gram,
        ids=ids,
        padding=padding,
        features=features,
        fixed=fixed,
        dtype="float32" if _moderate(record) else "float64",
        progress=progress,
    )
    return Prediction(configuration(arch, tokens, batch, loss), record, layout, drawn)


def limit(
    arch: Transformer | EncoderDecoder,
    batch: int,
    fed: tuple[Given, ...],
    loss: Loss,
    record: Record | None = None,
) -> tuple[Record, Layout]:
    """Run the recursion in the smallest layout that holds what differs.

    Args:
        arch: The architecture.
        batch: Sequences.
        fed: What goes into each stack.
        loss: The loss.
        record: Collects what is found; a fresh one if None.

    Returns:
        The record, and the layout of the tokens under the loss.
    """
    if isinstance(arch, Transformer):
        layout, given = _layout(fed[0], batch)
        return propagate(arch, layout, loss=loss, given=given, record=record), layout
    source, target = fed
    whole = Gram(target.tokens, batch, target.padding)
    encoder = Gram(source.tokens, batch, source.padding, streams=whole.streams, errors=whole.errors)
    inputs = source.input, target.input
    found = propagate_encoder_decoder(arch, encoder, whole, loss=loss, given=inputs, record=record)
    return found, whole


def _layout(fed: Given, batch: int) -> tuple[Layout, Input]:
    """Choose the smaller layout where tokens are exchangeable."""
    given = fed.input
    whole = Gram(fed.tokens, batch, fed.padding)
    differ = fed.padding is not None or given.ids is not None or bool(given.features)
    if differ or needs_order(fed.stack, batch):
        return whole, given
    if given.gram is None:
        return Exchangeable(fed.tokens, batch), given
    values = whole.contract(given.gram)
    if values is None or values[2] != 0:
        return whole, given
    return Exchangeable(fed.tokens, batch), Input(float(values[0]), float(values[1]))


def _moderate(record: Record) -> bool:
    """Whether all gradients are well inside the range of single precision, squares and sums included."""
    sizes = [abs(size) for size in record.log10_grad_sq.values() if size > -np.inf]
    return max(sizes, default=0.0) < _SINGLE


_SINGLE = 15.0
"""Decades from 1 within which squares of square gradients stay far from the ends of float32."""
