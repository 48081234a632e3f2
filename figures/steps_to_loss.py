"""Steps that one training set-up needs to a given validation loss, against another: the paper's speed-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from figures.contrasts import geometric_mean
from figures.outcomes import CELL, RUN, TASK_TITLES, outcomes
from figures.races import Race, crossing, races, speed
from figures.style import PAGE, canvas, plain_log, points, series, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.core.groupby import DataFrameGroupBy

NAME = "steps_to_loss"

COLUMNS = 3
RACE_TITLES = {
    "pre_ln": "lr {lr_max:g}, Post-LN's warm-up {second_warmup}",
    "small_lr": "lr {lr_max:g} against {second_lr_max:g}, warm-up {second_warmup}",
}
SIDES = {  # colour and words of both sides of a race
    "pre_ln": {"first": (1, "Pre-LN without warm-up"), "second": (0, "Post-LN with warm-up")},
    "small_lr": {"first": (2, "Post-LN, small constant rate"), "second": (0, "Post-LN with warm-up")},
}
BOUNDS = {
    "exact": (3, "ratio"),
    "at least": (5, "ratio is at least this"),
    "at most": (4, "ratio is at most this"),
}
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)  # of the loss gained, where steps are compared


def measure(trained: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Compare steps to equal validation losses.

    A level is the loss at which a share of the gain is won, where the gain is the smaller of the mean gains
    of both sides, so that both come down to it in the mean. A level that some run is at before training is
    left out. Nothing is extrapolated.

    Args:
        trained: ``runs`` and ``curves`` of `empirical.train.tables`.

    Returns:
        ``runs``: as `figures.outcomes.outcomes`; ``steps``: race, race_lr_max, share, level, side, run keys,
        reached (the step, NaN if never), last_step; ``ratios``: race, keys of the first side, the second's
        learning rate and warm-up, share, level, ratio and its interval and bound as from `speed`, and how
        many runs never come down. Empty where nothing can be compared.
    """
    runs = outcomes(trained)
    curves = trained["curves"][np.isfinite(trained["curves"]["valid_loss"])].sort_values("step").groupby(RUN)
    steps, ratios = [], []
    for race in races(runs):
        sides = {"first": race.first, "second": race.second}
        starts = pd.concat(sides.values())["start_loss"]
        gain = min(side["gained"].mean() for side in sides.values())
        if min(map(len, sides.values())) < 2:
            continue
        levels = {share: starts.mean() - share * gain for share in SHARES}
        # A level that some run is at before training is none to come down to.
        levels = {share: level for share, level in levels.items() if level < starts.min()}
        names = {"race": race.name, "race_lr_max": race.first["lr_max"].iloc[0]}
        reached = {side: _reached(rows, curves, levels) for side, rows in sides.items()}
        steps += [rows.assign(side=side, **names) for side, rows in reached.items()]
        for share, level in levels.items():
            first, second = (rows[rows["share"] == share] for rows in reached.values())
            ratios.append(_ratio_row(race, first, second) | names | {"share": share, "level": level})
    if not ratios:
        return {}
    return {"runs": runs, "steps": pd.concat(steps, ignore_index=True), "ratios": pd.DataFrame(ratios)}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw steps against loss for each race, and their ratio below.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    steps, ratios = tables["steps"], tables["ratios"]
    groups = ratios.drop_duplicates(["task", "race", "race_lr_max"]).to_dict("records")
    columns = 2 if len(groups) == 4 else min(len(groups), COLUMNS)
    bands = -(-len(groups) // columns)
    figure, axes = canvas(2 * bands, columns, PAGE, 4.0 * bands + 0.8)
    for place in range(bands * columns):
        band, column = divmod(place, columns)
        above, below = axes[2 * band, column], axes[2 * band + 1, column]
        if place >= len(groups):
            above.set_axis_off()
            below.set_axis_off()
            continue
        first = groups[place]
        same = {key: first[key] for key in ("task", "race", "race_lr_max")}
        _steps_panel(above, _where(steps, same), first["race"])
        _ratio_panel(below, _where(ratios, same))
        title = TASK_TITLES[first["task"]] + RACE_TITLES[first["race"]]
        above.set_title(title.format_map({str(key): value for key, value in first.items()}), fontsize=7.5)
        for ax, shared in ((above, axes[0, 0]), (below, axes[1, 0])):
            ax.sharey(shared)
            plain_log(ax, "y")
        below.sharex(above)
        above.invert_xaxis()
        below.set_xlabel("validation loss")
        if column == 0:
            above.set_ylabel("steps")
            below.set_ylabel("steps over those of\nPost-LN with warm-up")
    labels: dict[str, Any] = {}
    for ax in axes.flat:
        labels |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = sorted(labels, key=lambda label: "never" in label)
    figure.legend([labels[k] for k in order], order, loc="outside lower center", ncols=3)
    figure.suptitle(
        f"$d={ratios['width'].iloc[0]}$, Adam; geometric means and 95 % intervals (Student and Welch, on "
        f"logarithms) over {span(ratios['seeds'])} seeds",
        fontsize=8,
    )
    return figure


def _where(table: pd.DataFrame, same: Mapping[str, Any]) -> pd.DataFrame:
    for key, value in same.items():
        table = table[table[key] == value]
    return table


def _steps_panel(ax: Axes, rows: pd.DataFrame, race: str) -> None:
    for side, (which, label) in SIDES[race].items():
        by_level = rows[rows["side"] == side].groupby("level")
        whole = by_level["reached"].apply(lambda reached: reached.notna().all())
        means = [
            {"level": level, **geometric_mean(group["reached"])._asdict()}
            for level, group in by_level
            if whole[level]
        ]
        if means:
            line = pd.DataFrame(means)
            points(ax, line["level"], line["low"], line["value"], line["high"], which, label)
        never = by_level["last_step"].max()[~whole]
        if len(never):
            colour = series(which)["color"]
            ax.plot(never.index, never, "+", color=colour, label=f"{label}: a seed never gets there")


def _ratio_panel(ax: Axes, rows: pd.DataFrame) -> None:
    ax.axhline(1.0, color="0.6", lw=0.8)
    for bound, (which, label) in BOUNDS.items():
        line = rows[rows["bound"] == bound]
        if len(line):
            points(ax, line["level"], line["ratio_low"], line["ratio"], line["ratio_high"], which, label)


def _reached(
    runs: pd.DataFrame, curves: DataFrameGroupBy[Any, Any], levels: Mapping[float, float]
) -> pd.DataFrame:
    """Steps of every run to every level, level by level."""
    rows = runs[[*RUN, "steps"]].rename(columns={"steps": "last_step"})
    lines = [curves.get_group(key) for key in rows[RUN].itertuples(index=False, name=None)]
    arrays = [(line["step"].to_numpy(), line["valid_loss"].to_numpy()) for line in lines]
    return rows.iloc[np.tile(np.arange(len(rows)), len(levels))].assign(
        share=np.repeat(list(levels), len(rows)),
        level=np.repeat(list(levels.values()), len(rows)),
        reached=[crossing(*line, level) for level in levels.values() for line in arrays],
    )


def _ratio_row(race: Race, first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    found, bound = speed(first, second)
    return {
        **{key: race.first[key].iloc[0] for key in CELL},
        "second_lr_max": race.second["lr_max"].iloc[0],
        "second_warmup": race.second["warmup"].iloc[0],
        **dict(zip(("ratio", "ratio_low", "ratio_high"), found, strict=True)),
        "bound": bound,
        "first_never": int(first["reached"].isna().sum()),
        "second_never": int(second["reached"].isna().sum()),
        "seeds": min(len(first), len(second)),
    }
