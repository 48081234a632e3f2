"""Two cells that race to equal losses: who runs, when a curve comes down, and the ratio of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from figures.contrasts import Estimate, ratio
from figures.outcomes import NO_WARMUP, TASK_TITLES, Pair, of_grid, pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Race(NamedTuple):
    """Two cells whose steps to equal losses are compared.

    Args:
        name: ``"pre_ln"`` (Pre-LN without warm-up) or ``"small_lr"`` (Post-LN, small and constant rate).
        first: Its runs.
        second: Runs of Post-LN with its best warm-up.
    """

    name: str
    first: pd.DataFrame
    second: pd.DataFrame


def races(runs: pd.DataFrame) -> list[Race]:
    """What is compared: Pre-LN without warm-up at each learning rate of Adam, and the small rate.

    Args:
        runs: What `figures.outcomes.outcomes` returned.

    Returns:
        The races; those of which a side has no runs are left out.
    """
    found = []
    for task in sorted(runs["task"].unique(), key=list(TASK_TITLES).index):
        post = {pair.lr_max: pair for pair in pairs(runs, task, "post_ln") if pair.optimizer == "adam"}
        pre = {pair.lr_max: pair for pair in pairs(runs, task, "pre_ln") if pair.optimizer == "adam"}
        found += [
            Race("pre_ln", pre[lr].without, post[lr].best)
            for lr in post
            if lr in pre and len(pre[lr].without)
        ]
        small = small_rate(runs, task)
        if post and len(small):
            found.append(Race("small_lr", small, best(list(post.values())).best))
    return found


def best(candidates: list[Pair]) -> Pair:
    """The learning rate whose best warm-up has the lowest mean final loss.

    Args:
        candidates: Pairs of one placement.

    Returns:
        One of them.
    """
    return min(candidates, key=lambda pair: float(pair.best["final_loss"].mean()))


def small_rate(runs: pd.DataFrame, task: str) -> pd.DataFrame:
    """Runs of Post-LN by Adam at a constant learning rate without warm-up.

    Args:
        runs: What `figures.outcomes.outcomes` returned.
        task: Of which task.

    Returns:
        The runs of the smallest such rate, of the size of the grid; empty where there are none.
    """
    rows = of_grid(runs[runs["task"] == task])
    rows = rows[(rows["placement"] == "post_ln") & (rows["optimizer"] == "adam")]
    rows = rows[(rows["schedule"] == "constant") & (rows["warmup"] == NO_WARMUP)]
    return rows[rows["lr_max"] == rows["lr_max"].min()]


def crossing(steps: ArrayLike, losses: ArrayLike, level: float) -> float:
    """The step at which a curve first comes down to a level, linear between evaluations.

    Args:
        steps: Ascending.
        losses: One for each step.
        level: The level.

    Returns:
        The step; NaN where the level is never reached.

    Example:
        >>> crossing([0, 10, 20], [5.0, 4.0, 2.0], 3.0), crossing([0, 10], [5.0, 4.0], 3.0)
        (15.0, nan)
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    below = np.flatnonzero(y <= level)
    if not len(below):
        return float("nan")
    k = int(below[0])
    if k == 0:
        return float(x[0])
    return float(x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - level) / (y[k - 1] - y[k]))


def speed(first: pd.DataFrame, second: pd.DataFrame, comparisons: int = 1) -> tuple[Estimate, str]:
    """Steps that one side of a race needs to a level, over those of the other.

    A run that never comes down to the level stands in with its last step, which it needs more than: the
    ratio is then at least what is given (a run of the first side) or at most (of the second), and the
    interval is that of the stand-ins.

    Args:
        first: Rows of ``steps`` of one level, those of side ``first``.
        second: Those of side ``second``.
        comparisons: As for `figures.contrasts.contrast`.

    Returns:
        The ratio of geometric means with its interval (Welch, on logarithms), and what it is: ``"exact"``,
        ``"at least"``, ``"at most"``, or ``"unknown"`` where runs of both sides never come down.
    """
    never = [bool(side["reached"].isna().any()) for side in (first, second)]
    above, below = (side["reached"].fillna(side["last_step"]) for side in (first, second))
    bound = {(False, False): "exact", (True, False): "at least", (False, True): "at most"}
    return ratio(above, below, comparisons), bound.get((never[0], never[1]), "unknown")
