"""`first_update`: what the first step of an optimiser does to every parameter, before any training."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from meanfield.checks import check_architecture
from meanfield.errors import InputError, positive_integer
from meanfield.first_update.change import Point
from meanfield.first_update.moves import NOTHING, Move
from meanfield.first_update.result import FirstUpdate
from meanfield.first_update.shapes import Shape, parameter_shapes
from meanfield.first_update.sides import Sides
from meanfield.first_update.survey import Survey
from meanfield.first_update.tangent import Flow
from meanfield.given import PerStack, given_inputs
from meanfield.moments.loss import Loss
from meanfield.ops import EncoderDecoder, ParameterKey, Transformer
from meanfield.predict.engine import limit
from meanfield.predict.table import Prediction, configuration
from meanfield.threads import one_thread

if TYPE_CHECKING:
    import pandas as pd


def first_update(
    arch: Transformer | EncoderDecoder,
    *,
    tokens: int,
    batch: int = 1,
    source_tokens: int | None = None,
    learning_rate: float,
    optimizer: str = "adam",
    warmup: int = 1,
    loss: str = "cross_entropy",
    label_smoothing: float = 0.0,
    label_collision: float | None = None,
    q: float = 1.0,
    cov: float = 0.0,
    gram: PerStack | None = None,
    ids: PerStack | None = None,
    padding: PerStack | None = None,
) -> FirstUpdate:
    """Predict the first update of every parameter from a random initialisation.

        SGD, RAdam: -lr g;  Adam: -lr sign(g), as m / (1 - beta_1) = g and v / (1 - beta_2) = g^2

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        learning_rate: Largest learning rate of the schedule.
        optimizer: ``"adam"``, ``"sgd"`` or ``"radam"``.
        warmup: Steps of linear warm-up, T: the first step is made at learning_rate / T; 1 for none.
        loss: As for `meanfield.predict`.
        label_smoothing: For cross entropy.
        label_collision: For cross entropy: the probability that two labels are equal, sum of their squared
            frequencies; None for uniform labels. Frequent labels pull all tokens one way.
        q: As for `meanfield.predict`, like all that follow.
        cov: The same between two tokens.
        gram: Second moments of the input vectors.
        ids: Token ids.
        padding: Which tokens are real.

    Returns:
        The update: ``.df`` by parameter, ``.changes`` of the hidden states by layer.

    Raises:
        InputError: If a value cannot be.
        UnknownNameError: If there is no such optimiser or loss.
        MissingRuleError: If the theory has no rule for a part of the architecture.

    Assumes:
        What `predict` does, at infinite width but for the number of entries. Adam without eps, RAdam in its
        first steps (5 for beta_2 = 0.999), no weight decay, no clipping. Entries of a gradient are sums over
        tokens of products of independent vectors, Gaussian but for the activation.

    Source:
        kingma2015, Alg. 1 (Adam); liu2020radam, Alg. 2 (RAdam).

    Example:
        A gradient of one token has rank 1: E|g| is 2/pi of the root of E g^2, and Adam moves every entry.

        >>> from meanfield import paper_post_ln
        >>> arch = paper_post_ln(width=300, depth=2)
        >>> df = first_update(arch, tokens=1, loss="linear", learning_rate=0.01).df
        >>> value = df[(df.module == "attention.v") & (df.parameter == "weight")].iloc[0]
        >>> float(round(value.update_norm, 9)), float(round(value.weight_norm, 3))
        (3.0, 17.321)
        >>> float(round(value.grad_abs / (300 * value.grad_norm) * np.pi, 9))
        2.0
    """
    start = FirstUpdate(_nothing(), optimizer, learning_rate, warmup)
    arch, batch = check_architecture(arch), positive_integer("batch", batch)
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, Real):
        raise InputError(f"label_smoothing={label_smoothing!r} is not a number: give a real number")
    if label_collision is not None and not isinstance(label_collision, Real):
        raise InputError(f"label_collision={label_collision!r} is not a number: give a real number, or None")
    objective = Loss(loss, float(label_smoothing), label_collision)
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
    )
    sides = Sides()
    with one_thread():
        _, layout = limit(arch, batch, fed, objective, sides)
        survey = Survey.of(sides, fed, objective)
    table = Prediction(configuration(arch, fed[-1].tokens, batch, loss), sides, layout).df
    shapes = parameter_shapes(arch)
    sizes = {key: shape.size for key, shape in shapes.items()}

    @functools.cache
    def flow(adam: bool) -> tuple[Point, ...]:
        with one_thread():
            return tuple(Flow(survey, sizes, adam).through(fed))

    return replace(start, profile=_profile(shapes, table, survey), flow=flow)


def _profile(shapes: dict[ParameterKey, Shape], table: pd.DataFrame, survey: Survey) -> pd.DataFrame:
    keys = [ParameterKey(*row) for row in zip(table.layer, table.module, table.parameter, strict=True)]
    moves = [survey.moves.get(key, NOTHING) for key in keys]
    entries = np.array([shapes[key].size for key in keys])
    square = np.array([shapes[key].square for key in keys])
    share = np.array([move.share for move in moves])
    return table.drop(columns=["grad_sq", "log10_grad_sq"]).assign(
        entries=entries,
        moved=entries * np.array([move.moved for move in moves]),
        weight_norm=np.sqrt(entries * square),
        grad_abs=share * np.sqrt(entries) * table.grad_norm,
        **{f"{which}_change": [_relative(move, which) for move in moves] for which in ("adam", "sgd")},
    )


def _relative(move: Move, which: str) -> float:
    """Root of E||Dy||^2 / E||y||^2 of the output of a tensor's own op, at rate 1."""
    if move.change is None:
        return math.nan if move.moved else 0.0
    # where tokens differ kernels are T x T
    change, before = (
        float(np.mean(np.diagonal(kernel) if kernel.ndim == 2 else kernel[0]))
        for kernel in (getattr(move.change, which), move.change.before)
    )
    change = max(change, 0.0)  # an average of draws may end below 0 by rounding
    if not before:  # behind a gain of 0
        return math.inf if change else 0.0
    return math.sqrt(change / before)


def _nothing() -> pd.DataFrame:
    import pandas as pd  # half a second: not at import

    return pd.DataFrame()
