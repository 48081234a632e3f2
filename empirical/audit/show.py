"""An audit as a table for a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirical.audit.audit import Audit
from empirical.audit.statistics import DISAGREES, STANDARD_ERRORS, UNLIKELY, ZERO
from empirical.store import environment
from meanfield.predict.show import number, shown_layers

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 100
HEIGHT = 128  # rows of the table, where layers are left out
WORST = 10  # rows that are named below the table
COLOURS = {DISAGREES: "bold red", UNLIKELY: "yellow", ZERO: "dim"}


def percent(share: float) -> str:
    """Write a share in per cent, with two significant digits.

    Args:
        share: The share.

    Returns:
        The text.

    Example:
        >>> percent(0.0123), percent(0.4), percent(float("nan"))
        ('1.2 %', '40 %', '-')
    """
    if math.isnan(share):
        return "-"
    return f"{100 * share:.2g} %" if abs(share) < 0.995 else f"{100 * share:.0f} %"


def ratio_text(row: Mapping[Any, Any]) -> tuple[str, str]:
    """Write a ratio and its interval; those of exact zeros say nothing.

    Args:
        row: A row of an audit's table.

    Returns:
        Two texts.

    Example:
        >>> ratio_text({"flag": "agrees", "ratio": 1.0142, "ratio_low": 0.99, "ratio_high": 1.04})
        ('1.014', '0.990 … 1.040')
    """
    if row["flag"] == ZERO or math.isnan(row["ratio"]):
        return "", ""
    if math.isinf(row["ratio"]):
        return "inf", ""
    one, low, high = (
        f"{row[name]:.3f}" if row[name] < 1000 else f"{row[name]:.1e}"
        for name in ("ratio", "ratio_low", "ratio_high")
    )
    return one, f"{low} … {high}"


def finding(row: Mapping[Any, Any]) -> str:
    """Say how far off a tensor is.

    Args:
        row: A row of an audit's table.

    Returns:
        The text.

    Example:
        >>> finding({"flag": "DISAGREES", "ratio": 1.9, "ratio_low": 1.8, "ratio_high": 2.0})
        'ratio 1.900 (1.800 … 2.000), DISAGREES'
    """
    one, interval = ratio_text(row)
    return f"ratio {one} ({interval}), {row['flag']}" if interval else f"ratio {one}, {row['flag']}"


def _table(audit: Audit) -> tuple[Table, list[int]]:
    """Lay out one row per tensor, by layer; return the layers that are left out too."""
    df: pd.DataFrame = audit.df
    looked_at = set(audit.worst.layer)
    shown = set(shown_layers(df, None, HEIGHT)) | looked_at
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", justify="right")
    table.add_column("parameter")
    for name in ("predicted", "measured", "ratio", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    previous = None
    for row in df[df.layer.isin(shown)].to_dict("records"):
        place = (str(row["module"]).startswith("decoder."), row["layer"])
        if previous not in (None, place):
            table.add_section()
        previous = place
        kind = f"{row['module']} {row['role']}".strip() or str(row["parameter"])
        exact = row["flag"] == ZERO
        table.add_row(
            str(row["layer"]) if row["layer"] >= 0 else "",
            kind,
            "" if math.isnan(row["grad_sq"]) else number(row["grad_sq"]),
            number(0.0 if exact else row["grad_sq_hat"]),
            *ratio_text(row),
            str(row["flag"]),
            style=COLOURS.get(str(row["flag"])),
        )
    return table, sorted(set(df.layer) - shown)


def _more(count: int) -> str:
    return f"{count} more {'is' if count == 1 else 'are'}"


def summary(audit: Audit) -> list[str]:
    """Say in sentences how well predictions and measurements agree.

    Args:
        audit: The audit.

    Returns:
        The sentences; the last one is the verdict.
    """
    found, given = audit.score, audit.configuration
    rest = found.tensors - found.within - found.disagree
    counts = [
        f"{found.within} of {found.tensors} tensors are within {percent(given['tolerance'])} or "
        f"{STANDARD_ERRORS:.0f} standard errors"
    ]
    counts += [f"{rest} not, but within chance"] if rest else []
    counts += [f"{found.disagree} disagree{'s' * (found.disagree == 1)}"] if found.disagree else []
    counts += [f"{_more(found.zeros)} exactly zero"] if found.zeros else []
    counts += [f"{_more(found.unpredicted)} not predicted"] if found.unpredicted else []
    lines = [
        "; ".join(counts) + ".",
        f"|ratio - 1|: median {percent(found.median)}, largest {percent(found.largest)}; standard error of "
        f"a ratio: median {percent(found.error)}. Single seeds in their 95 % band: "
        f"{100 * found.coverage:.1f} %.",
    ]
    if found.detectable > given["tolerance"]:
        lines.append(
            f"With {given['seeds']} seeds and {given['samples']} samples, a typical tensor has to be "
            f"{percent(found.detectable)} off to be told from chance; more of both find smaller faults."
        )
    if audit.agrees:
        verdict = "Theory and measurement agree."
    else:
        tensors = "tensor" if found.disagree == 1 else "tensors"
        verdict = (
            f"Theory and measurement DISAGREE in {found.disagree} {tensors}, most in "
            f"{audit.worst.parameter.iloc[0]}."
        )
    return [*lines, verdict]


def as_table(audit: Audit, console: Console | None = None) -> str:
    """Render an audit for a terminal: what it is of, every tensor, notes, the worst rows, the verdict.

    Args:
        audit: The audit.
        console: Where it will be printed, for its width, colours and encoding.

    Returns:
        The text, ready to be written.
    """
    console = console or Console(width=WIDTH, color_system=None)
    given = audit.configuration
    what = ", ".join(f"{key} {value}" for key, value in given.items() if key not in ("module", "tolerance"))
    table, missing = _table(audit)

    def say(text: str, style: str | None = None) -> None:
        console.print(Text(text, style=style or ""))

    with console.capture() as capture:
        say(str(given["module"]), "bold")
        say(what)
        say("")
        say("Mean square gradient norm of each tensor, ratio = measured / predicted:")
        say("")
        console.print(table)
        if missing:
            names = (
                f"Layer {missing[0]} is"
                if len(missing) == 1
                else f"Layers {', '.join(map(str, missing))} are"
            )
            say(f"{names} left out here: --json and --html have every tensor.", "dim")
        if audit.notes:
            say("")
            say("Notes:")
            for note in audit.notes:
                say(f"- {note}")
        worst = audit.worst
        if len(worst):
            say("")
            say("To look at, the furthest off first:")
            for row in worst.head(WORST).to_dict("records"):
                say(f"- {row['parameter']}: {finding(row)}", COLOURS.get(row["flag"]))
            if len(worst) > WORST:
                say(f"- and {len(worst) - WORST} more")
        say("")
        for line in summary(audit):
            say(line)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def as_json(audit: Audit) -> str:
    """Render an audit as JSON.

    Args:
        audit: The audit.

    Returns:
        ``agrees``, ``configuration``, ``score``, ``notes``, ``environment`` and ``parameters``; null stands
        for what is not finite.
    """
    found = {
        "agrees": audit.agrees,
        "configuration": audit.configuration,
        "score": _finite(dataclasses.asdict(audit.score)),
        "notes": list(audit.notes),
        "environment": environment(),
        "parameters": [_finite(row) for row in audit.df.to_dict("records")],
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _finite(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
