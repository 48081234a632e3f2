"""`python -m empirical.train`: one training run, or all of a preset.

Exit status 0: trained, or trained before; 1: the run diverged; 2: bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from empirical.ranks import launched
from empirical.train import show
from empirical.train.arguments import PROG, parser, run_of
from empirical.train.grid import train_grid
from empirical.train.loop import train
from empirical.train.presets import PRESETS
from empirical.train.tables import COLUMNS, of_run
from meanfield import cli
from meanfield.errors import InputError, UnknownNameError, positive_integer


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line, ``sys.argv`` if None.

    Returns:
        Exit status.

    Raises:
        InputError: If neither or both of a task and a preset are given.
        UnknownNameError: If there is no such preset.
    """
    args = parser().parse_args(arguments)
    if (args.task is None) == (args.preset is None):
        raise InputError("give either a task or --preset: see --help")
    if args.preset is None:
        with launched() as ranks:
            return _one(args, ranks is None or ranks.rank == 0)
    if args.preset not in PRESETS:
        raise UnknownNameError("preset", args.preset, PRESETS)
    return _preset(args)


def _one(args: argparse.Namespace, speaks: bool) -> int:
    run, folder = run_of(args), Path(args.out)
    with cli.patience(run.name, run.steps if speaks else None) as advance:
        result = train(run, folder, device=args.device, advance=advance)
    if speaks:
        import pandas as pd

        curves = pd.DataFrame(of_run(run, folder)["curves"], columns=[*COLUMNS["curves"]])
        if args.json:
            told = {"name": run.name, **dataclasses.asdict(result), "curves": _records(curves)}
            sys.stdout.write(json.dumps(told, indent=1, allow_nan=False) + "\n")
        else:
            show.one(result, curves)
    return int(result.status == "diverged")


def _preset(args: argparse.Namespace) -> int:
    runs = PRESETS[args.preset]
    workers = (os.cpu_count() or 1) if args.workers is None else positive_integer("workers", args.workers)
    steps = sum(run.steps for run in runs)
    with cli.patience(f"{len(runs)} runs", steps) as advance:
        tables = train_grid(
            runs, Path(args.out), workers=workers, device=args.device, advance=lambda done: advance(int(done))
        )
    if args.json:
        told = {name: _records(tables[name]) for name in ("predictions", "runs")}
        sys.stdout.write(json.dumps(told, indent=1, allow_nan=False) + "\n")
    else:
        show.many(tables)
    return 0


def _records(table: Any) -> list[dict[str, Any]]:
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


if __name__ == "__main__":
    cli.run(PROG, main)
