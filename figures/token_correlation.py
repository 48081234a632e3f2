"""How fast the tokens of a sequence become equal: 1 - rho by layer, exponential against a power law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from figures.compare import KEYS, interval, resampled_means
from figures.lab import Cell, Lab, theory
from figures.style import PAGE, PLACEMENT_TITLES, against_theory, canvas, plain_log, points, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "token_correlation"

LAYER_OUTPUT = {"post_ln": "norm2", "pre_ln": "residual2"}
ASYMPTOTE = -2 / 3


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures.

    Args:
        sizes: The preset.

    Returns:
        Both placements at the largest depth measured by layer, and the deepest model of the Pre-LN sweep.
    """
    return [*sizes.layer_cells(depths=(max(sizes.depths),)), sizes.depth_cells("pre_ln")[-1]]


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Compare theory and measurement of 1 - rho = (q - cov)/q at the output of every layer.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``decorrelation``: key columns, ``decorrelation`` (theory), ``decorrelation_hat`` (ratio of the means
        over seeds), ``ratio_low`` and ``ratio_high`` (95 %, over the theory), ``seeds``.
    """
    return {"decorrelation": pd.concat([_compare(cell, lab) for cell in cells(sizes)], ignore_index=True)}


def _compare(cell: Cell, lab: Lab) -> pd.DataFrame:
    expected, samples = theory(cell).activations, lab.samples(cell)
    output = LAYER_OUTPUT[expected["placement"].iloc[0]]
    expected = expected[expected["module"] == output].sort_values("layer", ignore_index=True)
    samples = samples[(samples["module"] == output) & (samples["parameter"] == "activation")]
    q, cov = (
        samples.pivot(index="seed", columns="layer", values=f"{v}_hat").to_numpy() for v in ("q", "cov")
    )
    gap, square = np.hsplit(resampled_means(np.hstack([q - cov, q])), 2)
    low, high = interval(gap / square)
    table = expected[KEYS].assign(decorrelation=1 - expected["cov"] / expected["q"])
    return table.assign(
        decorrelation_hat=(q - cov).mean(axis=0) / q.mean(axis=0),
        ratio_low=low / table["decorrelation"],
        ratio_high=high / table["decorrelation"],
        seeds=len(q),
    )


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw 1 - rho by layer: Post-LN is a line on a log axis, Pre-LN on log-log axes.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["decorrelation"]
    shallow, deep = (table[table["depth"] == depth] for depth in (table["depth"].min(), table["depth"].max()))
    figure, axes = canvas(1, 2, PAGE, 2.8)
    left, right = axes[0]
    for which, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        line = shallow[shallow["placement"] == placement]
        against_theory(left, line["layer"], line, "decorrelation", which, title)
    post = shallow[shallow["placement"] == "post_ln"]
    half = post["decorrelation"].iloc[-1] * 2.0 ** (post["layer"].iloc[-1] - post["layer"])
    left.plot(post["layer"][half < 1], half[half < 1], color="0.5", ls=":", label="half per layer")
    right.plot(deep["layer"], deep["decorrelation"], color=series(1)["color"])
    few = deep[
        deep["layer"].isin(np.unique(np.geomspace(1, len(deep), 16).round()))
    ]  # evenly on the log axis
    low, high = (few["decorrelation"] * few[f"ratio_{end}"] for end in ("low", "high"))
    points(right, few["layer"], low, few["decorrelation_hat"], high, 1, PLACEMENT_TITLES["pre_ln"])
    guide = deep["decorrelation"].iloc[-1] * (deep["layer"] / deep["layer"].iloc[-1]) ** ASYMPTOTE
    right.plot(deep["layer"], guide, color="0.5", ls=":", label="slope $-2/3$")
    plain_log(right, "x")
    for ax, rows in ((left, shallow), (right, deep)):
        plain_log(ax, "y")
        ax.set_xlabel("layer $l$")
        ax.legend(loc="lower left")
        ax.set_title(
            ", ".join(
                f"${s}={rows[c].iloc[0]}$" for s, c in (("L", "depth"), ("d", "width"), ("n", "tokens"))
            )
        )
    figure.suptitle(f"line: theory; points: measured, {table['seeds'].min()} seeds or more, 95 %", fontsize=8)
    left.set_ylabel(r"$1-\rho_l$")
    return figure
