"""Gradient norm of the feed-forward matrices by layer before training and after warm-up: Fig. 3(a, b)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from figures.contrasts import geometric_mean
from figures.outcomes import CELL, outcomes, pairs
from figures.paper_model import MATRICES, STACKS
from figures.style import PAGE, PLACEMENT_TITLES, canvas, plain_log, points, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "gradient_after_warmup"

MOMENTS = ("before training", "after warm-up", "last step")
DRAWN = MOMENTS[:2]


def measure(trained: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Take the gradients of Adam's runs with the learning rate and warm-up that serve Post-LN best.

    Only what was run in both placements is looked at, unless nothing was. Gradients that are not positive
    numbers, those of a run that has broken down, are left out.

    Args:
        trained: ``runs``, ``curves`` and ``gradients`` of `empirical.train.tables`.

    Returns:
        ``layers``: cell keys, layer, module, moment ("before training", "after warm-up": the first recorded
        step that is not within the warm-up, "last step"), step, norm_of_mean (geometric mean over seeds) with
        its 95 % interval (Student, on logarithms), minibatches, seeds. Empty where nothing was recorded.
    """
    runs = outcomes(trained)
    post, pre = (_warmed(runs, placement) for placement in PLACEMENT_TITLES)
    if not post:
        return {}
    shared = {key: cell for key, cell in post.items() if key in pre} or post
    chosen = min(shared.values(), key=lambda cell: float(cell["final_loss"].mean())).iloc[0]
    table = trained["gradients"]
    for key in ("task", "optimizer", "schedule", "lr_max", "warmup", "width", "depth"):
        table = table[table[key] == chosen[key]]
    wanted = [f"{stack}.{module}" for stack in STACKS for module in MATRICES]
    table = table[table["module"].isin(wanted) & (table["parameter"] == "weight")]
    table = table[(table["norm_of_mean"] > 0) & np.isfinite(table["norm_of_mean"])]
    after = table[table["step"] >= chosen["warmup"]]
    if after.empty:
        return {}
    steps = dict(zip(MOMENTS, (0, after["step"].min(), after["step"].max()), strict=True))
    rows = []
    for moment, step in steps.items():
        for _, group in table[table["step"] == step].groupby(["placement", "module", "layer"]):
            if len(group) < 2:
                continue
            norm = geometric_mean(group["norm_of_mean"])
            rows.append({
                **group.iloc[0][[*CELL, "layer", "module", "step", "minibatches"]],
                "moment": moment,
                "norm_of_mean": norm.value,
                "norm_of_mean_low": norm.low,
                "norm_of_mean_high": norm.high,
                "seeds": len(group),
            })
    return {"layers": pd.DataFrame(rows)} if rows else {}


def _warmed(runs: pd.DataFrame, placement: str) -> dict[tuple[float, int], pd.DataFrame]:
    """Cells of Adam with warm-up by learning rate and length."""
    found = [pair for pair in pairs(runs, "translation", placement) if pair.optimizer == "adam"]
    return {(pair.lr_max, length): cell for pair in found for length, cell in pair.warmups.items()}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw W1 and W2 by layer of encoder and decoder, before training and after warm-up.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["layers"]
    figure, axes = canvas(2, 2, PAGE, 5.0, sharex=True, sharey=True)
    for row, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        for column, stack in enumerate(STACKS):
            ax = axes[row, column]
            rows = table[(table["placement"] == placement) & table["module"].str.startswith(f"{stack}.")]
            _panel(ax, rows)
            ax.set_title(f"{title}, {stack}")
        axes[row, 0].set_ylabel(r"$\Vert\partial\mathcal{L}/\partial W^{k,l}\Vert_F$, $k=1,2$")
    for ax in axes.flat:
        plain_log(ax, "y")
    for ax in axes[1]:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("layer $l$")
    first = table.iloc[0]
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    step = table[table["moment"] == DRAWN[1]]["step"].iloc[0]
    figure.suptitle(
        f"$d={first['width']}$, Adam, lr {first['lr_max']:g}, warm-up of {first['warmup']} steps (after it: "
        f"step {step})\nnorm of the mean over {first['minibatches']} mini-batches; geometric means and 95 % "
        f"intervals (Student) over {span(table['seeds'])} seeds",
        fontsize=8,
    )
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    which = 0
    for module, matrix in MATRICES.items():
        for moment in DRAWN:
            line = rows[rows["module"].str.endswith(module) & (rows["moment"] == moment)].sort_values("layer")
            x = line["layer"] + 0.11 * (which - 1.5)  # so that equal points stay visible
            low, high = line["norm_of_mean_low"], line["norm_of_mean_high"]
            points(ax, x, low, line["norm_of_mean"], high, which, f"{matrix}, {moment}")
            which += 1
