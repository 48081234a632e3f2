"""Concentration of hidden-state norms: the measured (eps, delta) curve, the lemma and the exact tail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

import empirical
from figures.compare import interval, resampled_means
from figures.lab import Cell, Lab
from figures.style import COLUMN, canvas, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "concentration"

EPSILONS = np.round(np.arange(0.0, 0.301, 0.01), 2)
PAPER_POINT = (0.1, 0.125)
BLOCK = 25
SERIES = {
    "input": "input tokens, $N(0, I_d)$",
    "post_ln": "Post-LN, $x_{L,5}$",
    "pre_ln": "Pre-LN, $x_{L,5}$",
}


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures, forward only.

    Args:
        sizes: The preset.

    Returns:
        Both placements at the smallest depth.
    """
    both = sizes.layer_cells(depths=(min(sizes.depths),))
    return [Cell(cell.arch, cell.tokens, sizes.tail_seeds, loss="none") for cell in both]


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Measure delta(eps) = Pr[(Z - EZ)/EZ > eps] for Z = ||x||^2 of single tokens.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``tail``: series, eps, delta_hat, delta_hat_low, delta_hat_high (95 %: seeds are resampled, for the
        tokens of one seed depend on each other), ``lemma`` = exp(-d eps^2/8), ``chi2`` the exact chi-square
        tail, width, depth, tokens, seeds.
    """
    tables = []
    for cell in cells(sizes):
        norms = _norms(cell, lab)
        row = norms.iloc[0]
        wanted = {row["placement"]: (norms["module"] == "residual2") & (norms["layer"] == row["depth"])}
        if row["placement"] == "post_ln":  # both placements see the same input
            wanted["input"] = norms["module"] == "input"
        for name, rows in wanted.items():
            wide = norms[rows].pivot(index="seed", columns="token", values="q_hat").to_numpy()
            size = {key: row[key] for key in ("width", "depth", "tokens")}
            tables.append(tail(wide, int(row["width"])).assign(series=name, **size))
    return {"tail": pd.concat(tables, ignore_index=True)}


def _norms(cell: Cell, lab: Lab) -> pd.DataFrame:
    blocks = []
    for start in range(0, cell.seeds, BLOCK):
        seeds = range(start, min(start + BLOCK, cell.seeds))

        def make(seeds: range = seeds) -> pd.DataFrame:
            return empirical.token_norms(
                cell.arch, tokens=cell.tokens, batch=cell.batch, seeds=seeds, device=lab.device
            )

        blocks.append(lab.kept(NAME, (cell.arch, cell.tokens, cell.batch, seeds, lab.device), make))
        lab.advance(len(seeds) * cell.seed_cost)
    return pd.concat(blocks, ignore_index=True)


def tail(norms: np.ndarray, width: int) -> pd.DataFrame:
    """Upper tail of square norms around their mean, with intervals over seeds.

    Args:
        norms: Square norms in any unit; shape (seeds, tokens).
        width: d of the lemma and of the chi-square law.

    Returns:
        eps, delta_hat, delta_hat_low, delta_hat_high, lemma, chi2, seeds.

    Assumes:
        Seeds are independent; tokens of one seed need not be. EZ is the mean over all. Where no token of any
        seed lies above, the upper end is the 95 % bound 3/seeds, however dependent the tokens are.
    """
    above = norms[:, :, None] > (1 + EPSILONS) * norms.mean()  # (seeds, tokens, eps)
    by_seed = above.mean(axis=1)
    low, high = interval(resampled_means(by_seed))
    delta = by_seed.mean(axis=0)
    return pd.DataFrame({
        "eps": EPSILONS,
        "delta_hat": delta,
        "delta_hat_low": low,
        "delta_hat_high": np.where(delta > 0, high, min(1.0, 3 / len(norms))),
        "lemma": np.exp(-width * EPSILONS**2 / 8),
        "chi2": stats.chi2.sf(width * (1 + EPSILONS), width),
        "seeds": len(norms),
    })


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw delta against eps.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["tail"]
    first = table.iloc[0]
    figure, axes = canvas(1, 1, COLUMN, 3.5)
    ax = axes[0, 0]
    for which, (name, label) in enumerate(SERIES.items()):
        rows = table[(table["series"] == name) & (table["delta_hat"] > 0)].iloc[::2]
        x = rows["eps"] + 0.003 * (which - 1)  # so that equal points stay visible
        points(ax, x, rows["delta_hat_low"], rows["delta_hat"], rows["delta_hat_high"], which, label)
    curve = table[table["series"] == "input"]
    ax.plot(curve["eps"], curve["chi2"], color="black", label=r"exact $\chi^2_d$ tail")
    ax.plot(curve["eps"], curve["lemma"], color="0.45", ls="--", label=r"lemma: $\exp(-d\epsilon^2/8)$")
    ax.plot(*PAPER_POINT, marker="*", ms=10, color="black", ls="none", label="paper's (0.1, 0.125)")
    ax.set_yscale("log")
    seen = table.loc[table["delta_hat"] > 0, "delta_hat"].min()
    ax.set_ylim(0.5 * seen, 1.5)
    ax.set_xlabel(r"$\epsilon$")
    ax.set_ylabel(r"$\delta(\epsilon)=\Pr[(Z-\mathrm{E}Z)/\mathrm{E}Z>\epsilon]$")
    ax.set_title(
        f"$d={first['width']}$, $L={first['depth']}$, {first['seeds']} seeds × {first['tokens']} tokens"
    )
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
