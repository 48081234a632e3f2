"""What became of a cell, and how it is run wherever that is."""

from __future__ import annotations

import platform
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from empirical.sweep.cell import Cell
from empirical.tables import StorageError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell.

    Args:
        name: Of the cell.
        error: Why it failed, on one line; None if it is whole.
        detail: The traceback, where there is one.
        full: Whether the folder cannot be written: other cells would fail as well.
        measured: Whether it was measured now; False if another driver was faster.
        seconds: How long it took.
        machine: Where it ran.
    """

    name: str
    error: str | None = None
    detail: str = ""
    full: bool = False
    measured: bool = True
    seconds: float = 0.0
    machine: str = ""


def attempt(cell: Cell, folder: Path) -> Outcome:
    """Run a cell; whatever goes wrong is an outcome too.

    Args:
        cell: The cell.
        folder: Where cells are kept.

    Returns:
        What became of it.
    """
    start, machine = time.monotonic(), platform.node()
    try:
        measured = cell.run(folder)
    except StorageError as error:
        return Outcome(cell.name, str(error), full=True, machine=machine)
    except MemoryError:
        return Outcome(cell.name, "not enough memory", traceback.format_exc(), machine=machine)
    except Exception as error:  # noqa: BLE001  (one cell's fault, of any kind, is not the sweep's)
        text = " ".join(str(error).split()) or type(error).__name__
        return Outcome(cell.name, text, traceback.format_exc(), machine=machine)
    return Outcome(cell.name, measured=measured, seconds=time.monotonic() - start, machine=machine)
