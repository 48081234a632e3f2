"""Validation loss and BLEU against step, by optimiser, learning rate, warm-up and placement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from figures.learning_rate_grid import length_words
from figures.outcomes import NO_WARMUP, RUN, TASK_TITLES, of_grid
from figures.style import OPTIMIZER_TITLES, PAGE, PLACEMENT_TITLES, canvas, series, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "training_curves"

Dash: TypeAlias = tuple[float, tuple[float, ...]]

COLUMNS = 4
DASHES: tuple[Dash, ...] = (  # shortest warm-up first
    (0, ()),
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1, 1, 1)),
)


def measure(trained: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Take the curves at the size of the grid; the learning-rate sweep without warm-up is left out.

    Args:
        trained: ``runs`` and ``curves`` of `empirical.train.tables`.

    Returns:
        ``curves``: run keys, status, last_step, step, valid_loss, bleu. Empty where no run has warm-up.
    """
    parts = []
    for _, runs in trained["runs"].groupby("task"):
        kept = of_grid(runs)
        for _, group in kept.groupby(["optimizer", "schedule"]):
            warmed = group[group["warmup"] != NO_WARMUP]["lr_max"]
            parts.append(group[group["lr_max"].isin(warmed)] if len(warmed) else group)
    if not parts:
        return {}
    runs = pd.concat(parts)[[*RUN, "status", "steps"]].rename(columns={"steps": "last_step"})
    curves = trained["curves"].dropna(subset=["valid_loss", "bleu"], how="all")
    table = runs.merge(curves[[*RUN, "step", "valid_loss", "bleu"]], on=RUN)
    return {"curves": table.sort_values([*RUN, "step"], ignore_index=True)}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw a pair of panels, loss over BLEU, for every task, optimiser and learning rate.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["curves"]
    groups = sorted(
        (group for _, group in table.groupby(["task", "optimizer", "schedule", "lr_max"])),
        key=lambda group: _order(group.iloc[0]),
    )
    columns = min(len(groups), COLUMNS)
    bands = -(-len(groups) // columns)
    figure, axes = canvas(2 * bands, columns, PAGE, 3.3 * bands + 0.7)
    dashes = dict(zip(sorted(table["warmup"].unique()), DASHES, strict=False))
    for place in range(bands * columns):
        band, column = divmod(place, columns)
        loss, bleu = axes[2 * band, column], axes[2 * band + 1, column]
        if place >= len(groups):
            loss.set_axis_off()
            bleu.set_axis_off()
            continue
        group = groups[place]
        translated = group["bleu"].notna().any()
        _panel(loss, group, "valid_loss", dashes)
        first = group.iloc[0]
        constant = "constant " if first["schedule"] == "constant" else ""
        loss.set_title(
            f"{TASK_TITLES[first['task']]}{OPTIMIZER_TITLES[first['optimizer']]}, "
            f"{constant}lr {first['lr_max']:g}",
            fontsize=7.5,
        )
        same_task = table[table["task"] == first["task"]]
        loss.set_ylim(*_limits(same_task["valid_loss"]))
        if translated:
            _panel(bleu, group, "bleu", dashes)
            bleu.set_ylim(*_limits(table["bleu"]))
        else:
            bleu.set_axis_off()
        (bleu if translated else loss).set_xlabel("step")
        if column == 0 or not translated:
            loss.set_ylabel("validation loss")
        if column == 0:
            bleu.set_ylabel("BLEU")
    _legend(figure, dashes)
    seeds = table.groupby(RUN[:-1])["seed"].nunique()
    figure.suptitle(
        f"$d={table['width'].iloc[0]}$; thick: mean, as far as every run goes; thin: each of "
        f"{span(seeds)} seeds",
        fontsize=8,
    )
    return figure


def _order(first: pd.Series) -> tuple[object, ...]:
    tasks, optimizers = list(TASK_TITLES), ("adam", "sgd", "radam")
    constant = first["schedule"] == "constant"
    return tasks.index(first["task"]), optimizers.index(first["optimizer"]), constant, first["lr_max"]


def _limits(values: pd.Series) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _panel(ax: Axes, group: pd.DataFrame, value: str, dashes: Mapping[int, Dash]) -> None:
    for which, placement in enumerate(PLACEMENT_TITLES):
        colour = series(which)["color"]
        rows = group[group["placement"] == placement]
        for length, dash in dashes.items():
            cell = rows[rows["warmup"] == length]
            wide = cell.pivot(index="step", columns="seed", values=value).dropna(how="all")
            ax.plot(wide.index, wide, ".", color=colour, ls=dash, linewidth=0.4, markersize=1.5, alpha=0.5)
            mean = wide[wide.notna().all(axis=1)].mean(axis=1)
            ax.plot(mean.index, mean, ".", color=colour, linestyle=dash, linewidth=1.3, markersize=3)
            for _, run in cell[cell["status"] == "diverged"].groupby("seed"):
                finite = run[np.isfinite(run[value])]
                if len(finite):
                    end = run["last_step"].iloc[0], finite[value].iloc[-1]
                    ax.plot(*end, "x", color=colour, markersize=5, markeredgewidth=1.2)
    ax.set_xlim(0, 1.03 * group["step"].max())


def _legend(figure: Figure, dashes: Mapping[int, Dash]) -> None:
    handles = [
        Line2D([], [], color=series(which)["color"], label=title)
        for which, title in enumerate(PLACEMENT_TITLES.values())
    ]
    handles += [
        Line2D([], [], color="0.4", linestyle=dash, label=f"warm-up: {length_words(length)}")
        for length, dash in dashes.items()
    ]
    handles.append(Line2D([], [], color="0.4", marker="x", ls="none", label="diverged"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
