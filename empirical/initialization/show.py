"""A check as tables for a terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from empirical.initialization.finding import runs
from empirical.initialization.items import places

if TYPE_CHECKING:
    from empirical.initialization.report import InitializationCheck, Row

WIDTH = 120


def layout(check: InitializationCheck) -> RenderableType:
    """Lay a check out: what was tested, the tensors, the findings.

    Args:
        check: The check.

    Returns:
        The layout.
    """
    beside = f"beside {check.scheme}" if check.scheme else "beside each other"
    faults = (
        "no fault" if check.ok else f"{len(check.findings)} faults" if len(check.findings) > 1 else "1 fault"
    )
    title = Text(f"Initialisation of {len(check.rows)} tensors {beside}: {faults}", style="bold")
    tests = f"{check.tests} tests; at most {100 * check.level:g} % of right models fail one of them."
    if check.scheme:
        tests += " A ratio as large as the column “shows” is found with 95 %."
    parts: list[RenderableType] = [title, Text(tests), Text(), tensors(check)]
    for heading, found in (("Faults", check.findings), ("Notes", check.notes)):
        if found:
            parts += [Text(), Text(heading, style="bold")]
            parts += [Text(f"• {finding}") for finding in found]
    return Lines(*parts)


@dataclass(frozen=True)
class Group:
    """Tensors of one role with the same law and the same findings: one line.

    Args:
        role: Their name, ``*`` for the number of the layer.
        rows: The tensors.
    """

    role: str
    rows: list[Row]

    def span(self, name: str, digits: str) -> str:
        """The smallest and the largest value of a column; empty where there is none."""
        values = [value for row in self.rows if not math.isnan(value := getattr(row, name))]
        if not values:
            return ""
        low, high = format(min(values), digits), format(max(values), digits)
        return low if low == high else f"{low} … {high}"


def groups(rows: tuple[Row, ...]) -> list[Group]:
    """Collect tensors that need but one line.

    Args:
        rows: All tensors.

    Returns:
        The lines, in the order in which their first tensors stand.
    """
    where = places({row.name.partition("[")[0] for row in rows})
    found: dict[object, Group] = {}
    for row in rows:
        name, bracket, part = row.name.partition("[")
        role = where[name].role + bracket + part
        law = row.law if row.law != "undecided" else ""
        key = role, row.entries, law, row.dtype, row.finding, row.mean_hat if row.law == "constant" else None
        found.setdefault(key, Group(role, [])).rows.append(row)
    return list(found.values())


def tensors(check: InitializationCheck) -> Table:
    """Lay out the tensors, those of one role and with the same findings on one line.

    Args:
        check: The check.

    Returns:
        The table; columns of the scheme only where there is one.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("tensor", overflow="fold")
    for name in ("layers", "entries", *(("expected", "ratio", "shows") if check.scheme else ("variance",))):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("law", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for group in groups(check.rows):
        row = group.rows[0]
        cells = [group.role, runs(r.layer for r in group.rows if r.layer is not None), f"{row.entries:,}"]
        if check.scheme:
            wanted = "" if math.isnan(row.variance) else f"{row.variance:.4g}"
            cells += [wanted, group.span("ratio", ".3f"), group.span("detectable", ".3f")]
        else:
            cells.append(group.span("variance_hat", ".4g"))
        cells += [f"= {row.mean_hat:.4g}" if row.law == "constant" else row.law, row.finding]
        table.add_row(*map(Text, cells), style="bold" if row.finding else "")
    return table


def as_text(check: InitializationCheck) -> str:
    """Render a check as plain text.

    Args:
        check: The check.

    Returns:
        The text.
    """
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(layout(check), highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
