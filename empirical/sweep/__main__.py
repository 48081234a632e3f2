"""`python -m empirical.sweep`: many cells, resumable, on this machine or a Ray cluster.

Exit status 0: all cells are there; 1: some failed, or are damaged; 2: bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from empirical import tables
from empirical.sweep import show
from empirical.sweep.arguments import PROG, collect_parser, run_parser
from empirical.sweep.cell import Cell
from empirical.sweep.collection import collect
from empirical.sweep.cost import costs, rates
from empirical.sweep.driver import Engine, cells_at_once, plan
from empirical.sweep.grid import load
from meanfield import cli
from meanfield.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Run or collect a sweep.

    Args:
        argv: Arguments; those of the process when left out.

    Returns:
        Exit status.
    """
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["collect"]:
        return _collect(collect_parser().parse_args(given[1:]))
    return _run(run_parser().parse_args(given))


def _run(args: argparse.Namespace) -> int:
    engine = Engine(args.engine, args.workers, args.address, args.gpus_per_cell)
    grid = load(Path(args.grid))
    if grid.merged:
        sys.stderr.write(f"{grid.merged} cells are in the grid more than once and count once\n")
    if args.dry_run:
        return _dry_run(grid.cells, Path(args.out), engine, args.json)
    found = plan(grid, Path(args.out), engine)
    with show.bar(found.missing) as advance:
        report = found.execute(advance)
    sys.stdout.write(_json(dataclasses.asdict(report)) if args.json else show.as_text(report))
    return int(bool(report.failed))


def _dry_run(cells: Sequence[Cell], out: Path, engine: Engine, as_json: bool) -> int:
    new = [cell for cell in cells if not cell.path(out).exists()]
    at_once = cells_at_once(new, engine)
    speed = rates(new)
    found = costs(new, speed)
    if as_json:
        rows = [{**dataclasses.asdict(cost)} for cost in found]
        sys.stdout.write(_json({"cells": len(cells), "there": len(cells) - len(new), "missing": rows}))
    else:
        show.plan(found, speed, len(cells), at_once)
    return 0


def _collect(args: argparse.Namespace) -> int:
    out = None if args.out is None else _table_target(args.out, Path(args.folder))
    found = collect(args.folder)
    table = found.samples if args.samples else found.df
    if out is not None and out.suffix == ".csv":
        tables.write_text(out, table.to_csv(index=False, lineterminator="\n"))
    elif out is not None:
        tables.write(out, table, {"configuration": {"collected": sorted(set(table["configuration"]))}})
    if args.json:
        rows = None if out is not None else [*_records(table)]
        sys.stdout.write(_json({**show.summary(found), "out": args.out, "table": rows}))
    else:
        show.collection(found)
    return int(bool(found.failed or found.damaged))


def _table_target(path: str, folder: Path) -> Path:
    found = cli.target("--out", path)
    if found.suffix not in (".parquet", ".csv"):
        raise InputError(f"--out {path!r} is of no known kind: give a file that ends in .parquet or .csv")
    if found.parent.resolve() == folder.resolve():
        raise InputError(f"--out {path!r} lies in the folder of the cells: give a place outside of it")
    return found


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


if __name__ == "__main__":
    cli.run(PROG, main)
