"""Cells of training runs that have what a criterion needs, or the reason why the claim is not measured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from figures.criteria.finding import sample
from figures.outcomes import CELL, NO_WARMUP, Pair, of_grid, pairs
from figures.style import PLACEMENT_TITLES

SEEDS = 3  # in every cell


class NotEnoughError(Exception):
    """Why the tables do not decide; the message goes into the verdict."""


def enough(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    """Check that a cell has three seeds and that every run has a finite loss.

    Args:
        runs: The runs of the cell.
        what: The cell in words.

    Returns:
        The runs.

    Raises:
        NotEnoughError: If not.
    """
    if runs.empty:
        raise NotEnoughError(f"{what} was not run")
    if len(runs) < SEEDS:
        raise NotEnoughError(f"{what}: {len(runs)} of the {SEEDS} seeds that a cell needs")
    bad = int((~np.isfinite(runs["final_loss"])).sum())
    if bad:
        raise NotEnoughError(f"{what}: {bad} of {len(runs)} losses are not finite numbers")
    return runs


def compared(runs: pd.DataFrame, placement: str, optimizer: str) -> dict[float, Pair]:
    """Learning rates of a placement and optimiser that were run with warm-up, all cells with enough runs.

    Args:
        runs: As from `figures.outcomes.outcomes`.
        placement: ``"post_ln"`` or ``"pre_ln"``.
        optimizer: Its name.

    Returns:
        Learning rate to runs, ascending.

    Raises:
        NotEnoughError: If a cell lacks runs.
    """
    found = {
        pair.lr_max: pair for pair in pairs(runs, "translation", placement) if pair.optimizer == optimizer
    }
    what = f"{PLACEMENT_TITLES[placement]} by {optimizer}"
    for lr_max, pair in found.items():
        enough(pair.without, f"{what} at lr {lr_max:g} without warm-up")
        for length, part in pair.warmups.items():
            enough(part, f"{what} at lr {lr_max:g} with warm-up of {length} steps")
    return found


def by_adam(runs: pd.DataFrame, placement: str) -> dict[float, Pair]:
    """Learning rates of a placement that were run with warm-up by Adam, on which every claim rests.

    Args:
        runs: As from `figures.outcomes.outcomes`.
        placement: ``"post_ln"`` or ``"pre_ln"``.

    Returns:
        Learning rate to runs, ascending; never empty.

    Raises:
        NotEnoughError: If there is none, or a cell lacks runs.
    """
    found = compared(runs, placement, "adam")
    if not found:
        raise NotEnoughError(f"{PLACEMENT_TITLES[placement]} by adam with warm-up was not run")
    return found


def without_warmup(runs: pd.DataFrame, placement: str, optimizer: str, lr_max: float) -> pd.DataFrame:
    """Runs of one learning rate without warm-up at the size of the grid: enough, or none at all.

    Args:
        runs: As from `figures.outcomes.outcomes`.
        placement: ``"post_ln"`` or ``"pre_ln"``.
        optimizer: Its name.
        lr_max: The learning rate.

    Returns:
        The runs.

    Raises:
        NotEnoughError: If there are some, and too few.
    """
    rows = of_grid(runs[runs["task"] == "translation"])
    rows = rows[(rows["placement"] == placement) & (rows["optimizer"] == optimizer)]
    rows = rows[(rows["lr_max"] == lr_max) & (rows["warmup"] == NO_WARMUP)]
    if rows.empty:
        return rows
    return enough(rows, f"{PLACEMENT_TITLES[placement]} by {optimizer} at lr {lr_max:g} without warm-up")


def sizes(looked_at: Iterable[pd.DataFrame]) -> str:
    """Width, depth and the least number of seeds of some cells, in words.

    Args:
        looked_at: Runs of each cell.

    Returns:
        The words.
    """
    runs = pd.concat(looked_at).drop_duplicates([*CELL, "seed"])
    return sample(runs.groupby(CELL).size().rename("seeds").reset_index(), "width", "depth")
