"""Draw predicted against measured gradients of all models: docs/images/accuracy.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures.style import MARKERS, PAGE, canvas, series, style

LABELS = {
    "bert": "BERT",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "t5": "T5 encoder",
    "torch_post_ln": "torch, Post-LN",
    "torch_pre_ln": "torch, Pre-LN",
    "own_post_ln": "ours, Post-LN",
    "own_pre_ln": "ours, Pre-LN",
}


def draw(table: pd.DataFrame, width: int) -> Figure:
    """Draw E||grad||^2 of every tensor, and the ratio to the prediction below.

    Args:
        table: ``docs/results/accuracy.csv``.
        width: The width of the models that are drawn.

    Returns:
        The figure.
    """
    with style():
        figure, grid = canvas(1, 2, PAGE, 3.4)
        axes = grid.flat
        rows = table[(table["width"] == width) & (table["grad_sq_limit"] > 0)]
        for number, (model, label) in enumerate(LABELS.items()):
            found = rows[rows["model"] == model]
            # one more series than markers: shift them in the second round of colours
            marker = MARKERS[(number + number // len(MARKERS)) % len(MARKERS)]
            look = series(number) | {"linestyle": "none", "marker": marker}
            axes[0].plot(found["grad_sq"], found["grad_sq_hat"], ms=2.5, **look)
            axes[1].plot(
                found["grad_sq"], found["grad_sq_hat"] / found["grad_sq"], ms=2.5, label=label, **look
            )
        ends = np.array([rows["grad_sq"].min(), rows["grad_sq"].max()])
        axes[0].plot(ends, ends, color="0.4", lw=0.8, zorder=0)
        axes[1].axhspan(0.98, 1.02, color="0.9", zorder=0)
        axes[0].set_yscale("log")
        axes[0].set_ylabel(r"measured $\mathrm{E}\,\Vert\partial\mathcal{L}/\partial\theta\Vert_F^2$")
        axes[1].set_ylabel("measured / predicted (grey: 2 %)")
        for ax in axes:
            ax.set_xscale("log")
            ax.set_xlabel("predicted, from the architecture alone")
        figure.suptitle(f"every tensor of models of width {width}, 6 layers, {len(rows)} tensors", fontsize=8)
        figure.legend(loc="outside lower center", ncols=4)
        return figure


def main() -> None:
    """Read the table and write the picture."""
    table = pd.read_csv("docs/results/accuracy.csv")
    draw(table, 512).savefig(Path("docs/images/accuracy.png"), dpi=200)


if __name__ == "__main__":
    main()
