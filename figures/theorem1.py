"""Theorem 1's explicit bound, the exact theory and the measurement, against width and against depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import NullLocator

from figures.compare import compare
from figures.fits import slope
from figures.gradient_by_depth import exponent_row, last_ffn, with_interval
from figures.lab import Cell, Lab
from figures.style import PAGE, PLACEMENT_TITLES, canvas, number, points, series
from meanfield.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "theorem1"

ALPHA_0 = 0.1
SWEEPS = ("width", "depth")
OUTPUTS = ("norm2", "final_norm")  # of the last layer of Post-LN; after that of Pre-LN


def explicit_bound(
    gradient_sum: float, *, d_in: int, d_out: int, tokens: int, second_moment: float, sigma_w_sq: float = 1.0
) -> float:
    r"""Theorem 1's bound on ||dL/dW2||_F of the last layer, every constant kept.

        \sum_i ||dL/dx_{out,i}|| \sqrt{d_in d_out} \sqrt{2 \sigma^2 ln(100 T d_in) / (\alpha_0 s)}

    With d_in = d_out = d and \sigma^2 = 1 this is the paper's d \sqrt{2 ln(100 T d) / (\alpha_0 s)}. The
    union bound runs over all T tokens, not over the coordinates of one.

    Args:
        gradient_sum: Sum over tokens of ||dL/dx_out||.
        d_in: Inner size of the feed-forward op.
        d_out: Width.
        tokens: Number T of all tokens in the loss.
        second_moment: s, a lower bound on E||x||^2/d of the last norm's input: 3/2 for Post-LN, 1 + L/2 for
            Pre-LN in the paper's setting.
        sigma_w_sq: Variance of an entry of W1 times the width.

    Returns:
        The bound.

    Raises:
        InputError: If a size or moment is not positive.

    Assumes:
        Norm inputs have at least alpha_0 = 1/10 of their expected square norm, which Theorem 1 grants with
        probability 1 - delta - eps/(0.9 + eps); W1 x is below sqrt(2 ln) in all entries: probability 0.99.

    Source:
        xiong2020, Theorem 1 and App. E, with ln(100 T d) for ln(100 d).

    Example:
        >>> bound = explicit_bound(1.0, d_in=100, d_out=100, tokens=1, second_moment=1.5)
        >>> round((bound / 100) ** 2 * 0.15 / 2, 9) == round(math.log(10_000), 9)
        True
    """
    if min(d_in, d_out, tokens) < 1 or not second_moment > 0 or not sigma_w_sq > 0:
        raise InputError("the bound needs sizes of at least 1 and positive second moments: give such numbers")
    chernoff = 2 * sigma_w_sq * math.log(100 * tokens * d_in)
    return gradient_sum * math.sqrt(d_in * d_out * chernoff / (ALPHA_0 * second_moment))


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures.

    Args:
        sizes: The preset.

    Returns:
        Width and depth sweep of both placements.
    """
    return [cell for p in PLACEMENT_TITLES for cell in sizes.width_cells(p) + sizes.depth_cells(p)]


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Bound, theory and measurement of the last W2 over both sweeps, with exponents.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``last_ffn``: comparison with ``sweep``, the mean ``bound`` and ``broken``, the number of seeds whose
        own gradient is above their own bound; ``exponents``: of the measurement, the theory and the bound.
    """
    compared, exponents = [], []
    for placement in PLACEMENT_TITLES:
        for sweep, line in (("width", sizes.width_cells(placement)), ("depth", sizes.depth_cells(placement))):
            expected, samples = last_ffn(line, lab)
            bounds = pd.concat([_bounds(lab.samples(cell)) for cell in line])
            seeds = samples.merge(bounds, on=["width", "depth", "seed"], validate="one_to_one")
            seeds["broken"] = seeds["grad_sq_hat"] > seeds["bound"] ** 2
            per_size = seeds.groupby(sweep).agg(bound=("bound", "mean"), broken=("broken", "sum"))
            table = compare(expected, samples).merge(per_size, on=sweep)
            compared.append(table.assign(sweep=sweep))
            row = exponent_row(expected, samples, sweep)
            row["bound"] = float(slope(table[sweep], table["bound"]))
            exponents.append({"placement": placement, **row})
    return {"last_ffn": pd.concat(compared, ignore_index=True), "exponents": pd.DataFrame(exponents)}


def _bounds(samples: pd.DataFrame) -> pd.DataFrame:
    """Bound every seed by its own gradient at the output: sum_i ||g_i|| <= T sqrt(mean_i ||g_i||^2)."""
    output = samples[(samples["parameter"] == "activation") & (samples["module"].isin(OUTPUTS))]
    output = output[output["layer"] == output["layer"].max()]
    row = output.iloc[0]
    unit = explicit_bound(
        1.0,
        d_in=row["d_ff"],
        d_out=row["width"],
        tokens=row["tokens"],
        second_moment=1.5 if row["placement"] == "post_ln" else 1 + row["depth"] / 2,
    )
    bound = unit * row["tokens"] * output["q_grad_hat"] ** 0.5
    return output[["width", "depth", "seed"]].assign(bound=bound)


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw bound, theory and measurement on log axes, exponents in the legend.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table, exponents = tables["last_ffn"], tables["exponents"]
    figure, axes = canvas(2, 2, PAGE, 5.0, sharex="col")
    for column, sweep in enumerate(SWEEPS):
        for ax, (placement, title) in zip(axes[:, column], PLACEMENT_TITLES.items(), strict=True):
            rows = table[(table["sweep"] == sweep) & (table["placement"] == placement)]
            fits = exponents[(exponents["size"] == sweep) & (exponents["placement"] == placement)]
            _panel(ax, rows, sweep, fits.to_dict("records")[0])
            other = "depth" if sweep == "width" else "width"
            symbol = "L" if sweep == "width" else "d"
            ax.set_title(f"{title}, ${symbol}={rows[other].iloc[0]}$, $n={rows['tokens'].iloc[0]}$")
    axes[1, 0].set_xlabel("width $d$")
    axes[1, 1].set_xlabel("depth $L$")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\Vert\partial\mathcal{L}/\partial W^{2,L}\Vert_F$")
    figure.suptitle(f"last layer's $W^2$, {table['seeds'].min()} seeds", fontsize=8)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, sweep: str, fit: Mapping[Any, Any]) -> None:
    root = rows["grad_sq"] ** 0.5
    ax.plot(rows[sweep], rows["bound"], color="0.45", ls="--", label=f"bound: {number(fit['bound'])}")
    ax.plot(rows[sweep], root, color=series(1)["color"], label=f"theory: {number(fit['theory'])}")
    low, high = (root * rows[f"ratio_{end}"] ** 0.5 for end in ("low", "high"))
    middle = rows["grad_sq_hat"] ** 0.5
    points(ax, rows[sweep], low, middle, high, 1, f"measured: {with_interval(fit)}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    sizes = sorted(rows[sweep].unique())
    ax.set_xticks(sizes, labels=[str(s) if sweep == "width" or s not in (10, 14) else "" for s in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(loc="center", title="exponent [95 %]", alignment="left")
