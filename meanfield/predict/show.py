"""A prediction as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from meanfield.answers import by_layer
from meanfield.errors import InputError
from meanfield.predict.table import Prediction

if TYPE_CHECKING:
    import pandas as pd

HEIGHT = 64  # rows of parameters that a terminal gets without --layers
LAYERS = 32  # rows of the summary
BAR = 30

Keep: TypeAlias = "tuple[int, int] | None"
"""First and last layer of the parameters to show; None for as many as fit."""


def number(value: float) -> str:
    """Format a value with four significant digits, aligned on no column of its own.

    Args:
        value: The value.

    Returns:
        The text.

    Example:
        >>> number(12.345678), number(0.0), number(1.5e-7)
        ('12.35', '0', '1.500e-07')
    """
    if value == 0:
        return "0"
    return f"{value:#.4g}".rstrip(".") if 1e-4 <= abs(value) < 1e6 else f"{value:.3e}"


def shown_layers(df: pd.DataFrame, keep: Keep, height: int = HEIGHT) -> list[int]:
    """Choose the layers whose parameters are shown: all, those asked for, or the first and last that fit.

    Args:
        df: The table of parameters.
        keep: First and last layer asked for, or None.
        height: Rows that fit.

    Returns:
        Layers, ascending; whole ones, at least the first and the last.

    Raises:
        InputError: If none of the layers asked for is there.
    """
    rows = df.groupby("layer").size()
    layers = [int(layer) for layer in rows.index]
    if keep is not None:
        shown = [layer for layer in layers if keep[0] <= layer <= keep[1]]
        if not shown:
            raise InputError(
                f"--layers {keep[0]}-{keep[1]} has no parameters: give some of {layers[0]}-{layers[-1]}"
            )
        return shown
    chosen = {layers[0], layers[-1]}
    left = height - int(rows[list(chosen)].sum())
    for pair in zip(layers[1:], reversed(layers[1:-1]), strict=False):  # from both ends inwards
        for layer in pair:
            if layer not in chosen and rows[layer] <= left:
                chosen.add(layer)
                left -= int(rows[layer])
    return sorted(chosen)


def _runs(layers: list[int]) -> list[str]:
    """Write runs of consecutive layers: 3-10, 12."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]


def parameter_table(df: pd.DataFrame, keep: Keep = None, width: int = 80) -> RenderableType:
    """Lay out one row per parameter, and say what was left out.

    Args:
        df: The table of a `Prediction`.
        keep: First and last layer to show, or None for as many as fit.
        width: Columns of the terminal.

    Returns:
        The table, with a note below it where layers are missing.
    """
    sampled = "grad_sq_sd" in df
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("layer", justify="right")
    table.add_column("module", no_wrap=True)
    table.add_column("parameter")
    table.add_column("grad norm", justify="right")
    if sampled:
        table.add_column("± s.e.", justify="right")
        table.add_column("95 % of seeds", justify="right")
    else:
        table.add_column("")
    largest = float(df.grad_norm.max()) or 1.0
    room = min(BAR, width - 36 - max((len(name) for name in df.module), default=0))
    shown = shown_layers(df, keep)
    previous = None
    for row in without_noise(df[df.layer.isin(shown)]).to_dict("records"):
        if previous is not None and row["layer"] != previous:
            table.add_section()
        previous = row["layer"]
        cells = [str(row["layer"]), str(row["module"]), str(row["parameter"]), number(row["grad_norm"])]
        if sampled:
            error = row["grad_sq_se"] / (2 * row["grad_norm"]) if row["grad_norm"] else 0.0
            low, high = (max(0.0, row[f"grad_sq_{end}"]) ** 0.5 for end in ("low", "high"))
            cells += [number(error), f"{number(low)} … {number(high)}"]
        else:
            cells.append(_bar(row["grad_norm"] / largest, room))
        table.add_row(*cells)
    missing = [int(layer) for layer in df.layer.unique() if layer not in shown]
    if keep is not None or not missing:
        return table
    runs = _runs(missing)
    note = f"Layers {', '.join(runs)} left out: --layers {runs[0]} shows them, --layers all shows every one."
    return Group(table, Text(note, style="dim"))


def layer_table(df: pd.DataFrame) -> RenderableType:
    """Lay out the gradient norm of each layer, all its parameters together, with a bar.

    Args:
        df: The table of a `Prediction`.

    Returns:
        The table; of deep models every k-th layer.
    """
    layers = by_layer(df)
    largest = float(layers.grad_norm.max()) or 1.0
    step = -(-len(layers) // LAYERS)
    several = layers["stack"].nunique() > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    if several:
        table.add_column("stack")
    table.add_column("layer", justify="right")
    table.add_column("grad norm", justify="right")
    table.add_column("")
    names = {0: "embedding", int(df.depth.iloc[0]) + 1: "after the last"} if len(df) else {}
    for k, row in enumerate(layers.to_dict("records")):
        if k % step and k != len(layers) - 1:
            continue
        label = names.get(row["layer"], "")
        bar = _bar(row["grad_norm"] / largest, BAR)
        cells = [str(row["layer"]), number(row["grad_norm"]), f"{bar} {label}".strip()]
        table.add_row(*([row["stack"]] if several else []), *cells)
    return table


def without_noise(df: pd.DataFrame) -> pd.DataFrame:
    """Set to 0 what is rounding error: a drawn key bias has 1e-17 where theory has 0.

    Args:
        df: The table of a `Prediction`.

    Returns:
        The table; without samples it is as it was.
    """
    if "grad_sq_sd" not in df:
        return df
    values = [name for name in df if str(name).startswith("grad_")]
    noise = df.grad_norm < 1e-13 * df.groupby("layer").grad_norm.transform("max")
    return df.assign(**{str(name): df[name].mask(noise, 0.0) for name in values})


def _bar(share: float, room: int) -> str:
    return "█" * max(1, round(room * share)) if share > 0 and room > 0 else ""


def as_table(prediction: Prediction, keep: Keep = None, console: Console | None = None) -> str:
    """Render a prediction for a terminal: what it is of, every parameter, and the layers.

    Args:
        prediction: The prediction.
        keep: First and last layer of the parameters to show, or None for as many as fit.
        console: Where it will be printed, for its width, colours and encoding.

    Returns:
        The text, ready to be written.
    """
    console = console or Console(width=80, color_system=None)
    df = prediction.df
    given = prediction.configuration
    what = ", ".join(f"{key} {value}" for key, value in given.items() if key not in ("arch", "placement"))
    total = float(df.grad_sq.sum()) ** 0.5
    layers = by_layer(df)
    inner = layers[(layers.layer > 0) & (layers.layer <= int(given["depth"]))].grad_norm
    ratio = f"{inner.max() / inner.min():.3g}" if float(inner.min()) > 0 else "infinite"
    drawn = len(next(iter(prediction.samples.values()), ()))
    samples = f"at this width, from {drawn} random models" if drawn else "limit of infinite width"
    error = prediction.sampling_error
    with console.capture() as capture:
        console.print(Text(str(given["arch"]), style="bold"))
        console.print(what, highlight=False)
        console.print()
        console.print(f"Gradient norm of each parameter ({samples}):", highlight=False)
        console.print()
        console.print(parameter_table(df, keep, console.width))
        console.print()
        console.print("Gradient norm of each layer, all its parameters together:", highlight=False)
        console.print()
        console.print(layer_table(df))
        console.print()
        console.print(
            f"All parameters: {number(total)}. Largest layer / smallest layer: {ratio}.", highlight=False
        )
        if error:
            console.print(
                f"Averages over attention scores were drawn: relative standard error up to {error:.1e}.",
                highlight=False,
            )
    text = capture.get()
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
