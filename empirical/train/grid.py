"""A grid of runs, predicted first and then trained, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from empirical import tables
from empirical.store import digest
from empirical.train.pool import train_all
from empirical.train.predictions import predictions
from empirical.train.run import Run
from empirical.train.tables import collected

PREDICTED = ("predictions", "first_updates")


def train_grid(
    runs: Sequence[Run],
    folder: Path,
    *,
    workers: int,
    device: str = "cpu",
    advance: Callable[[float], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Write down what theory predicts, then train what has not ended, then read all logs.

    Predictions are on disk before the first update of any run, and are not made again: what training shows
    cannot change them.

    Args:
        runs: The runs.
        folder: Where everything is kept; made if absent. The same call goes on after any interruption.
        workers: Processes.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        advance: Told how many steps were done since the last call.

    Returns:
        The tables of `collected` and of `predictions`.

    Raises:
        InputError: If a run cannot be trained, or the folder cannot be written.
    """
    tables.prepare(folder)
    names = {"runs": sorted({digest(run.configuration) for run in runs})}
    paths = {name: folder / f"{name}-{digest(names)}.parquet" for name in PREDICTED}
    if not all(path.exists() for path in paths.values()):
        for name, table in predictions(runs, workers=workers).items():
            tables.write(paths[name], table, {"configuration": names})
    train_all(runs, folder, workers=workers, device=device, advance=advance)
    return {**{name: tables.read(path)[0] for name, path in paths.items()}, **collected(runs, folder)}
