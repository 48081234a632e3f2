"""Which configurations a first update puts at risk: a criterion that is fixed before any training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from meanfield.errors import InputError
from meanfield.first_update.result import LARGEST_CHANGE, FirstUpdate
from meanfield.predict.table import KEYS

if TYPE_CHECKING:
    import pandas as pd


class Setting(NamedTuple):
    """One way to train.

    Attributes:
        optimizer: ``"adam"``, ``"sgd"`` or ``"radam"``.
        learning_rate: Largest learning rate of the schedule.
        warmup: Steps of linear warm-up; 1 for none.
    """

    optimizer: str
    learning_rate: float
    warmup: int = 1


def critical_learning_rate(update: FirstUpdate) -> float:
    """Compute the largest learning rate whose first step is not at risk, warm-up included.

        lr* = T LARGEST_CHANGE / relative change of the final hidden states at rate 1

    Args:
        update: The first update at any learning rate.

    Returns:
        The learning rate; infinite where no step changes a hidden state.

    Raises:
        MissingRuleError: If there is no rule for the change of hidden states in this architecture.

    Assumes:
        What `FirstUpdate.changes` does: first order in the learning rate, where half of the change that it
        predicts is beyond what is linear.

    Source:
        liu2020 (the change of the output in one step, by placement).

    Example:
        Twice the warm-up, twice the learning rate.

        >>> from meanfield import post_ln
        >>> from meanfield.first_update import first_update
        >>> update = first_update(
        ...     post_ln(width=64, depth=2, vocab=100), tokens=8, learning_rate=1e-3, warmup=50
        ... )
        >>> round(critical_learning_rate(update.at(warmup=100)) / critical_learning_rate(update), 12)
        2.0
    """
    change = update.output_change
    return update.learning_rate * LARGEST_CHANGE / change if change else math.inf


def risk(
    updates: FirstUpdate | Iterable[FirstUpdate], settings: Iterable[Setting | tuple[str, float, int]]
) -> pd.DataFrame:
    """Compare the first step of each setting with the criterion.

        risk = relative change of the final hidden states / LARGEST_CHANGE; above 1 the step is at risk

    Args:
        updates: First updates of one architecture or several; their own learning rates do not matter.
        settings: Ways to train, as (optimizer, learning_rate, warmup).

    Returns:
        One row per architecture and setting: key columns, ``optimizer, learning_rate, warmup,
        first_order_change, output_change, risk, critical_learning_rate``.

    Raises:
        InputError: If there is no setting or no architecture, or a value in one cannot be.
        MissingRuleError: If there is no rule for the change of hidden states in an architecture.
    """
    import pandas as pd  # half a second: not at import

    chosen = [Setting(*setting) for setting in settings]
    archs = [updates] if isinstance(updates, FirstUpdate) else list(updates)
    if not chosen or not archs:
        raise InputError(
            f"{len(archs)} first updates in {len(chosen)} settings: give at least one of both, a setting as "
            "(optimizer, learning_rate, warmup)"
        )
    each = [arch.at(**setting._asdict()) for arch in archs for setting in chosen]
    rows = [
        {
            **update.profile[list(KEYS[:-3])].iloc[0].to_dict(),
            "optimizer": update.optimizer,
            "learning_rate": update.learning_rate,
            "warmup": update.warmup,
            "first_order_change": update.first_order_change,
            "output_change": update.output_change,
            "risk": update.output_change / LARGEST_CHANGE,
            "critical_learning_rate": critical_learning_rate(update),
        }
        for update in each
    ]
    return pd.DataFrame(rows)
