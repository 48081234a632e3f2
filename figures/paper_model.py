"""The model of the paper's experiments, encoder-decoder 6-6: gradients by layer in both of its notions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from figures.compare import KEYS, summarise
from figures.lab import Cell, Lab
from figures.style import PAGE, PLACEMENT_TITLES, canvas, plain_log, points
from figures.theorem1 import explicit_bound
from meanfield.ops import EncoderDecoder
from meanfield.symbolic.figure3 import post_ln_shapes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "paper_model"

STACKS = ("encoder", "decoder")
MATRICES = {"ffn.up": "$W^1$", "ffn.down": "$W^2$"}
NOTIONS = {"mean_of_norms": "mean of norms", "norm_of_mean": "norm of the mean"}
OUTPUTS = ("decoder.norm3", "decoder.final_norm")  # of the last layer of Post-LN; after that of Pre-LN


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures.

    Args:
        sizes: The preset.

    Returns:
        The encoder-decoder in both placements.
    """
    return sizes.model_cells()


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Measure W1 and W2 of every layer; for the decoder's last W2, Theorem 1's bound as well.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``layers``: key columns, ``mean_of_norms`` and ``norm_of_mean`` over mini-batches (means over seeds
        with ``_se``, ``_low``, ``_high``), minibatches, seeds, and for Post-LN's W2 ``_theory``: the shape
        for uniform attention, anchored at the last layer's measurement; ``bound``: by placement the mean
        bound and ``broken``, the number of seeds whose gradient is above theirs.
    """
    layers, bounds = [], []
    for cell in cells(sizes):
        samples = lab.samples(cell)
        wanted = [f"{stack}.{module}" for stack in STACKS for module in MATRICES]
        rows = samples[samples["module"].isin(wanted) & (samples["parameter"] == "weight")]
        rows = rows.assign(mean_of_norms=rows["grad_norm_hat"], norm_of_mean=rows["mean_grad_sq_hat"] ** 0.5)
        first, second = (summarise(rows, notion) for notion in NOTIONS)
        table = first.merge(second, on=[*KEYS, "seeds"]).assign(minibatches=cell.minibatches)
        layers.append(_with_theory(cell, table))
        bounds.append(_bound(cell, samples, rows))
    return {"layers": pd.concat(layers, ignore_index=True), "bound": pd.DataFrame(bounds)}


def _with_theory(cell: Cell, table: pd.DataFrame) -> pd.DataFrame:
    """Add theory of Post-LN's W2: the shape alone, for the gradient that enters each stack is not derived."""
    assert isinstance(cell.arch, EncoderDecoder)
    table = table.assign(**{f"{notion}_theory": np.nan for notion in NOTIONS})
    if cell.arch.decoder.placement == "post_ln":
        for stack, shape in post_ln_shapes(cell.arch.decoder.depth, cell.tokens).items():
            rows = table[table["module"] == f"{stack}.ffn.down"].sort_values("layer")
            for notion in NOTIONS:
                table.loc[rows.index, f"{notion}_theory"] = rows[notion].iloc[-1] * np.array(shape)
    return table


def _bound(cell: Cell, samples: pd.DataFrame, rows: pd.DataFrame) -> dict[str, object]:
    """Bound the decoder's last W2 by each seed's own gradient at the decoder's output."""
    assert isinstance(cell.arch, EncoderDecoder)
    ffn, depth = cell.arch.decoder.feed_forward, cell.arch.decoder.depth
    output = samples[(samples["parameter"] == "activation") & samples["module"].isin(OUTPUTS)]
    output = output[output["layer"] == output["layer"].max()].set_index("seed")
    branch = float(ffn.up.sigma_w_sq * ffn.down.sigma_w_sq) / 2  # E||FFN(x)||^2/d for a unit token
    positions = cell.batch * cell.tokens
    unit = explicit_bound(
        1.0,
        d_in=ffn.down.d_in,
        d_out=ffn.down.d_out,
        tokens=positions,
        # Lemma 2's lower bound for these shapes: attention may add nothing.
        second_moment=1 + branch * (1 if cell.arch.decoder.placement == "post_ln" else depth),
        sigma_w_sq=float(ffn.up.sigma_w_sq),
    )
    bound = unit * positions * output["q_grad_hat"] ** 0.5
    last = rows[(rows["module"] == "decoder.ffn.down") & (rows["layer"] == depth)].set_index("seed")
    return {
        "placement": cell.arch.decoder.placement,
        "layer": depth,
        "bound": bound.mean(),
        "broken": int((last["grad_norm_hat"] > bound).sum()),
        "seeds": len(bound),
    }


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw both notions of the gradient by layer of encoder and decoder.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table, bounds = tables["layers"], tables["bound"].set_index("placement")
    figure, axes = canvas(2, 2, PAGE, 5.0, sharex=True, sharey=True)
    for row, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        for column, stack in enumerate(STACKS):
            ax = axes[row, column]
            rows = table[(table["placement"] == placement) & table["module"].str.startswith(f"{stack}.")]
            _panel(ax, rows)
            ax.set_title(f"{title}, {stack}")
        bound = bounds.loc[placement]
        words = f"Theorem 1's bound on $W^2$, $l={bound['layer']:.0f}$: {bound['bound']:,.0f}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # hides the grid behind the words
        axes[row, 1].text(0.03, 0.93, words, transform=axes[row, 1].transAxes, fontsize=7.5, bbox=box)
        axes[row, 0].set_ylabel(r"$\Vert\partial\mathcal{L}/\partial W^{k,l}\Vert_F$, $k=1,2$")
    for ax in axes.flat:
        plain_log(ax, "y")
    for ax in axes[1]:
        ax.set_xlabel("layer $l$")
    first = table.iloc[0]
    handles, labels = axes[0, 1].get_legend_handles_labels()
    order = [*range(1, len(labels)), 0]  # matplotlib puts the line first
    figure.legend(
        [handles[k] for k in order], [labels[k] for k in order], loc="outside lower center", ncols=3
    )
    figure.suptitle(
        f"$d={first['width']}$, $d_\\mathrm{{ff}}={first['d_ff']}$, {first['heads']} heads of softmax "
        "attention, label smoothing 0.1\n"
        f"points: means and 95 % intervals over {first['seeds']} seeds, each of {first['minibatches']} "
        f"mini-batches of {first['batch']} × {first['tokens']} tokens",
        fontsize=8,
    )
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    which = 0
    for module, matrix in MATRICES.items():
        line = rows[rows["module"].str.endswith(module)].sort_values("layer")
        for notion, words in NOTIONS.items():
            x = line["layer"] + 0.06 * (which - 1.5)  # so that equal points stay visible
            low, high = line[f"{notion}_low"], line[f"{notion}_high"]
            points(ax, x, low, line[notion], high, which, f"{matrix}, {words}")
            which += 1
            if (theory := line[f"{notion}_theory"]).notna().all():
                label = (
                    f"{matrix}, theory for uniform attention:\nshape, anchored at $l={line['layer'].max()}$"
                )
                first = notion == next(iter(NOTIONS))  # one entry for both lines
                ax.plot(x, theory, color="0.45", ls="--", zorder=1, label=label if first else None)
