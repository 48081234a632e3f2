"""Predicted against measured means of many tensors: ratios, their intervals, and which of them disagree.

A tensor meets the tolerance when its ratio differs from 1 by at most the tolerance or 3 standard errors. It
*disagrees* when the ratio differs by more than both the tolerance and what chance allows the worst of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from meanfield.errors import InputError

STANDARD_ERRORS = 3.0
CHANCE = 0.01
"""That any tensor of a faultless theory is called a disagreement."""
CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Of a layer's largest gradient: what arithmetic in float32 makes of an exact zero."""
NOTHING = 1e-14
"""Of a layer's largest gradient: what a prediction of exactly 0 may have become in float64."""

AGREES, WITHIN, UNLIKELY, DISAGREES, ZERO, UNPREDICTED = (
    "agrees",
    "3 s.e.",
    "unlikely",
    "DISAGREES",
    "zero",
    "unpredicted",
)
FLAGS = {
    AGREES: "the ratio is within the tolerance of 1",
    WITHIN: "beyond the tolerance, but within 3 standard errors: more seeds would tell",
    UNLIKELY: "beyond both, but not by more than chance grants the worst of all tensors",
    DISAGREES: "beyond the tolerance and beyond chance",
    ZERO: "predicted to be exactly 0, and measured as rounding",
    UNPREDICTED: "measured, and the theory has no number for it: see the notes",
}
"""What the column ``flag`` says."""


def compare(
    predicted: pd.DataFrame, values: NDArray[np.float64], tolerance: float, eps: float = 2.0**-23
) -> pd.DataFrame:
    r"""Compare predictions with measurements, one row per tensor.

        ratio = \hat{v} / v,   s^2 = max(se(\hat{v})/\hat{v}, sd/(v sqrt(S)))^2 + (se(v)/v)^2,
        interval: ratio exp(+- 1.96 s);   meets <=> |ratio - 1| <= tolerance or |log ratio| <= 3 s,
        disagrees <=> |ratio - 1| > tolerance and |log ratio| > z s,

    z such that any of the N tensors exceeds it with probability 1 % if all predictions are right. With few
    seeds the measured standard error is itself uncertain: the predicted spread sd is its lower bound.

    Args:
        predicted: ``layer``, ``grad_sq`` and the same with ``_se, _sd, _low, _high``; NaN where there is no
            prediction.
        values: Measured square gradient norms, (seeds, rows).
        tolerance: Largest difference from 1 that is asked for.
        eps: Of the type in which was measured: it sets what counts as rounding of an exact zero.

    Returns:
        The prediction with ``grad_sq_hat``, ``grad_sq_hat_se``, ``grad_sq_hat_sd``, ``ratio``, ``ratio_low``,
        ``ratio_high``, ``inside`` (share of seeds in the 95 % band) and ``flag``, a key of `FLAGS`.

    Raises:
        InputError: If there are fewer than two seeds, or the tolerance is no share.

    Assumes:
        Independent seeds. Measured means are near log-normal, as products of many factors are.

    Example:
        >>> row = {"layer": 1, "grad_sq": 1.0, "grad_sq_se": 0.0, "grad_sq_sd": 0.1,
        ...        "grad_sq_low": 0.8, "grad_sq_high": 1.2}
        >>> values = np.array([[1.0, 2.0], [1.1, 2.2], [0.9, 1.8]])
        >>> compare(pd.DataFrame([row, row]), values, 0.03)[["ratio", "flag"]].values.tolist()
        [[1.0, 'agrees'], [2.0, 'DISAGREES']]
    """
    seeds = len(values)
    if seeds < 2:
        raise InputError(f"{seeds} seed gives no standard error: measure at least 2")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance={tolerance} is no share between 0 and 1: give one such as 0.03")
    v = predicted.grad_sq.to_numpy()
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    se = sd / seeds**0.5
    rounding = max(ROUNDING, 100 * eps**2)
    largest = _of_layer(predicted.layer, v), _of_layer(predicted.layer, mean)
    zero = v <= NOTHING * largest[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(zero, np.where(mean <= rounding * largest[1], 1.0, np.inf), mean / v)
        own = np.maximum(se / mean, predicted.grad_sq_sd / (v * seeds**0.5))
        s = np.where(zero, 0.0, np.hypot(own, predicted.grad_sq_se / v))
        away, log_ratio = np.abs(ratio - 1), np.abs(np.log(ratio))
    judged = ~np.isnan(v)
    z = _quantile(int(judged.sum()))
    middle = norm.isf((1 - CONFIDENCE) / 2)
    flag = np.select(
        [
            ~judged,
            zero & (ratio == 1),
            away <= tolerance,
            log_ratio <= STANDARD_ERRORS * s,
            log_ratio <= z * s,
        ],
        [UNPREDICTED, ZERO, AGREES, WITHIN, UNLIKELY],
        DISAGREES,
    )
    band = predicted.grad_sq_low.to_numpy(), predicted.grad_sq_high.to_numpy()
    inside = np.where(judged, ((values >= band[0]) & (values <= band[1])).mean(axis=0), np.nan)
    return predicted.assign(
        grad_sq_hat=mean,
        grad_sq_hat_se=se,
        grad_sq_hat_sd=sd,
        ratio=ratio,
        ratio_low=ratio * np.exp(-middle * s),
        ratio_high=ratio * np.exp(middle * s),
        inside=np.where(zero, np.nan, inside),
        flag=flag,
    )


def _of_layer(layer: pd.Series[int], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return pd.Series(values).groupby(layer.to_numpy()).transform("max").to_numpy()


def _quantile(tensors: int) -> float:
    """What any of so many independent standard normal variables exceeds with probability `CHANCE`."""
    return float(norm.isf(CHANCE / (2 * max(1, tensors))))


@dataclass(frozen=True)
class Score:
    """How well predictions and measurements agree, over all tensors that are predicted and not exactly zero.

    Attributes:
        tensors: How many were compared.
        zeros: How many more are exactly zero, in both.
        unpredicted: How many more have no prediction.
        within: How many meet the tolerance or 3 standard errors.
        disagree: How many differ beyond tolerance and chance, wrong zeros included.
        median: Median |ratio - 1|.
        largest: Largest |ratio - 1|.
        error: Median standard error of a ratio, relative.
        detectable: How far off a tensor of median standard error has to be to disagree.
        coverage: Share of (seed, tensor) inside the band of 95 % of single models.
    """

    tensors: int
    zeros: int
    unpredicted: int
    within: int
    disagree: int
    median: float
    largest: float
    error: float
    detectable: float
    coverage: float


def score(table: pd.DataFrame) -> Score:
    """Summarise a comparison.

    Args:
        table: What `compare` gave.

    Returns:
        The summary; NaN where nothing was compared.
    """
    rows = table[~table.flag.isin([ZERO, UNPREDICTED])]
    away = (rows.ratio - 1).abs()
    width = np.log(rows.ratio_high / rows.ratio_low) / (2 * norm.isf((1 - CONFIDENCE) / 2))
    return Score(
        tensors=len(rows),
        zeros=int((table.flag == ZERO).sum()),
        unpredicted=int((table.flag == UNPREDICTED).sum()),
        within=int(rows.flag.isin([AGREES, WITHIN]).sum()),
        disagree=int((rows.flag == DISAGREES).sum()),
        median=float(away.median()),
        largest=float(away.max()),
        error=float(width.median()),
        detectable=float(np.expm1(_quantile(len(table[table.flag != UNPREDICTED])) * width.median())),
        coverage=float(rows.inside.mean()),
    )


def worst(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that call for a look, those that are furthest off in standard errors first.

    Args:
        table: What `compare` gave.

    Returns:
        The rows that disagree, or are unlikely.
    """
    rows = table[table.flag.isin([DISAGREES, UNLIKELY])]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(rows.ratio)) / np.log(rows.ratio_high / rows.ratio_low)
    return rows.iloc[np.argsort(-distance.fillna(np.inf).to_numpy(), kind="stable")]
