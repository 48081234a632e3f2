"""Second moment of the hidden state after every layer, with Lemma 2's values and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from figures.compare import compare
from figures.lab import Cell, Lab, theory
from figures.style import PAGE, PLACEMENT_TITLES, against_theory, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "hidden_state_growth"


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures.

    Args:
        sizes: The preset.

    Returns:
        Both placements at the largest depth, with all tokens and with one.
    """
    deepest = (max(sizes.depths),)
    return sizes.layer_cells(depths=deepest) + sizes.layer_cells(depths=deepest, tokens=1)


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Compare theory and measurement of q after every residual sum and inside the feed-forward op.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``second_moment``: comparison of ``q`` at ``residual2`` (the paper's x_5; for Pre-LN the next layer's
        input) with Lemma 2's ``lemma2_low`` and ``lemma2_high``, and at ``ffn`` with Lemma 1's 1/2.
    """
    compared = []
    for cell in cells(sizes):
        expected, samples = theory(cell).activations, lab.samples(cell)
        compared.append(
            compare(
                expected[expected["module"].isin(["residual2", "ffn"])],
                samples[
                    samples["module"].isin(["residual2", "ffn"]) & (samples["parameter"] == "activation")
                ],
                "q",
            )
        )
    table = pd.concat(compared, ignore_index=True)
    post, ffn = table["placement"] == "post_ln", table["module"] == "ffn"
    for end, per_layer in (("low", 0.5), ("high", 1.5)):
        pre = 1 + per_layer * table["layer"]
        table[f"lemma2_{end}"] = np.select([ffn, post], [np.nan, 1.5], pre)
    return {"second_moment": table}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw q by layer, Post-LN at 3/2 and Pre-LN between Lemma 2's bounds.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["second_moment"]
    table = table[table["module"] == "residual2"]
    figure, axes = canvas(1, 2, PAGE, 2.7)
    for ax, (placement, title) in zip(axes[0], PLACEMENT_TITLES.items(), strict=True):
        rows = table[table["placement"] == placement]
        for number, (tokens, line) in enumerate(rows.groupby("tokens", sort=True), start=1):
            apart = 0.3 * (number - 1.5) if placement == "post_ln" else 0.0  # equal points stay visible
            against_theory(ax, line["layer"] + apart, line, "q", number, f"$n={tokens}$")
        edge = rows[rows["tokens"] == rows["tokens"].max()]
        if placement == "pre_ln":
            ax.fill_between(
                edge["layer"],
                edge["lemma2_low"],
                edge["lemma2_high"],
                color="0.92",
                label="Lemma 2's bounds",
                zorder=0,
            )
        else:
            ax.set_ylim(1.4, 1.64)
            ax.plot(
                edge["layer"],
                edge["lemma2_low"],
                color="0.6",
                lw=3,
                alpha=0.5,
                label="Lemma 2: 3/2",
                zorder=0,
            )
        ax.set_title(f"{title}, $d={table['width'].iloc[0]}$, {table['seeds'].min()} seeds")
        ax.set_xlabel("layer $l$")
        ax.set_ylabel(r"$q_l=\mathrm{E}\,\Vert x_{l,5}\Vert^2/d$")
        ax.legend(loc="upper left", ncols=1 if placement == "pre_ln" else 3)
    return figure
