"""The four ways to print derivations: for the terminal, LaTeX, Markdown and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

from meanfield.claims import LEDGER, Derivation
from meanfield.symbolic.plain import plain, plain_text

Derivations: TypeAlias = Mapping[str, Derivation]

MAX_COLUMNS = 100
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "^": r"\^{}", "&": r"\&", "%": r"\%",
    "#": r"\#", "<": "$<$", ">": "$>$", "|": "$|$", "*": "$*$",
}  # fmt: skip


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:.6g}"


def as_text(claims: Derivations) -> str:
    """Write derivations for a terminal, at most 100 columns wide.

    Args:
        claims: Derivations by claim id.

    Returns:
        The text, coloured where the standard output is a terminal.
    """
    from rich.console import Console  # only the terminal needs rich, and `--format json` starts faster
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(console.width, MAX_COLUMNS)
    colours = {"holds": "green", "holds_loosely": "yellow", "holds_under": "yellow", "fails": "red"}
    with console.capture() as capture:
        for name, derivation in claims.items():
            claim = LEDGER[name]
            title = Text.assemble(
                (name, "bold"), "  ", (_words(derivation.verdict), colours[derivation.verdict])
            )
            console.print(Rule(title, align="left"))
            console.print(Text(plain_text(claim.statement)))
            console.print(Text(claim.source, style="dim"))
            # Two columns give formulas that wrap a hanging indent.
            given = Table.grid(padding=(0, 1))
            for assumption in claim.assumptions:
                given.add_row(" ·", Text(plain_text(assumption), style="dim"))
            steps = Table.grid(padding=(0, 1))
            for k, step in enumerate(derivation.steps, start=1):
                mark = Text.assemble(" ", ("✓", "green") if step.holds else ("✗", "bold red"), f" {k:>2}.")
                steps.add_row(
                    mark, Text.assemble(plain(step.latex), "\n", (plain_text(step.check), "dim"), "\n")
                )
            end = Table.grid(padding=(0, 1))
            end.add_row(Text(" result", "bold"), plain(derivation.result))
            end.add_row(Text(" condition", "bold"), plain_text(derivation.condition))
            for key, value in derivation.numbers.items():
                end.add_row("", Text(f"{key:<34} {_number(value)}"))
            console.print(given, "", steps, end, "", sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))


def _tex(text: str) -> str:
    """Return words with formulas as LaTeX text: characters special to LaTeX are escaped outside formulas."""
    parts = text.split("$")
    escaped = [
        f"${part}$" if k % 2 else "".join(_ESCAPES.get(c, c) for c in part) for k, part in enumerate(parts)
    ]
    return "".join(escaped)


def as_latex(claims: Derivations) -> str:
    """Write derivations as a LaTeX fragment that needs no package but amsmath.

    Args:
        claims: Derivations by claim id.

    Returns:
        The fragment.
    """
    lines: list[str] = []
    for name, derivation in claims.items():
        claim = LEDGER[name]
        lines += [
            rf"\subsection*{{\texttt{{{_tex(name)}}}: {_words(derivation.verdict)}}}",
            f"{_tex(claim.statement)} ({_tex(claim.source)})",
        ]
        lines += [rf"\emph{{Assumes:}} {_tex('; '.join(claim.assumptions))}.", r"\begin{enumerate}"]
        for step in derivation.steps:
            failed = "" if step.holds else r" \textbf{The check failed.}"
            lines.append(rf"\item $\displaystyle {step.latex}$ \\ {{\small {_tex(step.check)}.{failed}}}")
        lines += [r"\end{enumerate}", r"\[", derivation.result, r"\]", _tex(derivation.condition) + "."]
        if derivation.numbers:
            rows = [rf"{_tex(key)} & {_number(value)} \\" for key, value in derivation.numbers.items()]
            lines += ["", r"\begin{tabular}{lr}", *rows, r"\end{tabular}"]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def _markdown(text: str) -> str:
    """Return a text whose formulas survive Markdown, which eats a backslash before punctuation."""
    for mark, name in (("|", "Vert"), ("{", "lbrace"), ("}", "rbrace"), (" ", "space")):
        # A closing dollar sign must not follow a space, so a space only goes where letters follow.
        text = re.sub(rf"\\{re.escape(mark)}(?=[A-Za-z])", rf"\\{name} ", text)
        text = re.sub(rf"\\{re.escape(mark)}", rf"\\{name}", text)
    return text


def as_markdown(claims: Derivations) -> str:
    """Write derivations as Markdown with formulas between dollar signs.

    Args:
        claims: Derivations by claim id.

    Returns:
        The text.
    """
    lines: list[str] = []
    for name, derivation in claims.items():
        claim = LEDGER[name]
        lines += [
            f"## `{name}`: {_words(derivation.verdict)}",
            "",
            f"{_markdown(claim.statement)} ({claim.source})",
            "",
            "Assumes:",
            "",
        ]
        lines += [f"- {_markdown(assumption)}" for assumption in claim.assumptions]
        lines.append("")
        for k, step in enumerate(derivation.steps, start=1):
            failed = "" if step.holds else " **The check failed.**"
            lines += [f"{k}. ${_markdown(step.latex)}$", f"   <br>*{_markdown(step.check)}*{failed}"]
        lines += ["", f"**Result.** ${_markdown(derivation.result)}$", ""]
        lines += [f"**Condition.** {_markdown(derivation.condition)}", ""]
        if derivation.numbers:
            lines += ["| number | value |", "|---|---|"]
            lines += [f"| `{key}` | {_number(value)} |" for key, value in derivation.numbers.items()]
            lines.append("")
    return "\n".join(lines).rstrip("\n")


def as_json(claims: Derivations) -> str:
    """Write derivations as strict JSON.

    Args:
        claims: Derivations by claim id.

    Returns:
        One JSON object with the key ``claims``.
    """
    records = [
        {
            "id": name,
            "statement": LEDGER[name].statement,
            "assumptions": list(LEDGER[name].assumptions),
            "steps": [{"latex": s.latex, "check": s.check, "holds": s.holds} for s in derivation.steps],
            "result": derivation.result,
            "verdict": derivation.verdict,
            "condition": derivation.condition,
            "numbers": dict(derivation.numbers),
        }
        for name, derivation in claims.items()
    ]
    return json.dumps({"claims": records}, indent=2, allow_nan=False)


FORMATS = {"text": as_text, "latex": as_latex, "markdown": as_markdown, "json": as_json}
