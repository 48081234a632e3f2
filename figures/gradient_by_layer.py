"""Gradient of every parameter by layer, Post-LN and Pre-LN: the paper's Fig. 3(a) and 3(b)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from figures.compare import compare
from figures.lab import Cell, Lab, theory
from figures.style import PAGE, PLACEMENT_TITLES, against_theory, canvas, plain_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "gradient_by_layer"

MATRICES = {"attention.v": "$W^V$", "ffn.up": "$W^1$", "ffn.down": "$W^2$"}
VECTORS = {
    ("ffn.up", "bias"): "$b^1$",
    ("ffn.down", "bias"): "$b^2$",
    ("norm1", "weight"): "norm 1 gain",
    ("norm1", "bias"): "norm 1 shift",
    ("norm2", "weight"): "norm 2 gain",
    ("norm2", "bias"): "norm 2 shift",
}


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures.

    Args:
        sizes: The preset.

    Returns:
        Both placements at each depth, and at the largest with a single token too.
    """
    return sizes.layer_cells() + sizes.layer_cells(depths=(max(sizes.depths),), tokens=1)


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Compare theory and measurement for every parameter of every layer.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``parameters``: the table of `figures.compare.compare` on ``grad_sq``.
    """
    tables = [compare(theory(cell).df, lab.samples(cell)) for cell in cells(sizes)]
    return {"parameters": pd.concat(tables, ignore_index=True)}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw root mean square gradients by layer.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["parameters"]
    depths = sorted(table["depth"].unique())
    tokens = table["tokens"].max()
    figure, axes = canvas(2, len(depths) + 1, PAGE, 4.6, sharex="col")
    for row, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        rows = table[table["placement"] == placement]
        for column, depth in enumerate(depths):
            ax = axes[row, column]
            _matrices(ax, rows[rows["depth"] == depth], tokens)
            ax.set_title(f"{title}, $L={depth}$: matrices")
        last = axes[row, -1]
        deepest = rows[(rows["depth"] == depths[-1]) & (rows["tokens"] == tokens)]
        for number, ((module, parameter), label) in enumerate(VECTORS.items()):
            line = deepest[(deepest["module"] == module) & (deepest["parameter"] == parameter)]
            against_theory(last, line["layer"], line, "grad_sq", number, label, root=True)
        last.set_xticks(range(2, depths[-1] + 1, 2))
        last.set_title(f"{title}, $L={depths[-1]}$: vectors")
        axes[row, 0].set_ylabel(r"$(\mathrm{E}\,\Vert\partial\mathcal{L}/\partial\theta\Vert_F^2)^{1/2}$")
    for ax in axes.flat:
        plain_log(ax, "y")
    for ax in axes[-1]:
        ax.set_xlabel("layer $l$")
    figure.suptitle(f"$d={table['width'].iloc[0]}$, {table['seeds'].min()} seeds", fontsize=8)
    words = "(line: theory; points: measured, 95 %)"
    entries = axes[0, -2].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower left", ncols=2, title=f"matrices {words}")
    entries = axes[0, -1].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower right", ncols=3, title=f"vectors {words}")
    return figure


def _matrices(ax: Axes, rows: pd.DataFrame, tokens: int) -> None:
    weights = rows[rows["parameter"] == "weight"]
    many = weights[weights["tokens"] == tokens]
    for number, (module, label) in enumerate(MATRICES.items()):
        line = many[many["module"] == module]
        against_theory(ax, line["layer"], line, "grad_sq", number, f"{label}, $n={tokens}$", root=True)
    ax.set_xticks(range(2, rows["depth"].iloc[0] + 1, 2))
    alone = weights[(weights["tokens"] == 1) & (weights["module"] == "ffn.down")]
    if len(alone):
        against_theory(ax, alone["layer"], alone, "grad_sq", 3, f"{MATRICES['ffn.down']}, $n=1$", root=True)
