"""The plots of an audit's page, from its tables alone."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from scipy.stats import norm

from empirical.audit.show import percent
from empirical.audit.statistics import DISAGREES, UNPREDICTED, ZERO
from figures.style import canvas, plain_log, points, series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

FAMILIES = {
    "attention": r"^attention\.(q|k|v|o)$",
    "cross-attention": r"^cross_attention\.(q|k|v|o)$",
    "feed-forward": r"^ffn\.(up|gate|down)$",
    "norms and factors": r"norm|gain|head_scale",
}
"""Which modules share a plot; the others have one row each and stand in the ratio plot alone."""
PANEL, WIDE = (4.2, 2.9), (8.6, 3.0)
MIDDLE = 1.959963984540054  # quantile of the band


def family(module: str) -> tuple[str, str]:
    """Sort a module into a plot.

    Args:
        module: Name in the architecture.

    Returns:
        The stack (``"encoder"``, ``"decoder"`` or nothing) and the family, empty for those without a plot.

    Example:
        >>> family("decoder.attention.q"), family("embedding")
        (('decoder', 'attention'), ('', ''))
    """
    match = re.match(r"(encoder|decoder)\.", module)
    stack = match[1] if match else ""
    own = module.removeprefix(f"{stack}.") if stack else module
    return stack, next((name for name, pattern in FAMILIES.items() if re.search(pattern, own)), "")


def panels(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Group the rows of an audit into plots over layers.

    Args:
        df: The table of an audit.

    Returns:
        Title and rows of every plot that has something to draw.
    """
    rows = df[~df.flag.isin([ZERO, UNPREDICTED]) & (df.grad_sq_hat > 0) & np.isfinite(df.ratio)]
    stack, name = zip(*rows.module.map(family), strict=True) if len(rows) else ((), ())
    rows = rows.assign(stack=list(stack), family=list(name))
    found = []
    for (stack_name, role, title), group in rows[rows.family != ""].groupby(
        ["stack", "role", "family"], sort=False
    ):
        words = [
            word for word in (stack_name, f"{title},", "weights" if role == "weight" else "biases") if word
        ]
        found.append((" ".join(words), group))
    return found


def by_layer(rows: pd.DataFrame, title: str) -> Figure:
    """Draw predicted and measured mean square gradient norms by layer.

    Args:
        rows: One family of an audit's table.
        title: Of the plot.

    Returns:
        The figure: lines are predictions, shades the band of 95 % of single models, points measurements with
        their 95 % intervals.
    """
    figure, axes = canvas(1, 1, *PANEL)
    ax = axes[0, 0]
    for which, (module, group) in enumerate(rows.sort_values("layer").groupby("module", sort=False)):
        colour = series(which)["color"]
        ax.plot(group.layer, group.grad_sq, color=colour)
        ax.fill_between(group.layer, group.grad_sq_low, group.grad_sq_high, color=colour, alpha=0.1, lw=0)
        spread = np.exp(MIDDLE * group.grad_sq_hat_se / group.grad_sq_hat)
        label = str(module).removeprefix("encoder.").removeprefix("decoder.")
        points(
            ax,
            group.layer,
            group.grad_sq_hat / spread,
            group.grad_sq_hat,
            group.grad_sq_hat * spread,
            which,
            label,
        )
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("mean square gradient norm")
    ax.set_title(title)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(ncols=2)
    return figure


def ratios(df: pd.DataFrame, tolerance: float) -> Figure:
    """Draw measured / predicted of every tensor, in order of depth, against the tolerance.

    Args:
        df: The table of an audit.
        tolerance: Its tolerance.

    Returns:
        The figure.
    """
    figure, axes = canvas(1, 1, *WIDE)
    ax = axes[0, 0]
    rows = df[~df.flag.isin([ZERO, UNPREDICTED]) & np.isfinite(df.ratio)].reset_index(drop=True)
    ax.axhspan(
        1 / (1 + tolerance), 1 + tolerance, color="0.88", zorder=0, label=f"tolerance {percent(tolerance)}"
    )
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    off = rows.flag == DISAGREES
    for which, chosen, label in ((2, ~off, "tensor, 95 % interval"), (1, off, "disagrees")):
        group = rows[chosen]
        if len(group):
            points(ax, group.index, group.ratio_low, group.ratio, group.ratio_high, which, label)
    if off.any():
        worst = rows[off].iloc[int(np.argmax(np.abs(np.log(rows[off].ratio))))]
        right = float(worst.name) > len(rows) / 2  # write towards the middle
        ax.annotate(
            str(worst.parameter),
            (float(worst.name), float(worst.ratio)),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=8,
        )
    edges = np.flatnonzero(rows.layer.diff().fillna(0) != 0)
    for edge in edges:
        ax.axvline(edge - 0.5, color="0.85", lw=0.6, zorder=0)
    starts = [0, *edges]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, [*edges, len(rows)], strict=True)]
    step = max(1, len(middles) // 16)
    ax.set_xticks(middles[::step], [str(rows.layer[start]) for start in starts[::step]] if len(rows) else [])
    ax.grid(axis="x", visible=False)
    plain_log(ax, "y")
    ax.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    low, high = rows.ratio_low.min(), rows.ratio_high.max()
    if len(rows) and high / low < 4:
        ax.set_yscale("linear")
    ax.set_xlabel("layer")
    ax.set_ylabel("measured / predicted")
    ax.legend(ncols=3, loc="best")
    return figure


def coverage(df: pd.DataFrame, values: NDArray[np.float64]) -> Figure:
    """Draw where single models lie in their predicted distribution, beside where they should.

        u = (log ||g||^2 - middle of the band) / (its half width / 1.96)

    Args:
        df: The table of an audit.
        values: Its single square gradient norms, (seeds, rows).

    Returns:
        The figure.
    """
    figure, axes = canvas(1, 1, *PANEL)
    ax = axes[0, 0]
    compared = (~df.flag.isin([ZERO, UNPREDICTED]) & np.isfinite(df.ratio) & (df.grad_sq_low > 0)).to_numpy()
    low, high = np.log(df.grad_sq_low[compared].to_numpy()), np.log(df.grad_sq_high[compared].to_numpy())
    width = np.where(high > low, (high - low) / (2 * MIDDLE), np.nan)
    with np.errstate(divide="ignore"):
        u = ((np.log(values[:, compared]) - (low + high) / 2) / width).ravel()
    edges = np.linspace(-5, 5, 41)
    u = np.clip(u[~np.isnan(u)], -4.99, 4.99)
    ax.axvspan(-MIDDLE, MIDDLE, color="0.92", zorder=0, label="95 % band")
    if len(u):
        ax.hist(u, edges, density=True, color=series(6)["color"], label="single models")
    x = np.linspace(-5, 5, 201)
    ax.plot(x, norm.pdf(x), label="predicted")
    ax.set_xlabel("standard deviations from the middle of the band")
    ax.set_ylabel("density")
    ax.set_title("all tensors of all seeds")
    ax.legend()
    return figure


def as_svg(figure: Figure, name: str, label: str) -> str:
    """Draw a figure as an element of a page.

    Args:
        figure: The figure.
        name: Goes before its identifiers, which are then unique on the page.
        label: What it shows, for those who do not see it.

    Returns:
        The element; equal figures give equal texts.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "audit"}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(label)}">{rest.strip()}'
