"""Risk that theory predicts from the first update, written down before training, against the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from figures.outcomes import CELL, cells, outcomes
from figures.style import OPTIMIZER_TITLES, PAGE, PLACEMENT_TITLES, canvas, number, plain_log, series
from meanfield.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

NAME = "first_update"

FAILS = 0.5  # share of the best gain below which a configuration has failed; see `measure`
SHUFFLES = 10_000


def measure(trained: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Set the predicted risk of every configuration beside what came of it.

    A configuration fails if what it learns is below half of the best that its task, size and optimiser show
    at its learning rate or a smaller one: what is slow at a small rate has not failed. What a risk tells is
    the area under its curve (AUC): the chance that, of a failing and a training configuration, the failing
    one has the higher risk; and the rank correlation of risk and share (Spearman). Two controls must fail:
    the risk of the other placement, and shuffled risks, which give the p-values.

    Args:
        trained: ``runs``, ``curves`` and ``predictions`` of `empirical.train.tables`.

    Returns:
        ``risk``: cell keys, risk, risk_other_placement, final_loss, share (of that best), fails, seeds;
        ``told``: by risk and control, auc, auc_p (shuffled at least as high; both NaN where nothing or all
        fails), rank_correlation, rank_p (shuffled at least as low), right (share of configurations where
        risk > 1 says whether it fails), configurations, failing. Empty without predictions.

    Raises:
        InputError: If a configuration has two risks.
    """
    if "predictions" not in trained or trained["predictions"].empty:
        return {}
    risks = trained["predictions"][[*CELL, "risk"]].drop_duplicates()
    if risks.duplicated(CELL).any():
        raise InputError("predictions: a configuration has two risks: give it one")
    runs = outcomes(trained)
    gains = runs.groupby(CELL)["learnt"].mean().reset_index()
    table = cells(runs).merge(gains, on=CELL).merge(risks, on=CELL)
    alike = ["task", "width", "depth", "optimizer"]
    at_rate = table.groupby([*alike, "lr_max"])["learnt"].max()
    best = at_rate.groupby(alike).cummax().rename("best")  # learning rates ascend
    table = table.join(best, on=[*alike, "lr_max"])
    table["share"] = table["learnt"] / table["best"]
    table["fails"] = table["share"] < FAILS
    other = {"post_ln": "pre_ln", "pre_ln": "post_ln"}
    swapped = risks.assign(placement=risks["placement"].map(other)).rename(
        columns={"risk": "risk_other_placement"}
    )
    table = table.merge(swapped, on=CELL, how="left")
    columns = [
        *CELL,
        "risk",
        "risk_other_placement",
        "final_loss",
        "final_loss_low",
        "final_loss_high",
        "share",
        "fails",
        "seeds",
    ]
    if table.empty:
        return {}
    told = [{"by": name, **_told(table, name)} for name in ("risk", "risk_other_placement")]
    return {"risk": table[columns], "told": pd.DataFrame(told)}


def _told(table: pd.DataFrame, name: str) -> dict[str, float]:
    rows = table.dropna(subset=[name])
    risk, share = stats.rankdata(rows[name]), stats.rankdata(rows["share"])
    fails = rows["fails"].to_numpy()
    failing, training = int(fails.sum()), int((~fails).sum())
    rng = np.random.default_rng(0)
    shuffled = np.array([rng.permutation(risk) for _ in range(SHUFFLES)])
    row = {"auc": np.nan, "auc_p": np.nan}
    if failing and training:
        above = risk[fails].sum() - failing * (failing + 1) / 2
        row = {
            "auc": above / (failing * training),
            "auc_p": _as_extreme(shuffled[:, fails].sum(axis=1) >= risk[fails].sum()),
        }
    centred = share - share.mean()
    spreads = risk.std() * share.std() * len(rows)
    return row | {
        "rank_correlation": risk @ centred / spreads if spreads else np.nan,
        "rank_p": _as_extreme(shuffled @ centred <= risk @ centred),
        "right": ((rows[name] > 1) == rows["fails"]).mean(),
        "configurations": len(rows),
        "failing": failing,
    }


def _as_extreme(shuffled: NDArray[np.bool_]) -> float:
    return float((1 + shuffled.sum()) / (1 + SHUFFLES))


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw what was learnt against the predicted risk, and against that of the other placement.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table, told = tables["risk"], {row["by"]: row for row in tables["told"].to_dict("records")}
    figure, axes = canvas(1, 2, PAGE, 3.6, sharex=True, sharey=True)
    labels = {"risk": "predicted risk", "risk_other_placement": "control: risk of the other placement"}
    for ax, (name, label) in zip(axes[0], labels.items(), strict=True):
        _panel(ax, table, name)
        row = told[name]
        auc = "" if np.isnan(row["auc"]) else f"AUC {row['auc']:.2f} (p = {row['auc_p']:.2g}), "
        ax.set_title(
            f"{auc}on the right side of 1: {row['right']:.0%}\n"
            f"rank correlation {number(row['rank_correlation'])} (p = {row['rank_p']:.2g})",
            fontsize=8,
        )
        ax.set_xlabel(label)
    axes[0, 0].set_ylabel("share of the best learnt\nat this or a smaller learning rate")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    row = told["risk"]
    figure.suptitle(
        f"{row['configurations']:.0f} configurations, {row['failing']:.0f} fail (below half); "
        "predictions were written before training",
        fontsize=8,
    )
    return figure


def _panel(ax: Axes, table: pd.DataFrame, name: str) -> None:
    ax.axhline(FAILS, color="0.6", lw=0.8)
    ax.axvline(1.0, color="0.6", lw=0.8)
    markers = dict(zip(OPTIMIZER_TITLES, ("o", "s", "^"), strict=True))
    for which, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        for optimizer, marker in markers.items():
            rows = table[(table["placement"] == placement) & (table["optimizer"] == optimizer)]
            if len(rows):
                ax.plot(
                    rows[name],
                    rows["share"],
                    color=series(which)["color"],
                    marker=marker,
                    linestyle="none",
                    markerfacecolor="none",
                    label=f"{title}, {OPTIMIZER_TITLES[optimizer]}",
                )
    plain_log(ax, "x")
