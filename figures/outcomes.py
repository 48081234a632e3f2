"""What came of each training run, and which runs stand beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from figures.contrasts import contrast
from meanfield.errors import InputError

CELL = ["task", "placement", "optimizer", "schedule", "lr_max", "warmup", "width", "depth"]
RUN = [*CELL, "seed"]
NO_WARMUP = 1  # warm-up of one step
TASK_TITLES = {"translation": "", "masked": "masked: ", "causal": "causal: "}


def outcomes(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What every run came to.

    A run that diverged is worth what the model was worth before training: its loss is that of step 0 and its
    BLEU 0. No other number is made up for it, and `cells` counts such runs beside the mean.

    Args:
        tables: ``runs`` and ``curves`` of `empirical.train.tables`.

    Returns:
        Run keys, status, steps, start_loss (validation, step 0), unigram_loss (of who knows token frequencies
        alone), final_loss (last step), gained = start_loss - final_loss, learnt = unigram_loss - final_loss,
        bleu (NaN for a task without).

    Raises:
        InputError: If a run has no validation loss of step 0.
    """
    start = tables["curves"].query("step == 0").set_index(RUN)["valid_loss"].rename("start_loss")
    runs = tables["runs"].join(start, on=RUN)
    if runs["start_loss"].isna().any():
        first = " ".join(str(value) for value in runs[runs["start_loss"].isna()][RUN].iloc[0])
        raise InputError(f"run {first} has no validation loss of step 0: train it again")
    diverged = runs["status"] == "diverged"
    translated = runs.groupby("task")["bleu"].transform("count") > 0
    runs = runs.assign(
        final_loss=np.where(diverged, runs["start_loss"], runs["valid_loss"]),
        bleu=np.where(diverged & translated, 0.0, runs["bleu"]),
    )
    runs["gained"] = runs["start_loss"] - runs["final_loss"]
    runs["learnt"] = runs["unigram_loss"] - runs["final_loss"]
    losses = ["start_loss", "unigram_loss", "final_loss", "gained", "learnt"]
    return runs[[*RUN, "status", "steps", *losses, "bleu"]].sort_values(RUN, ignore_index=True)


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean final loss of every cell, with Student's 95 % interval over its seeds.

    Args:
        runs: What `outcomes` returned.

    Returns:
        Cell keys, final_loss, final_loss_low, final_loss_high (NaN for a single seed), bleu, seeds, diverged.
    """
    rows = []
    for key, group in runs.groupby(CELL):
        losses = group["final_loss"].to_numpy()
        mean, low, high = (
            contrast([losses])
            if len(losses) > 1 and np.isfinite(losses).all()
            else (losses.mean(), np.nan, np.nan)
        )
        rows.append({
            **dict(zip(CELL, key, strict=True)),
            "final_loss": mean,
            "final_loss_low": low,
            "final_loss_high": high,
            "bleu": group["bleu"].mean(),
            "seeds": len(group),
            "diverged": int((group["status"] == "diverged").sum()),
        })
    return pd.DataFrame(rows)


class Pair(NamedTuple):
    """The runs of one placement, optimiser and learning rate, without warm-up and with each.

    Args:
        optimizer: Its name.
        lr_max: The largest learning rate.
        without: Runs without warm-up; empty where there are none.
        warmups: Steps of the warm-up to its runs; never empty.
    """

    optimizer: str
    lr_max: float
    without: pd.DataFrame
    warmups: dict[int, pd.DataFrame]

    @property
    def best(self) -> pd.DataFrame:
        """The runs of the warm-up whose mean final loss is lowest."""
        return min(self.warmups.values(), key=lambda runs: float(runs["final_loss"].mean()))


def pairs(runs: pd.DataFrame, task: str, placement: str) -> list[Pair]:
    """Every learning rate of a placement that was run with warm-up, at the size of the grid.

    Args:
        runs: What `outcomes` returned.
        task: Of which task.
        placement: ``"post_ln"`` or ``"pre_ln"``.

    Returns:
        The pairs, by optimiser and ascending learning rate.
    """
    rows = of_grid(runs[runs["task"] == task])
    rows = rows[rows["placement"] == placement]
    found = []
    for _, group in rows.groupby(["optimizer", "schedule", "lr_max"]):
        first = group.iloc[0]
        lengths = sorted(set(group["warmup"]) - {NO_WARMUP})
        if lengths:
            warmups = {length: group[group["warmup"] == length] for length in lengths}
            without = group[group["warmup"] == NO_WARMUP]
            found.append(Pair(first["optimizer"], first["lr_max"], without, warmups))
    return found


def of_grid(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of the size, width and depth, at which most runs with warm-up are: others belong to sweeps.

    Args:
        runs: Runs of one task.

    Returns:
        Those of that size; none where no run has warm-up.
    """
    warmed = runs[runs["warmup"] != NO_WARMUP]
    if warmed.empty:
        return warmed
    size = warmed[["width", "depth"]].value_counts().index[0]
    return runs[(runs["width"] == size[0]) & (runs["depth"] == size[1])]
