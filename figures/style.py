"""How every figure looks, and how a figure and its data reach the disk: whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from meanfield.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMN = 3.35  # inches, one column of a two-column journal
PAGE = 6.9

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PLACEMENT_TITLES = {"post_ln": "Post-LN", "pre_ln": "Pre-LN"}
OPTIMIZER_TITLES = {"adam": "Adam", "radam": "RAdam", "sgd": "SGD"}


def style() -> AbstractContextManager[None]:
    """The house style as a context in which figures are drawn and saved.

    Returns:
        A context manager that restores matplotlib's settings.
    """
    return matplotlib.style.context(Path(__file__).with_name("paper.mplstyle"))


def canvas(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """An empty figure with a grid of axes, apart from pyplot's global state.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Inches.
        height: Inches.
        options: Passed on to ``Figure.subplots``.

    Returns:
        The figure and its axes, always as a two-dimensional array.
    """
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def series(number: int) -> dict[str, str]:
    """Colour and marker of the k-th series: both differ, so that grey print stays readable.

    Args:
        number: Index of the series, from 0.

    Returns:
        Keyword arguments for matplotlib.
    """
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {"color": colours[number % len(colours)], "marker": MARKERS[number % len(MARKERS)]}


def plain_log(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 written as plain numbers.

    Args:
        axes: Where.
        which: ``"x"`` or ``"y"``.
    """
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def number(value: float) -> str:
    """Write a number with two decimals and a proper minus sign, without a negative zero.

    Args:
        value: The number.

    Returns:
        The text.

    Example:
        >>> number(-0.001), number(0.5)
        ('0.00', '0.50')
    """
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def span(values: Iterable[int]) -> str:
    """Write whole numbers as the one that they are, or as their range.

    Args:
        values: The numbers.

    Returns:
        The text.

    Example:
        >>> span([3, 3]), span([6, 3])
        ('3', '3 to 6')
    """
    low, *_, high = sorted([*values] * 2)
    return f"{low}" if low == high else f"{low} to {high}"


def points(axes: Axes, x: Any, low: Any, middle: Any, high: Any, which: int, label: str = "") -> None:
    """Draw measured points with their intervals.

    Args:
        axes: Where.
        x: Positions.
        low: Lower ends of the intervals.
        middle: The points.
        high: Upper ends.
        which: Index of the series.
        label: Legend entry; none when empty.
    """
    axes.errorbar(
        x,
        middle,
        yerr=[middle - low, high - middle],
        linestyle="none",
        elinewidth=0.7,
        markerfacecolor="white",
        markeredgewidth=0.9,
        label=label or None,
        **series(which),  # type: ignore[arg-type]  # keyword names are colour and marker alone
    )


def write_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files under temporary names first and rename them when all are complete.

    Args:
        folder: An existing folder.
        files: File name to content.

    Raises:
        InputError: If the folder cannot be written.
    """
    drafts = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in files}
    try:
        for draft, content in zip(drafts.values(), files.values(), strict=True):
            draft.write_bytes(content)
        for path, draft in drafts.items():
            Path(draft).replace(path)
    except OSError as error:
        raise InputError(
            f"out={folder}: {error.strerror}; give a folder that can be written and has room"
        ) from None
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def checksum(file: str, content: bytes) -> str:
    """Name a file and its SHA-256, as a line that ``sha256sum -c`` reads.

    Args:
        file: Name of the file.
        content: What is in it.

    Returns:
        The line.

    Example:
        >>> checksum("empty", b"")[:12], checksum("empty", b"")[-8:]
        ('e3b0c44298fc', '5  empty')
    """
    return f"{hashlib.sha256(content).hexdigest()}  {file}"


def save(figure: Figure, tables: Mapping[str, pd.DataFrame], folder: Path, name: str) -> None:
    """Save a figure as PNG and PDF with its tables as CSV beside it and their checksums in ``<name>.sha256``.

    Equal figures and tables give equal files: no date and no version goes in.

    Args:
        figure: The figure.
        tables: Table name to table; written as ``<name>.<table>.csv``, numbers to the last digit.
        folder: An existing folder.
        name: Stem of the file names.

    Raises:
        InputError: If the folder cannot be written.
    """
    files = {f"{name}.{key}.csv": table.to_csv(index=False).encode() for key, table in tables.items()}
    sums = [checksum(file, content) for file, content in files.items()]
    files[f"{name}.sha256"] = "".join(f"{line}\n" for line in sums).encode()
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        files[f"{name}.{suffix}"] = buffer.getvalue()
    write_whole(folder, files)


def against_theory(
    axes: Axes, x: Any, rows: pd.DataFrame, value: str, which: int, label: str, root: bool = False
) -> None:
    """Draw rows of a comparison table: theory as a line, measurement as points with intervals.

    Args:
        axes: Where.
        x: Positions.
        rows: Rows of `figures.compare.compare`.
        value: The compared quantity.
        which: Index of the series.
        label: Legend entry.
        root: Whether to draw the square root of the quantity.
    """
    power = 0.5 if root else 1.0
    expected = rows[value]
    low, high = ((expected * rows[f"ratio_{end}"]) ** power for end in ("low", "high"))
    axes.plot(x, expected**power, color=series(which)["color"])
    points(axes, x, low, rows[f"{value}_hat"] ** power, high, which, label)
