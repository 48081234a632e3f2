"""Final validation loss over learning rate and warm-up by placement, and sweeps without warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import NullLocator

from figures.outcomes import NO_WARMUP, cells, of_grid, outcomes
from figures.style import OPTIMIZER_TITLES, PAGE, PLACEMENT_TITLES, canvas, number, plain_log, points, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "learning_rate_grid"

COLOURS = "cividis"
DARK = 0.5  # below this luminance words are white


def measure(trained: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tell what every translation run came to.

    Args:
        trained: ``runs`` and ``curves`` of `empirical.train.tables`.

    Returns:
        ``runs``: as `figures.outcomes.outcomes`; ``cells``: as `figures.outcomes.cells`. Empty where no run
        has warm-up.
    """
    runs = outcomes(trained)
    runs = runs[runs["task"] == "translation"].reset_index(drop=True)
    return {} if of_grid(runs).empty else {"runs": runs, "cells": cells(runs)}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw a heat map for each optimiser and placement, all in one scale, and the sweeps below.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["cells"]
    decaying = table[table["schedule"] != "constant"]
    grids = _grids(of_grid(decaying))
    losses = pd.concat(grids.values())["final_loss"]
    limits = Normalize(losses.min(), losses.max())
    scale = ScalarMappable(limits, COLOURS)
    sweeps = _sweeps(decaying)
    heights = [0.5 * grid["warmup"].nunique() + 0.1 for grid in grids.values()]
    lines = -(-len(sweeps) // 2)
    figure, axes = canvas(
        len(grids) + lines,
        2,
        PAGE,
        sum(heights) + 0.5 * len(grids) + 2.1 * lines + 0.4,
        gridspec_kw={"height_ratios": [*heights, *[1.6] * lines]},
    )
    for row, (optimizer, grid) in enumerate(grids.items()):
        for column, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
            ax = axes[row, column]
            _heat_map(ax, grid, grid[grid["placement"] == placement], limits)
            ax.set_title(f"{title}, {OPTIMIZER_TITLES[optimizer]}")
            if column == 0:
                ax.set_ylabel("warm-up")
    for ax in axes[len(grids) - 1]:
        ax.set_xlabel(r"$\mathrm{lr}_\mathrm{max}$")
    figure.colorbar(scale, ax=axes[: len(grids)], label="final loss (nats per token)", aspect=30)
    below = axes[len(grids) :].ravel()
    for ax, (title, size, rows) in zip(below, sweeps, strict=False):
        _sweep(ax, rows, size)
        ax.set_title(title)
        ax.sharey(below[0])
    for ax in below[len(sweeps) :]:
        ax.set_axis_off()
    for ax in axes[len(grids) :, 0]:
        ax.set_ylabel("final validation loss")
    if sweeps:
        below[0].legend()
    first = of_grid(decaying).iloc[0]
    figure.suptitle(
        f"$d={first['width']}$, encoder and decoder of $L={first['depth']}$ layers; means and 95 % intervals "
        f"(Student) over {span(table['seeds'])} seeds\na diverged run counts with its loss before training",
        fontsize=8,
    )
    return figure


def _sweeps(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Title, size that varies and cells of Adam's sweeps: without warm-up, with the longest, over depth."""
    adam = table[table["optimizer"] == "adam"]
    grid = of_grid(adam)
    longest = grid["warmup"].max()
    sweeps = [
        (f"Adam, warm-up: {length_words(length)}", "lr_max", grid[grid["warmup"] == length])
        for length in (NO_WARMUP, longest)
        if grid["lr_max"].nunique() > 1
    ]
    alone = adam[(adam["warmup"] == NO_WARMUP) & (adam["width"] == grid["width"].iloc[0])]
    by_rate = alone.groupby("lr_max")["depth"].nunique()
    if by_rate.max() > 1:
        rate = by_rate[by_rate == by_rate.max()].index[-1]
        sweeps.append((f"Adam at {rate:g}, warm-up: none", "depth", alone[alone["lr_max"] == rate]))
    return sweeps


def _grids(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Cells of each optimiser: the learning rates that were run with warm-up, or all where none was."""
    grids = {}
    for optimizer in OPTIMIZER_TITLES:
        rows = table[table["optimizer"] == optimizer]
        warmed = rows[rows["warmup"] != NO_WARMUP]["lr_max"]
        if len(rows):
            grids[optimizer] = rows[rows["lr_max"].isin(warmed)] if len(warmed) else rows
    return grids


def _heat_map(ax: Axes, grid: pd.DataFrame, rows: pd.DataFrame, limits: Normalize) -> None:
    rates, lengths = (sorted(grid[key].unique()) for key in ("lr_max", "warmup"))
    wide = rows.pivot(index="warmup", columns="lr_max", values="final_loss").reindex(
        index=lengths, columns=rates
    )
    ax.imshow(wide, cmap=COLOURS, norm=limits, aspect="auto")
    for row in rows.to_dict("records"):
        colour = "white" if _luminance(limits(row["final_loss"])) < DARK else "black"
        place = rates.index(row["lr_max"]), lengths.index(row["warmup"])
        ax.text(*place, _words(row), ha="center", va="center", color=colour, fontsize=7, linespacing=1.1)
    for column, row in np.argwhere(wide.isna().to_numpy().T):
        ax.text(column, row, "not run", ha="center", va="center", color="0.5", fontsize=7)
    ax.set_xticks(range(len(rates)), labels=[f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(lengths)), labels=[length_words(length) for length in lengths])
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)


def _luminance(share: float) -> float:
    red, green, blue, _ = colormaps[COLOURS](share)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _words(row: Mapping[Any, Any]) -> str:
    ends = number(row["final_loss_low"]), number(row["final_loss_high"])
    interval = "" if np.isnan(row["final_loss_low"]) else f"\n[{ends[0]}, {ends[1]}]"
    diverged = f"\n{row['diverged']} of {row['seeds']} diverged" if row["diverged"] else ""
    return f"{number(row['final_loss'])}{interval}{diverged}"


def length_words(warmup: int) -> str:
    """Write the length of a warm-up.

    Args:
        warmup: Its steps.

    Returns:
        The text.

    Example:
        >>> length_words(1), length_words(400)
        ('none', '400 steps')
    """
    return "none" if warmup == NO_WARMUP else f"{warmup} steps"


def _sweep(ax: Axes, rows: pd.DataFrame, size: str) -> None:
    for which, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        line = rows[rows["placement"] == placement].sort_values(size)
        low, high = (line[f"final_loss_{end}"].fillna(line["final_loss"]) for end in ("low", "high"))
        x = line[size] * 1.02 ** (2 * which - 1)  # so that equal points stay visible
        points(ax, x, low, line["final_loss"], high, which, title)
    plain_log(ax, "x")
    sizes = sorted(rows[size].unique())
    ax.set_xticks(sizes, labels=[f"{x:g}" for x in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel({"lr_max": r"$\mathrm{lr}_\mathrm{max}$", "depth": "$L$"}[size])
