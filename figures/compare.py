"""Theory joined with measurement: ratios, their intervals, and whether the two agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from meanfield.errors import InputError
from meanfield.predict import KEYS as COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS = list(COLUMNS)
CONFIGURATION = [key for key in KEYS if key not in ("layer", "module", "parameter")]

TOLERANCE = 0.02
STANDARD_ERRORS = 3.0
RESAMPLES = 2000
CONFIDENCE = 0.95


def resampled_means(values: NDArray[np.float64], resamples: int = RESAMPLES) -> NDArray[np.float64]:
    r"""Bootstrap means over seeds, the same resampled seeds for every column.

        m_b = (1/S) \sum_s k_{bs} v_s,    k_b ~ Multinomial(S, 1/S)

    Args:
        values: One row per seed; shape (seeds, columns).
        resamples: Number of resampled data sets.

    Returns:
        Means, shape (resamples, columns). Equal arguments give equal numbers: the generator's seed is fixed.

    Assumes:
        Seeds are independent; columns may depend on each other in any way.

    Source:
        efron1979.

    Example:
        >>> resampled_means(np.array([[2.0], [2.0]]), resamples=3).ravel().tolist()
        [2.0, 2.0, 2.0]
    """
    seeds = len(values)
    counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    return counts @ values / seeds


def interval(resampled: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of resampled statistics, at 95 %.

    Args:
        resampled: One row per resampled data set.

    Returns:
        The lower and the upper ends, without the first axis.

    Example:
        >>> low, high = interval(np.linspace(0.0, 1.0, 2001))
        >>> round(float(low), 3), round(float(high), 3)
        (0.025, 0.975)
    """
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def summarise(samples: pd.DataFrame, value: str, by: list[str] = KEYS) -> pd.DataFrame:
    """Mean over seeds of a measured column, with its standard error and 95 % bootstrap interval.

    Args:
        samples: One row per ``by`` columns and ``seed``.
        value: Name of the measured column.
        by: Columns that name a row of the result.

    Returns:
        The ``by`` columns, ``value``, ``value_se``, ``value_low``, ``value_high``, ``seeds``. Rows of one
        configuration are resampled jointly.

    Raises:
        InputError: If a (row, seed) appears twice, a row lacks a seed that its configuration has, or there
            are fewer than two seeds.
    """
    parts = []
    configuration = [key for key in CONFIGURATION if key in by]
    for _, group in samples.groupby(configuration, sort=False, dropna=False):
        if group.duplicated([*by, "seed"]).any():
            raise InputError(f"{value}: a row appears twice for one seed: give every (row, seed) once")
        labels = group[by].drop_duplicates(ignore_index=True)
        wide = group.pivot(index="seed", columns=by, values=value).reindex(
            columns=pd.MultiIndex.from_frame(labels)
        )
        values = wide.to_numpy(dtype=np.float64)
        if len(values) < 2:
            raise InputError(f"{value}: {len(values)} seed gives no interval: measure at least 2 seeds")
        if np.isnan(values).any():
            missing = _names(labels[np.isnan(values).any(axis=0)])
            raise InputError(f"{value}: seeds are missing or not numbers in {missing}: measure them again")
        low, high = interval(resampled_means(values))
        parts.append(
            labels.assign(**{
                value: values.mean(axis=0),
                f"{value}_se": values.std(axis=0, ddof=1) / np.sqrt(len(values)),
                f"{value}_low": low,
                f"{value}_high": high,
                "seeds": len(values),
            })
        )
    return pd.concat(parts, ignore_index=True)


def compare(theory: pd.DataFrame, samples: pd.DataFrame, value: str = "grad_sq") -> pd.DataFrame:
    r"""Ratio of the measured mean to the theory, row by row.

        ratio = \hat{v} / v,    z = (\hat{v} - v) / se(\hat{v}),
        agrees  <=>  |ratio - 1| <= 2 %  or  |z| <= 3

    Args:
        theory: One row per key columns, with the column ``value``.
        samples: One row per key columns and seed, with the column ``value`` + ``_hat``. Rows in which it is
            empty (activations beside parameters) are left out; so are those of the theory.
        value: The quantity to compare.

    Returns:
        Key columns, theory, measured mean with ``_se``, ``seeds``, ``ratio``, ``ratio_low``, ``ratio_high``
        (95 %, bootstrap over seeds), ``z``, ``agrees``, and ``agreed_by``: "tolerance", "standard errors" (it
        takes those), or "neither".

    Raises:
        InputError: If a row of one table has no partner in the other, or a theory row appears twice.

    Assumes:
        Seeds are independent. With S seeds of relative spread s, a theory that is wrong by the factor 1 + e
        is told apart when e > 2 % and e sqrt(S) / s > 3 by a margin.

    Example:
        >>> keys = dict.fromkeys(KEYS, 1)
        >>> theory = pd.DataFrame([keys | {"grad_sq": 2.0}])
        >>> samples = pd.DataFrame([keys | {"seed": s, "grad_sq_hat": v} for s, v in enumerate([3.0, 5.0])])
        >>> compare(theory, samples)[["ratio", "z", "agreed_by"]].values.tolist()
        [[2.0, 2.0, 'standard errors']]
    """
    hat = f"{value}_hat"
    theory = theory[[*KEYS, value]].dropna(subset=[value])
    if theory.duplicated(KEYS).any():
        raise InputError(f"theory has {_names(theory[theory.duplicated(KEYS)])} twice: give every row once")
    measured = summarise(samples.dropna(subset=[hat]), hat)
    joined = theory.merge(measured, on=KEYS, how="outer", indicator=True, sort=False)
    for side, other in (("left_only", "measurement"), ("right_only", "theory")):
        lonely = joined[joined["_merge"] == side]
        if len(lonely):
            raise InputError(f"{len(lonely)} rows have no {other}: {_names(lonely)}; compare equal settings")
    table = theory.merge(measured, on=KEYS, validate="one_to_one")  # keeps the order of the theory
    expected, mean, se = table[value], table[hat], table[f"{hat}_se"]
    gap = mean - expected
    # A quantity that a norm fixes has no spread: its z is 0 when it is met exactly and infinite otherwise.
    z = np.where(gap == 0, 0.0, gap / se.where(se > 0, np.nan).fillna(np.finfo(float).tiny))
    near = (gap.abs() <= TOLERANCE * expected.abs()).to_numpy()
    within = np.abs(z) <= STANDARD_ERRORS
    table["ratio"] = mean / expected
    table["ratio_low"] = table.pop(f"{hat}_low") / expected
    table["ratio_high"] = table.pop(f"{hat}_high") / expected
    table["z"] = z
    table["agrees"] = near | within
    table["agreed_by"] = np.select([near, within], ["tolerance", "standard errors"], "neither")
    return table


def _names(rows: pd.DataFrame, limit: int = 3) -> str:
    columns = [c for c in ("arch", "width", "depth", "layer", "module", "parameter") if c in rows]
    names = [
        " ".join(f"{c}={v}" for c, v in row.items()) for row in rows[columns].head(limit).to_dict("records")
    ]
    more = len(rows) - limit
    return "; ".join(names) + (f" and {more} more" if more > 0 else "")
