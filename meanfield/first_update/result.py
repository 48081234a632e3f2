"""`FirstUpdate`: the tables of a first step, at any learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.predict.table import KEYS

if TYPE_CHECKING:
    import pandas as pd

    from meanfield.first_update.change import Point

OPTIMIZERS = ("adam", "radam", "sgd")
"""Adam moves by signs at first; RAdam begins with steps that are not adapted, as SGD's."""

LARGEST_CHANGE = 1.0
"""Relative change of hidden states from which a first step is at risk: by as much as they are themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstUpdate:
    """The first step of an optimiser from a random initialisation.

    Attributes:
        profile: Key columns, and what does not depend on the optimiser: ``entries, moved, weight_norm,
            grad_norm, grad_abs``, and changes of outputs at rate 1, ``adam_change, sgd_change``.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: Largest learning rate of the schedule.
        warmup: Steps of linear warm-up, T: the first step is made at learning_rate / T.
        flow: Follows the change of the hidden states through all layers, at rate 1; whether by signs.
    """

    profile: pd.DataFrame
    optimizer: str
    learning_rate: float
    warmup: int = 1
    flow: Callable[[bool], tuple[Point, ...]] = field(default=lambda adam: (), repr=False)

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.optimizer, OPTIMIZERS)
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, Real) or not math.isfinite(rate) or rate <= 0:
            raise InputError(f"learning_rate={rate!r} is no step size: give a number above 0, such as 1e-3")
        positive_integer("warmup", self.warmup)

    @property
    def step_size(self) -> float:
        """Learning rate of the first step, learning_rate / T."""
        return self.learning_rate / self.warmup

    def at(
        self, *, optimizer: str | None = None, learning_rate: float | None = None, warmup: int | None = None
    ) -> FirstUpdate:
        """Say the same of another optimiser or learning rate; the gradients need not be predicted again.

        Args:
            optimizer: One of `OPTIMIZERS`; as it is if None.
            learning_rate: Largest learning rate; as it is if None.
            warmup: Steps of warm-up; as it is if None.

        Returns:
            The other first update.
        """
        return replace(
            self,
            optimizer=self.optimizer if optimizer is None else optimizer,
            learning_rate=self.learning_rate if learning_rate is None else learning_rate,
            warmup=self.warmup if warmup is None else warmup,
        )

    @property
    def df(self) -> pd.DataFrame:
        """One row per parameter: key columns and profile, and these.

        update_norm         norm of the step: lr sqrt(moved) for Adam, lr grad_norm for SGD and RAdam
        relative_update     update_norm / weight_norm; infinite where weights start at 0
        first_order_change  by how much the loss falls to first order: lr grad_abs, or lr grad_norm^2
        output_change       root of E||Dy||^2 / E||y||^2, y the output of the parameter's own op, by this step
                            alone; NaN where there is no rule
        """
        table = self.profile.drop(columns=["adam_change", "sgd_change"])
        if self.optimizer == "adam":
            norm, change, output = np.sqrt(table.moved), table.grad_abs, self.profile.adam_change
        else:
            norm, change, output = table.grad_norm, table.grad_norm**2, self.profile.sgd_change
        update = self.step_size * norm
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = update / table.weight_norm
        return table.assign(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            update_norm=update,
            relative_update=relative,
            first_order_change=self.step_size * change,
            output_change=self.step_size * output,
        )

    @property
    def changes(self) -> pd.DataFrame:
        """One row per layer, in order of depth: key columns, and these of the hidden states behind it.

        output_change           root of E||Dx||^2 / E||x||^2 over tokens, by all steps before it
        aligned_change          the same of the part along the gradient, which alone lowers the loss
        critical_learning_rate  that at which output_change is `LARGEST_CHANGE`, warm-up included
        """
        import pandas as pd  # half a second: not at import

        found = pd.DataFrame(
            [
                (point.layer, point.module, "activation", point.change, point.aligned)
                for point in self._points
            ],
            columns=["layer", "module", "parameter", "output_change", "aligned_change"],
        )
        sizes = ["output_change", "aligned_change"]
        found[sizes] *= self.step_size
        with np.errstate(divide="ignore"):
            found["critical_learning_rate"] = self.learning_rate * LARGEST_CHANGE / found.output_change
        shared = self.profile[list(KEYS[:-3])].iloc[[0] * len(found)].reset_index(drop=True)
        return pd.concat([shared, found], axis=1)

    @property
    def output_change(self) -> float:
        """Root of E||Dx||^2 / E||x||^2 of the final hidden states, to first order."""
        return self.step_size * self._points[-1].change

    @property
    def _points(self) -> tuple[Point, ...]:
        return self.flow(self.optimizer == "adam")

    @property
    def first_order_change(self) -> float:
        """By how much the loss falls to first order, all parameters together."""
        return float(self.df.first_order_change.sum())
