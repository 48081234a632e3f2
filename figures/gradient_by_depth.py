"""Gradient of the last layer's W2 against depth: the paper's Fig. 3(c) and 3(d), and on to 96 layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import NullLocator

from figures.compare import compare
from figures.fits import fit_exponent, slope
from figures.lab import Cell, Lab, theory
from figures.style import COLUMN, PLACEMENT_TITLES, against_theory, canvas, number, plain_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.presets import Sizes

NAME = "gradient_by_depth"

PAPER_DEPTHS = (6, 14)


def cells(sizes: Sizes) -> list[Cell]:
    """What the figure measures.

    Args:
        sizes: The preset.

    Returns:
        The depth sweep of both placements.
    """
    return [cell for placement in PLACEMENT_TITLES for cell in sizes.depth_cells(placement)]


def measure(sizes: Sizes, lab: Lab) -> dict[str, pd.DataFrame]:
    """Compare theory and measurement for the last W2 at every depth, and fit exponents.

    Args:
        sizes: The preset.
        lab: Where numbers come from.

    Returns:
        ``last_ffn``: comparison by depth; ``exponents``: fitted and theoretical exponent of the root mean
        square over the paper's depths and over all.
    """
    compared, exponents = [], []
    for placement in PLACEMENT_TITLES:
        expected, samples = last_ffn(sizes.depth_cells(placement), lab)
        compared.append(compare(expected, samples))
        exponents += [
            {"placement": placement, **exponent_row(expected, samples, "depth", longest)}
            for longest in (PAPER_DEPTHS[1], max(sizes.sweep_depths))
        ]
    return {"last_ffn": pd.concat(compared, ignore_index=True), "exponents": pd.DataFrame(exponents)}


def last_ffn(sweep: list[Cell], lab: Lab) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Theory rows and measured samples of the last layer's W2 over a sweep.

    Args:
        sweep: Cells of one placement.
        lab: Where numbers come from.

    Returns:
        Theory (one row per cell) and samples (one row per cell and seed).
    """
    expected = pd.concat([theory(cell).df for cell in sweep], ignore_index=True)
    samples = pd.concat([lab.samples(cell) for cell in sweep], ignore_index=True)
    return expected[_is_last_ffn(expected)], samples[_is_last_ffn(samples)]


def _is_last_ffn(rows: pd.DataFrame) -> pd.Series[bool]:
    last = rows["layer"] == rows["depth"]
    return last & (rows["module"] == "ffn.down") & (rows["parameter"] == "weight")


def exponent_row(
    expected: pd.DataFrame, samples: pd.DataFrame, size: str, largest: int | None = None
) -> dict[str, Any]:
    """Fitted exponent of the root mean square gradient over a sweep, beside the theory's on the same sizes.

    Args:
        expected: Theory, one row per size.
        samples: Samples, one row per size and seed.
        size: Name of the column that varies.
        largest: Sizes above it are left out.

    Returns:
        size, smallest, largest, estimate, low, high (95 %), theory, seeds.
    """
    if largest is not None:
        expected, samples = expected[expected[size] <= largest], samples[samples[size] <= largest]
    wide = samples.pivot(index="seed", columns=size, values="grad_sq_hat")
    line = expected.set_index(size)["grad_sq"].loc[wide.columns]
    fit = fit_exponent(wide.columns.to_numpy(), wide.to_numpy())
    return {
        "size": size,
        "smallest": int(wide.columns.min()),
        "largest": int(wide.columns.max()),
        **fit._asdict(),
        "theory": float(slope(line.index.to_numpy(), line.to_numpy())) / 2,
        "seeds": len(wide),
    }


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the last W2's gradient against depth on log axes, with fitted exponents.

    Args:
        tables: What `measure` returned.

    Returns:
        The figure.
    """
    table, exponents = tables["last_ffn"], tables["exponents"]
    figure, axes = canvas(1, 1, COLUMN, 3.1)
    ax = axes[0, 0]
    ax.axvspan(*PAPER_DEPTHS, color="0.93", zorder=0)
    for which, (placement, title) in enumerate(PLACEMENT_TITLES.items()):
        rows = table[table["placement"] == placement]
        against_theory(ax, rows["depth"], rows, "grad_sq", which, title, root=True)
    lines = [
        f"{PLACEMENT_TITLES[row['placement']]}, $L={row['smallest']}$ to ${row['largest']}$: "
        f"{with_interval(row)}, theory {number(row['theory'])}"
        for row in exponents.to_dict("records")
    ]
    ax.set_title("exponents of $L$ [95 %]\n" + "\n".join(lines), fontsize=7.5, loc="left")
    plain_log(ax, "x")
    plain_log(ax, "y")
    depths = sorted(table["depth"].unique())
    ax.set_xticks(depths, labels=[str(d) if d not in (10, 14) else "" for d in depths])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("depth $L$ (shaded: the paper's 6 to 14)")
    ax.set_ylabel(r"$(\mathrm{E}\,\Vert\partial\mathcal{L}/\partial W^{2,L}\Vert_F^2)^{1/2}$")
    first = table.iloc[0]
    sizes = f"$d={first['width']}$, $n={first['tokens']}$, {first['seeds']} seeds"
    ax.legend(loc="lower left", title=sizes, alignment="left", title_fontsize=7.5)
    return figure


def with_interval(row: Mapping[Any, Any]) -> str:
    """Text of a fitted exponent and its interval.

    Args:
        row: A row as `exponent_row` makes it.

    Returns:
        The text.

    Example:
        >>> with_interval({"estimate": 0.5, "low": 0.49, "high": 0.51})
        '0.50 [0.49, 0.51]'
    """
    return f"{number(row['estimate'])} [{number(row['low'])}, {number(row['high'])}]"
