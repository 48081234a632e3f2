"""`run`: measure the cells of a grid that are not in a folder yet."""

from __future__ import annotations

import datetime
import os
import random
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empirical.device import torch_device
from empirical.sweep.cell import Cell
from empirical.sweep.folder import Folder
from empirical.sweep.grid import Grid, grid, load
from empirical.sweep.local import local
from empirical.sweep.memory import workers_that_fit
from empirical.sweep.on_ray import on_ray, ray_or_error
from empirical.sweep.outcome import Outcome
from empirical.tables import StorageError
from meanfield.errors import InputError, UnknownNameError, positive_integer

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Engine:
    """Where cells run.

    Args:
        name: ``"local"``, processes of this machine, or ``"ray"``, tasks on a Ray cluster.
        workers: Cells at once on this machine; None for one per core. A cluster knows its own.
        address: Of a Ray cluster, ``"auto"`` for the one of this machine; None for a fresh one.
        gpus_per_cell: With Ray, the share of a GPU that a cell takes.

    Raises:
        InputError: If a value makes no sense, or Ray is not installed.
    """

    name: str = "local"
    workers: int | None = None
    address: str | None = None
    gpus_per_cell: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise UnknownNameError("engine", self.name, ENGINES)
        if self.workers is not None:
            positive_integer("workers", self.workers)
        if self.name == "local" and (self.address is not None or self.gpus_per_cell):
            raise InputError(
                "address and gpus_per_cell are for engine='ray': leave them out, or choose that one"
            )
        if self.address is not None and self.workers is not None:
            raise InputError("workers with address: the cluster has its own; leave one of them out")
        if not 0 <= self.gpus_per_cell < float("inf"):
            raise InputError(f"gpus_per_cell={self.gpus_per_cell}: give a share such as 0.25, or 0")
        if self.name == "ray":
            ray_or_error()


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Args:
        folder: Where the cells are.
        cells: Number of cells of the grid.
        there: Those that were there, or that another run made in the meantime.
        measured: Those measured now.
        failed: Name -> error of those that failed.
    """

    folder: str
    cells: int
    there: int
    measured: int
    failed: Mapping[str, str]


@dataclass
class Plan:
    """What is to be done for a grid to be in a folder.

    Args:
        cells: Those of the grid.
        missing: Those that are to be measured.
        folder: Where they go.
        engine: What runs them.
        workers: How many at once, on this machine.
    """

    cells: tuple[Cell, ...]
    missing: list[Cell]
    folder: Folder
    engine: Engine
    workers: int

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Run what is missing, in random order: two runs on one folder then seldom do the same cell."""
        order = random.sample(self.missing, len(self.missing))
        if self.engine.name == "local":
            return local(order, self.folder.path, workers=self.workers)
        return on_ray(
            order,
            self.folder.path,
            workers=self.workers,
            address=self.engine.address,
            gpus_per_cell=self.engine.gpus_per_cell,
        )

    def execute(self, progress: Callable[[Cell, Outcome], None] = lambda cell, outcome: None) -> Report:
        """Measure what is missing.

        Args:
            progress: Called with each cell that is whole or has failed.

        Returns:
            What was done.

        Raises:
            StorageError: If the folder cannot be written any more, as when the disk is full.
        """
        cells = {cell.name: cell for cell in self.missing}
        measured, failed = 0, {}
        with closing(self.outcomes()) as outcomes:  # also when interrupted: workers end
            for outcome in outcomes:
                if outcome.full:
                    raise StorageError(outcome.error)
                if outcome.error is None:
                    self.folder.forget(outcome.name)
                    measured += outcome.measured
                else:
                    failed[outcome.name] = outcome.error
                    self.folder.record_failure(outcome.name, _failure(cells[outcome.name], outcome))
                progress(cells[outcome.name], outcome)
        there = len(self.cells) - measured - len(failed)
        return Report(str(self.folder.path), len(self.cells), there, measured, failed)


def _failure(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    return {
        "error": outcome.error,
        "detail": outcome.detail,
        "machine": outcome.machine,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cell": cell.description,
    }


def plan(wanted: Grid, out: Path, engine: Engine) -> Plan:
    """Find what is to be done, and refuse what cannot be before anything is.

    Args:
        wanted: The grid.
        out: The folder.
        engine: Where cells will run.

    Returns:
        The plan.

    Raises:
        InputError: If the folder cannot be used, or a cell needs more memory or another device than there is.
    """
    new = [cell for cell in wanted.cells if not cell.path(out).exists()]
    workers = cells_at_once(new, engine)
    folder = Folder.open(out)
    return Plan(wanted.cells, folder.missing(wanted.cells), folder, engine, workers)


def cells_at_once(cells: Sequence[Cell], engine: Engine) -> int:
    """Say how many cells run at once on this machine, and refuse those that cannot.

    Args:
        cells: What is to be run.
        engine: Where.

    Returns:
        The number: as many as were asked for, or as many as fit into the memory.

    Raises:
        InputError: If a cell needs more memory or another device than there is.
    """
    asked = engine.workers or os.cpu_count() or 1
    if engine.address is not None:
        return asked  # the cluster's machines are not this one
    for device in sorted({cell.setting["device"] for cell in cells}):
        torch_device(device)
    fitting = workers_that_fit(cells, asked)
    if fitting < asked:
        sys.stderr.write(f"{fitting} cells at once in place of {asked}: there is no memory for more\n")
    return fitting


def run(
    wanted: Grid | Mapping[str, Any] | Path | str,
    *,
    out: Path | str,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    gpus_per_cell: float = 0.0,
    progress: Callable[[Cell, Outcome], None] | None = None,
) -> Report:
    """Measure the cells of a grid that are not in a folder yet.

    Killed at any moment, it loses at most the cells in flight, and the same call goes on.

    Args:
        wanted: The grid: a TOML file, or what it would hold (see `empirical.sweep.grid`).
        out: Where cells are kept; made if absent. All machines have to see it.
        engine: ``"local"`` or ``"ray"``.
        workers: Cells at once on this machine; None for one per core.
        address: Of a Ray cluster, ``"auto"`` for the one of this machine; None for a fresh one.
        gpus_per_cell: With Ray, the share of a GPU that a cell takes.
        progress: Called with each cell that is whole or has failed.

    Returns:
        What was done; failed cells are named in it, recorded in the folder, and tried again the next time.

    Raises:
        InputError: If the grid, the engine or the folder cannot be used, or a cell needs too much memory.

    Example:
        >>> import tempfile
        >>> sizes = {"arch": "paper_post_ln", "width": 8, "depth": [1, 2], "tokens": 2, "seeds": 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (run(sizes, out=folder, workers=1).measured, run(sizes, out=folder).measured)
        (2, 0)
    """
    chosen = Engine(engine, workers, address, gpus_per_cell)
    found = plan(as_grid(wanted), Path(out), chosen)
    return found.execute() if progress is None else found.execute(progress)


def as_grid(wanted: Grid | Mapping[str, Any] | Path | str) -> Grid:
    """Take a grid in any of its forms.

    Args:
        wanted: A grid, what its file holds, or the file.

    Returns:
        The grid.
    """
    if isinstance(wanted, Grid):
        return wanted
    return grid(wanted) if isinstance(wanted, Mapping) else load(Path(wanted))
