"""What a criterion returns, and when a row of a comparison speaks against theory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import pandas as pd
from scipy import stats

from figures.compare import STANDARD_ERRORS, TOLERANCE
from figures.style import span

Tables: TypeAlias = Mapping[str, pd.DataFrame]


class Finding(NamedTuple):
    """What the measurements say about one claim.

    Args:
        verdict: ``holds``, ``holds_loosely``, ``holds_under``, ``fails`` or ``not_measured``.
        statistic: What ``value`` is, and what goes with it.
        value: The deciding number, None where nothing was measured.
        interval: Its 95 % interval, None where it has none.
        sample: Sizes and number of seeds.
    """

    verdict: str
    statistic: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    sample: str = ""


def family_limit(rows: int, seeds: int) -> float:
    """The |z| that one family of rows exceeds by chance once in a hundred times, at least 3.

    Args:
        rows: Number of comparisons.
        seeds: Seeds behind each.

    Returns:
        The limit, from Student's law by Bonferroni: valid for rows that depend on each other.

    Example:
        >>> round(family_limit(1, 10_000), 2), round(family_limit(546, 10_000), 2)
        (3.0, 4.29)
    """
    return max(STANDARD_ERRORS, float(stats.t.isf(0.005 / rows, seeds - 1)))


def disagreements(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a comparison that chance does not explain.

    Args:
        table: What `figures.compare.compare` returned.

    Returns:
        The rows that are more than 2 % off with |z| beyond `family_limit`.
    """
    off = (table["ratio"] - 1).abs() > TOLERANCE
    return table[off & (table["z"].abs() > family_limit(len(table), table["seeds"].min()))]


def sample(rows: pd.DataFrame, *names: str) -> str:
    """Sizes and seeds of some rows, in words.

    Args:
        rows: Rows with the columns named and ``seeds``.
        names: Of ``width``, ``depth``, ``tokens``.

    Returns:
        The words.
    """
    sizes = []
    for name in names:
        values = [str(value) for value in sorted(rows[name].unique())]
        text = " and ".join(values) if len(values) < 3 else f"{values[0]} to {values[-1]}"
        sizes.append(f"{ {'width': 'd', 'depth': 'L', 'tokens': 'n'}[name] } = {text}")
    return ", ".join([*sizes, f"{span(rows['seeds'])} seeds"])
