"""`run`: measure the cells of a grid that are not in a folder yet."""

from __future__ import annotations

import datetime
import os
import random
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empirical.sweep.cell import Cell
from empirical.sweep.folder import Folder
from empirical.sweep.grid import Grid, grid, load
from empirical.sweep.local import local
from empirical.sweep.outcome import Outcome
from empirical.tables import StorageError
from meanfield.errors import InputError, UnknownNameError, positive_integer

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Args:
        folder: Where the cells are.
        cells: Number of cells of the grid.
        skipped: Those that were there.
        measured: Those measured now.
        failed: Name -> error of those that failed.
    """

    folder: Path
    cells: int
    skipped: int
    measured: int
    failed: Mapping[str, str]


def run(
    grid_or_path: Grid | Mapping[str, Any] | Path | str,
    *,
    out: Path | str,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    gpus_per_cell: float = 0.0,
    started: Callable[[list[Cell]], None] | None = None,
    progress: Callable[[Cell, Outcome], None] | None = None,
) -> Report:
    wanted = as_grid(grid_or_path)
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    folder = Folder.open(Path(out))
    missing = folder.missing(wanted.cells)
    by_name = {cell.name: cell for cell in missing}
    random.shuffle(missing)
    outcomes = local(missing, folder.path, workers=workers or os.cpu_count() or 1)
    failed = {}
    measured = 0
    with closing(outcomes):
        for outcome in outcomes:
            if outcome.full:
                raise StorageError(outcome.error)
            if outcome.error is None:
                folder.forget(outcome.name)
                measured += outcome.measured
            else:
                failed[outcome.name] = outcome.error
                folder.record_failure(outcome.name, {"error": outcome.error})
            if progress is not None:
                progress(by_name[outcome.name], outcome)
    return Report(folder.path, len(wanted.cells), len(wanted.cells) - measured - len(failed), measured, failed)


def as_grid(given: Grid | Mapping[str, Any] | Path | str) -> Grid:
    if isinstance(given, Grid):
        return given
    return grid(given) if isinstance(given, Mapping) else load(Path(given))
