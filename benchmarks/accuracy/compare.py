"""Predictions joined with measured gradients, and how well they agree.

A tensor meets the target when |predicted / measured - 1| is at most the target or 3 standard errors; it
*disagrees* when it differs by more than both the target and what chance allows the worst of all tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

import meanfield as mf
from benchmarks.accuracy.store import Measured
from meanfield.errors import InputError
from meanfield.ops import ParameterKey

KEYS = list(ParameterKey._fields)
TARGET = {512: 0.02, 128: 0.05}  # width: largest relative error asked for
STANDARD_ERRORS = 3.0
CHANCE = 0.01  # that any tensor of a faultless theory is called a disagreement
ROUNDING = (
    1e-9  # of a layer's largest gradient: what arithmetic makes of an exact zero, measured or predicted
)


def predict(setting: dict[str, Any], samples: int) -> pd.DataFrame:
    """Return the prediction for a measured setting, from its configuration alone.

    Args:
        setting: That of a measurement.
        samples: Number of weight-free samples for the corrections of finite width.
    """
    config = setting["config"]
    if "preset" in config:
        options = {key: value for key, value in config.items() if key != "preset"}
        arch = getattr(mf, config["preset"])(**options)
    else:
        from meanfield.huggingface import architecture

        arch = architecture(config)
    ids = None if setting["ids"] is None else np.array(setting["ids"])
    sizes = {name: setting[name] for name in ("tokens", "batch", "loss")}
    return mf.predict(arch, ids=ids, samples=samples, **sizes).df


def join(predicted: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """Join a prediction with a measurement, one row per tensor.

    Args:
        predicted: Columns `KEYS`, ``grad_sq`` and the same with ``_se, _limit, _sd, _low, _high``.
        measured: The measurement.

    Returns:
        The prediction with ``grad_sq_hat, grad_sq_hat_se, grad_sq_hat_sd``, the relative ``error`` of the
        prediction, its standard error ``error_se``, ``inside`` (share of seeds in the band) and
        ``exact_zero``: the prediction is zero. Such a row, a key's bias, has ``error`` 0 if the measured
        value is rounding, else infinite.

    Raises:
        InputError: If a tensor is only predicted or only measured, or comes twice.
    """
    found = pd.DataFrame(measured.keys, columns=KEYS).assign(
        grad_sq_hat=measured.mean,
        grad_sq_hat_se=measured.se,
        grad_sq_hat_sd=measured.sd,
        column=range(len(measured.keys)),
    )
    table = predicted.merge(found, on=KEYS, how="outer", indicator=True, sort=False)
    alone = table[(table["_merge"] != "both") | table.duplicated(KEYS)]
    if len(alone):
        name = " ".join(map(str, alone.iloc[0][KEYS]))
        raise InputError(f"{len(alone)} tensors without a partner, the first is {name}: compare equal models")
    table = table.sort_values("column", ignore_index=True).drop(columns=["_merge", "column"])
    largest = table.groupby("layer")[["grad_sq", "grad_sq_hat"]].transform("max")
    table["exact_zero"] = table.grad_sq <= ROUNDING * largest.grad_sq
    zero = np.where(table.grad_sq_hat <= ROUNDING * largest.grad_sq_hat, 0.0, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = table.grad_sq / table.grad_sq_hat - 1
        error_se = np.hypot(
            table.grad_sq_se / table.grad_sq, table.grad_sq_hat_se / table.grad_sq_hat
        ) * np.abs(1 + error)
    table["error"] = np.where(table.exact_zero, zero, error)
    table["error_se"] = np.where(table.exact_zero, 0.0, error_se)
    low, high = table.grad_sq_low.to_numpy(), table.grad_sq_high.to_numpy()
    table["inside"] = ((measured.values >= low) & (measured.values <= high)).mean(axis=0)
    return table


def judge(table: pd.DataFrame, target: float, of: int | None = None) -> pd.DataFrame:
    """Say which tensors meet the target and which disagree beyond chance.

        meets <=> |error| <= max(target, 3 se);   disagrees <=> |error| > max(target, z se)

    Args:
        table: A table made by `join`.
        target: Largest relative error asked for.
        of: Number of tensors that are judged together, by default those of the table; z is the standard
            normal quantile that any of them exceeds with probability `CHANCE`.

    Returns:
        The table with the columns ``meets`` and ``disagrees``.

    Example:
        >>> rows = pd.DataFrame({"error": [0.01, 0.06, -0.06], "error_se": [0.001, 0.02, 0.002]})
        >>> judge(rows, 0.02)[["meets", "disagrees"]].values.tolist()
        [[True, False], [True, False], [False, True]]
    """
    z = norm.isf(CHANCE / (2 * (of or len(table))))
    error = table.error.abs()
    return table.assign(
        meets=error <= np.maximum(target, STANDARD_ERRORS * table.error_se),
        disagrees=error > np.maximum(target, z * table.error_se),
    )


@dataclass(frozen=True)
class Score:
    """How well one prediction agrees with one measurement; errors are relative to the measured mean.

    Args:
        tensors: Parameter tensors compared, exact zeros left out.
        zeros: Tensors predicted to be exactly zero and found so.
        median: Median |error|.
        largest: Largest |error|.
        limit_largest: The same of the limit of infinite width.
        met: Share of tensors within the target or 3 standard errors.
        missed: How many are not.
        by_chance: How many would not be if every prediction were exact.
        disagree: Tensors that differ beyond chance, wrong zeros included.
        r_squared: Of log predicted against log measured, about the line of equality.
        coverage: Share of (seed, tensor) inside the 95 % band.
        coverage_low: The smallest share of one tensor.
        largest_se: Largest relative standard error of a measured mean.
    """

    tensors: int
    zeros: int
    median: float
    largest: float
    limit_largest: float
    met: float
    missed: int
    by_chance: float
    disagree: int
    r_squared: float
    coverage: float
    coverage_low: float
    largest_se: float


def score(tables: Iterable[pd.DataFrame], target: float) -> Score:
    """Summarise judged tables, of one model or of several together."""
    table = pd.concat(list(tables), ignore_index=True)
    rows = table[~table.exact_zero]
    error = rows.error.abs()
    measured, predicted = np.log(rows.grad_sq_hat), np.log(rows.grad_sq)
    residual = ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()
    granted = np.maximum(target / rows.error_se, STANDARD_ERRORS)
    return Score(
        tensors=len(rows),
        zeros=int((table.exact_zero & (table.error == 0)).sum()),
        median=float(error.median()),
        largest=float(error.max()),
        limit_largest=float((rows.grad_sq_limit / rows.grad_sq_hat - 1).abs().max()),
        met=float(rows.meets.mean()),
        missed=int((~rows.meets).sum()),
        by_chance=float(2 * norm.sf(granted).sum()),
        disagree=int(table.disagrees.sum()),
        r_squared=float(1 - residual),
        coverage=float(rows.inside.mean()),
        coverage_low=float(rows.inside.min()),
        largest_se=float((rows.grad_sq_hat_se / rows.grad_sq_hat).max()),
    )
