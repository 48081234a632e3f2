"""Which configurations a first update puts at risk: a criterion that is fixed before any training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from meanfield.errors import InputError
from meanfield.first_update.update import FirstUpdate

if TYPE_CHECKING:
    import pandas as pd

LARGEST_CHANGE = 1.0
"""First-order change of the loss, in nats, from which a first step counts as a risk."""


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

        lr* = T LARGEST_CHANGE / sum over parameters of grad_abs (Adam) or grad_norm^2 (SGD, RAdam)

    Args:
        update: The first update at any learning rate.

    Returns:
        The learning rate; infinite where no parameter has a gradient.
    """
    change = update.first_order_change
    return update.learning_rate * LARGEST_CHANGE / change if change else math.inf


def risk(update: FirstUpdate, settings: Iterable[Setting]) -> pd.DataFrame:
    """Compare the first step of each setting with the criterion.

        risk = first-order change of the loss / LARGEST_CHANGE; above 1 the step is at risk

    Args:
        update: The first update of an architecture; its own optimiser and learning rate do not matter.
        settings: Ways to train.

    Returns:
        One row per setting: ``optimizer, learning_rate, warmup, first_order_change, risk,
        critical_learning_rate``.

    Raises:
        InputError: If there is no setting, or a value in one cannot be.
    """
    import pandas as pd  # half a second: not at import

    updates = [update.at(**Setting(*setting)._asdict()) for setting in settings]
    if not updates:
        raise InputError("no settings: give at least one (optimizer, learning_rate, warmup)")
    rows = [
        {
            "optimizer": each.optimizer,
            "learning_rate": each.learning_rate,
            "warmup": each.warmup,
            "first_order_change": each.first_order_change,
            "risk": each.first_order_change / LARGEST_CHANGE,
            "critical_learning_rate": critical_learning_rate(each),
        }
        for each in updates
    ]
    return pd.DataFrame(rows)
