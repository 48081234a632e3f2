"""`python -m figures`: measure, compare, draw every figure and decide every claim."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from empirical.device import DEVICES, torch_device
from empirical.store import STALE_SECONDS
from figures import (
    concentration,
    first_update,
    gradient_after_warmup,
    gradient_by_depth,
    gradient_by_layer,
    hidden_state_growth,
    learning_rate_grid,
    norm_jacobian,
    paper_model,
    steps_to_loss,
    theorem1,
    token_correlation,
    training_curves,
    verdicts,
)
from figures.criteria.finding import Tables
from figures.lab import Lab
from figures.presets import PRESETS, TRAINING
from figures.sources import Initialisation, Source, Training
from figures.style import checksum, save, style
from meanfield.claims import Setting
from meanfield.cli import Parser, run
from meanfield.errors import InputError, UnknownNameError

FIGURES: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        gradient_by_layer,
        gradient_by_depth,
        hidden_state_growth,
        norm_jacobian,
        theorem1,
        token_correlation,
        concentration,
        paper_model,
    )
}
TRAINED: dict[str, ModuleType] = {
    module.NAME: module
    for module in (training_curves, learning_rate_grid, gradient_after_warmup, steps_to_loss, first_update)
}
PROG = "python -m figures"
ONLY = f"some of: {', '.join(FIGURES)}; after training (warmup, ...): {', '.join(TRAINED)}"
DRAWING, DERIVING = 2e8, 8e8  # in the units of Cell.seed_cost: about 1.5 s and 5 s


def parser() -> Parser:
    """Build the parser of the command line.

    Returns:
        The parser.
    """
    made = Parser(prog=PROG, description="Regenerate the figures and the verdict table.")
    made.add_argument(
        "--preset", default="quick", help=f"{', '.join([*PRESETS, *TRAINING])} (default: quick)"
    )
    made.add_argument("--only", nargs="+", metavar="NAME", help=ONLY)
    made.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)} (default: auto)")
    made.add_argument("--out", type=_folder, help="folder for everything (default: results/PRESET)")
    made.add_argument("--force", action="store_true", help="measure again what is there already")
    made.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    return made


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("'' is no folder: give a path, or leave --out away")
    return Path(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line, ``sys.argv`` if None.

    Returns:
        0, or 1 when theory and measurement disagree.

    Raises:
        UnknownNameError: If a preset or figure has no such name.
        InputError: If a figure that was asked for has nothing to show.
    """
    options = parser().parse_args(arguments)
    if options.preset not in (*PRESETS, *TRAINING):
        raise UnknownNameError("preset", options.preset, [*PRESETS, *TRAINING])
    figures = FIGURES if options.preset in PRESETS else TRAINED
    for name in options.only or ():
        if name not in figures:
            raise UnknownNameError("figure", name, figures)
    device = torch_device(options.device).type
    out = options.out or Path("results") / options.preset
    _prepare(out)
    names = list(dict.fromkeys(options.only or figures))
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        task = progress.add_task("training" if figures is TRAINED else "", total=None)
        source = _source(options, out / "tables", device, lambda done: progress.advance(task, done))
        progress.update(task, total=source.work(names) + len(names) * DRAWING + DERIVING)
        source.prepare()
        for name in names:
            progress.update(task, description=name)
            tables = source.tables(name)
            if tables:
                with style():
                    save(figures[name].draw(tables), tables, out, name)
                console.print(f"{out / name}.png", highlight=False, soft_wrap=True)
            elif options.only:
                raise InputError(f"figure {name!r} has nothing to show: these runs lack what it compares")
            else:
                for left in out.glob(f"{name}.*"):  # of other runs: no verdict may rest on them
                    left.unlink()
                console.print(f"{name}: nothing to show, these runs lack what it compares", highlight=False)
            progress.advance(task, DRAWING)
        progress.update(task, description="verdicts")
        available = {name: tables for name in (*FIGURES, *TRAINED) if (tables := read(out, name))}
        report = verdicts.verdicts(available, _setting(options.preset))
        verdicts.write(report, out)
        progress.advance(task, DERIVING)
    if options.json:
        sys.stdout.write(json.dumps(report, indent=1, allow_nan=False) + "\n")
    else:
        _show(report, out)
    return int(verdicts.disagrees(report))


def _source(
    options: argparse.Namespace, folder: Path, device: str, advance: Callable[[float], None]
) -> Source:
    if options.preset in PRESETS:
        return Initialisation(FIGURES, PRESETS[options.preset], Lab(folder, device, options.force, advance))
    return Training(TRAINED, TRAINING[options.preset], folder, device, options.force, advance)


def _setting(preset: str) -> Setting:
    if preset in TRAINING:  # theory decides nothing about training: its own sizes
        return Setting()
    sizes = PRESETS[preset]
    return Setting(width=sizes.width, depth=min(sizes.depths), tokens=sizes.tokens)


def read(out: Path, name: str) -> Tables:
    """Read the tables of a figure, as they lie beside it.

    Args:
        out: The folder.
        name: The figure.

    Returns:
        Table name to table; empty where the figure has not been made.

    Raises:
        InputError: If a table is not as it was written, or missing.
    """
    contents = {path.name: path.read_bytes() for path in out.glob(f"{name}.*.csv")}
    sums = out / f"{name}.sha256"
    written = set(sums.read_text(errors="replace").splitlines()) if sums.exists() else set()
    odd = written ^ {checksum(*item) for item in contents.items()}
    if odd:
        file = min(line.partition("  ")[2] for line in odd)
        raise InputError(f"table {out / file} is not as it was written: make it again with --only {name}")
    return {file.split(".")[1]: pd.read_csv(io.BytesIO(contents[file])) for file in sorted(contents)}


def _prepare(out: Path) -> None:
    try:
        (out / "tables").mkdir(parents=True, exist_ok=True)
        for left in out.glob(".*.part"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:  # of a killed run
                left.unlink()
        refused = not all(os.access(folder, os.W_OK | os.X_OK) for folder in (out, out / "tables"))
    except OSError as error:
        raise InputError(f"out={out}: {error.strerror}; give a folder that can be written") from None
    if refused:
        raise InputError(f"out={out} cannot be written: give a folder that can be written")


def _show(report: Mapping[str, Any], out: Path) -> None:
    table = Table("claim", "theory", "measured", "value [95 %]", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.overflow = "fold"
    for claim in report["claims"]:
        table.add_row(claim["id"], claim["theory"], claim["measured"], verdicts.value(claim))
    console = Console()
    console.print(table)
    for claim in report["claims"]:
        if claim["theory_steps_hold"] is False:
            console.print(f"{claim['id']}: a step of the derivation does not hold; see meanfield.derive")
    if report["agreement"]:
        console.print(verdicts.summary(report["agreement"]), highlight=False)
    console.print(f"{out / 'verdicts.md'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run(PROG, main)
