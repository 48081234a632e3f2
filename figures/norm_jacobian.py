"""Spectral norm of LayerNorm's Jacobian against ||x||: Lemma 3, and where its O(sqrt(d)/||x||) ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import empirical
from figures.lab import Cell, Lab
from figures.style import COLUMN, canvas, series
from meanfield.ops import Norm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "norm_jacobian"

RADII = tuple(float(r) for r in np.geomspace(1.0, 1000.0, 7))
MEAN_SHARES = (0.99, 0.9999)


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures of whole models: nothing.

    Args:
        sizes: The preset.

    Returns:
        An empty list.
    """
    return []


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Measure the Jacobian at points of every direction, and at points that are nearly constant vectors.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``jacobian``: width, mean_share (of ||x||^2, in the coordinate mean), seed, radius, centred_norm,
        spectral_norm, ``lemma3`` = sqrt(d)/||y||, ``without_mean`` = sqrt(d)/||x||.
    """
    norm = Norm("norm1", sizes.norm_width, eps=0.0)
    seeds = range(sizes.norm_seeds)

    def measured(share: float | None) -> pd.DataFrame:
        # The Jacobian's singular values do not depend on the device: float64 on the host serves all.
        return empirical.norm_jacobian(norm, radii=RADII, mean_share=share, seeds=seeds)

    def make() -> pd.DataFrame:
        isotropic = measured(None)
        return pd.concat(
            [
                isotropic.assign(mean_share=1 - (isotropic["centred_norm"] / isotropic["radius"]) ** 2),
                *(measured(share).assign(mean_share=share) for share in MEAN_SHARES),
            ],
            ignore_index=True,
        )

    table = lab.kept(NAME, (norm, RADII, MEAN_SHARES, sizes.norm_seeds), make).assign(width=norm.width)
    root = np.sqrt(norm.width)
    table = table.assign(lemma3=root / table["centred_norm"], without_mean=root / table["radius"])
    return {"jacobian": table}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the spectral norm against ||x|| on log axes.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table = tables["jacobian"]
    figure, axes = canvas(1, 1, COLUMN, 2.9)
    ax = axes[0, 0]
    special = table["mean_share"].isin(MEAN_SHARES)
    reference = table.groupby("radius")["without_mean"].first()
    ax.plot(reference.index, reference, color="0.75", lw=4, label=r"$\sqrt{d}/\Vert x\Vert$")
    groups = [("$x$ in a random direction", table[~special])]
    groups += [
        (
            f"{100 * share:g} % of $\\Vert x\\Vert^2$ in the mean",
            table[table["mean_share"] == share],
        )
        for share in MEAN_SHARES
    ]
    for number, (label, rows) in enumerate(groups):
        line = rows.groupby("radius")["lemma3"].mean()
        ax.plot(line.index, line, color=series(number)["color"], lw=0.8)
        ax.plot(rows["radius"], rows["spectral_norm"], ls="none", mfc="white", label=label, **series(number))
    ax.plot([], [], color="black", label=r"Lemma 3: $\sqrt{d}/\Vert x-\bar{x}\mathbf{1}\Vert$")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(r"$\Vert x\Vert$")
    ax.set_ylabel(r"$\Vert J_{\mathrm{LN}}(x)\Vert_2$")
    ax.set_title(f"LayerNorm, $d={table['width'].iloc[0]}$, {table['seed'].nunique()} draws")
    ax.set_ylim(top=300 * table["spectral_norm"].max())
    ax.legend(loc="upper right")
    return figure
