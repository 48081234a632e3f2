"""Two samples of every parameter: are their means and their laws one?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks.weight_free_law.dense import Squares
from meanfield.errors import InputError

LEVEL = 0.01
"""Chance that any test of a family rejects one of two samples of equal law."""
ROUNDING = 1e-9
"""A gradient is zero if no square exceeds this share of the largest mean: a key's bias, but for rounding."""
COLUMNS = ["layer", "module", "parameter", "ratio", "z", "p_mean", "p_ks"]


def compare(ours: Squares, theirs: Squares) -> pd.DataFrame:
    """Compare two samples of every parameter.

        z = (mean a - mean b) / sqrt(se_a^2 + se_b^2)

    Args:
        ours: Parameter -> one number per seed.
        theirs: The same of the other sample.

    Returns:
        One row per parameter: ratio of means, z, its two-sided p under the normal law, and the p of
        Kolmogorov and Smirnov's test; NaN where the gradient is zero in both samples. A gradient that is zero
        in one alone has p = 0.

    Raises:
        InputError: If the samples have other parameters.

    Example:
        >>> from meanfield.ops import ParameterKey
        >>> a = {ParameterKey(1, "norm1", "bias"): np.array([1.0, 2.0, 3.0])}
        >>> compare(a, a)[["ratio", "z", "p_ks"]].values.tolist()
        [[1.0, 0.0, 1.0]]
    """
    if set(ours) != set(theirs):
        raise InputError(
            f"{min(set(ours) ^ set(theirs))} is in one of the samples alone: give samples of one architecture"
        )
    largest = max(values.mean() for values in theirs.values())
    rows = []
    for key, b in theirs.items():
        a = ours[key]
        zero = [values.max() < ROUNDING * largest for values in (a, b)]
        if all(zero):
            rows.append((*key, *[math.nan] * 4))
        elif any(zero):
            rows.append((*key, float(a.mean() / b.mean()) if b.mean() else math.inf, math.inf, 0.0, 0.0))
        else:
            z = float((a.mean() - b.mean()) / math.hypot(stats.sem(a), stats.sem(b)))
            p_ks = float(stats.ks_2samp(a, b).pvalue)
            rows.append((*key, float(a.mean() / b.mean()), z, float(2 * stats.norm.sf(abs(z))), p_ks))
    return pd.DataFrame(rows, columns=COLUMNS)


def holm(p: NDArray[np.float64] | Sequence[float], level: float) -> NDArray[np.bool_]:
    """Reject by Holm's method: the chance that any rejection is false is at most the level.

    Args:
        p: One p per test, whatever hangs together among them; NaN for none.
        level: That chance.

    Returns:
        Which are rejected: p_(1) <= level/m, p_(2) <= level/(m - 1), ..., up to the first that is above.

    Source:
        holm1979.

    Example:
        >>> holm([0.004, 0.04, 0.005, float("nan")], 0.015).tolist()
        [True, False, True, False]
    """
    p = np.asarray(p, dtype=np.float64)
    tests = int((~np.isnan(p)).sum())
    order = np.argsort(np.where(np.isnan(p), np.inf, p))[:tests]
    passed = p[order] <= level / np.arange(tests, 0, -1)
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order[: tests if passed.all() else int(np.argmin(passed))]] = True
    return rejected


def judged(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Add which means and which laws are rejected, all tests of the table being one family.

    Args:
        table: What `compare` returns, of one case or of many.
        level: Chance of any false rejection.

    Returns:
        The table with ``mean_rejected`` and ``law_rejected``.
    """
    both: Any = holm(table[["p_mean", "p_ks"]].to_numpy().T.reshape(-1), level)
    return table.assign(mean_rejected=both[: len(table)], law_rejected=both[len(table) :])
