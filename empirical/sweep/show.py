"""What a person sees of a sweep: a bar while it runs, and tables of what it will cost."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from empirical.setting import SETTING_KEYS
from empirical.sweep.cell import Cell
from empirical.sweep.collection import Collection
from empirical.sweep.cost import Cost, varying
from empirical.sweep.driver import Report
from empirical.sweep.memory import human
from empirical.sweep.outcome import Outcome

ROWS = 40  # of a table on a terminal
WIDTH = 100  # of one elsewhere


class _Left(ProgressColumn):
    """Time left, from the share of the estimated work that is done: cells differ in size."""

    def render(self, task: Task) -> Text:
        end, elapsed = task.fields["end"], task.elapsed
        if end is None or elapsed is None:
            return Text("-:--:-- left", style="progress.remaining")
        return Text(f"{duration(max(0.0, end - elapsed))} left", style="progress.remaining")


@contextlib.contextmanager
def bar(cells: Sequence[Cell]) -> Iterator[Callable[[Cell, Outcome], None]]:
    """Show how far a sweep is on stderr; where that is no terminal, one line for each cell that fails.

    Args:
        cells: What is to be measured.

    Yields:
        What to call with each cell that is whole or has failed.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    columns = (
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[cells]} cells{task.fields[failed]}{task.fields[rate]}"),
        TimeElapsedColumn(),
        _Left(),
    )
    total, count, failures = sum(cell.work for cell in cells), 0, 0
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, cells=len(cells), done=0, failed="", rate="", end=None)

        def advance(cell: Cell, outcome: Outcome) -> None:
            nonlocal count, failures
            count += 1
            if outcome.error is not None:
                failures += 1
                console.print(Text(f"{outcome.name}: {outcome.error}"), style="red")
            progress.advance(task, cell.work)
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(
                task,
                done=count,
                failed=f", {failures} failed" if failures else "",
                rate=f", {_rate(count / elapsed)}" if elapsed else "",
                end=elapsed * total / done if (done := progress.tasks[0].completed) > total / 50 else None,
            )

        yield advance


def _line(cell: Cell, outcome: Outcome) -> None:
    if outcome.error is not None:
        sys.stderr.write(f"{outcome.name}: {outcome.error}\n")


def _rate(per_second: float) -> str:
    return f"{per_second:.1f} cells/s" if per_second >= 1 else f"{60 * per_second:.1f} cells/min"


def duration(seconds: float) -> str:
    """Write a time, to two units.

    Args:
        seconds: The time.

    Returns:
        The text.

    Example:
        >>> duration(0.4), duration(75), duration(7300), duration(200_000)
        ('0.4 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole, parts = round(seconds), []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if whole >= size:
            parts.append(f"{whole // size} {unit}")
            whole %= size
    return " ".join(parts[:2])


def plan(costs: Sequence[Cost], speed: Mapping[tuple[str, str], float], cells: int, at_once: int) -> None:
    """Print what the missing cells of a grid will cost.

    Args:
        costs: Those of each configuration.
        speed: Operations per second by method and device.
        cells: Cells of the grid.
        at_once: How many run at once here.
    """
    rows = [
        (
            named(cost.options),
            str(cost.cells),
            str(cost.seeds),
            f"{cost.flops:.1e}",
            "-" if cost.seconds is None else duration(cost.seconds),
            human(cost.memory),
        )
        for cost in costs
    ]
    console = _print(("cells", "seeds", "flop", "time", "memory"), rows)
    missing = sum(cost.cells for cost in costs)
    console.print(
        f"{cells} cells, {cells - missing} there already, {missing} to be measured", highlight=False
    )
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    if known:
        each, together = duration(sum(known)), duration(sum(known) / at_once)
        text = f"about {each} of one thread, {together} with {at_once} at once"
        console.print(text, highlight=False)
    for (method, device), rate in speed.items():
        text = f"{method} on {device}: {rate:.1e} flop/s, measured now on this machine, one thread"
        console.print(text, highlight=False)


def named(options: Mapping[str, Any]) -> str:
    """Name a configuration by what tells it from others.

    Args:
        options: Key -> value.

    Returns:
        The text; names need no key.

    Example:
        >>> named({"arch": "post_ln", "width": 8, "causal": True})
        'post_ln width=8 causal=true'
    """
    words = [
        str(value) if key in ("arch", "method") else f"{key}={_plain(value)}"
        for key, value in options.items()
        if value is not None
    ]
    return " ".join(words)


def _plain(value: Any) -> str:
    """Write a value as TOML has it, text without its quotes; those of a table are numpy's."""
    known = value.item() if hasattr(value, "item") else value
    return json.dumps(known, default=str).strip('"')


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Console:
    """Print a table whose first column names configurations; a terminal gets as much as a person reads."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    shown = rows[:ROWS] if console.is_terminal else rows
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("configuration")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(*row)
    if rows:
        console.print(table, highlight=False)
    if len(shown) < len(rows):
        console.print(f"... and {len(rows) - len(shown)} more configurations", highlight=False)
    return console


def as_text(report: Report) -> str:
    """Say what a run did.

    Args:
        report: What it did.

    Returns:
        One line, and one for each cell that failed.
    """
    parts = [f"{report.measured} measured", f"{report.there} there already", f"{len(report.failed)} failed"]
    lines = [f"{report.cells} cells in {report.folder}: {', '.join(parts)}"]
    lines += [f"  {name}: {error}" for name, error in report.failed.items()]
    return "\n".join(lines) + "\n"


def summary(found: Collection) -> dict[str, Any]:
    """Count what was collected.

    Args:
        found: What was collected.

    Returns:
        Name -> number, and the names of cells that failed.
    """
    return {
        "cells": found.cells,
        "configurations": int(found.samples["configuration"].nunique()),
        "rows": len(found.df),
        "failed": list(found.failed),
        "set_aside": found.damaged,
    }


def collection(found: Collection) -> None:
    """Print what was collected: one line per configuration.

    Args:
        found: What was collected.
    """
    groups = [group for _, group in found.df.groupby("configuration", sort=False)]
    firsts = [{key: group[key].iloc[0] for key in (*SETTING_KEYS, *found.own[1:])} for group in groups]
    names = [name for name in varying(firsts) if name != "placement"]
    rows = [
        (
            named({name: first[name] for name in names}),
            str(group["seeds"].iloc[0]),
            str(len(group)),
            f"{group['grad_sq_hat'].sum():.4g}",
        )
        for first, group in zip(firsts, groups, strict=True)
    ]
    console = _print(("seeds", "tensors", "sum of grad_sq_hat"), rows)
    counts = summary(found)
    text = f"{counts['cells']} cells, {counts['configurations']} configurations, {counts['rows']} rows"
    failed = f", {len(found.failed)} cells failed" if found.failed else ""
    aside = f", {found.damaged} files set aside" if found.damaged else ""
    console.print(text + failed + aside, highlight=False)
