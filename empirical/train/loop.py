"""One training run: from wherever its folder stands to its last step, or to where it diverges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from empirical.device import torch_device
from empirical.host import fast_products, kept_memory
from empirical.probe import one_thread
from empirical.ranks import joined
from empirical.train.folder import Result, finished, held
from empirical.train.run import Run
from empirical.train.training import Training

EVERY = 60.0  # seconds between checkpoints
WIDE = 256  # width from which oneDNN multiplies faster than torch's own library


def train(
    run: Run,
    folder: Path | str,
    *,
    device: str = "cpu",
    every: float = EVERY,
    advance: Callable[[int], None] | None = None,
) -> Result:
    """Train, or go on where an earlier process was stopped, even by SIGKILL.

    The folder holds ``log.jsonl``, ``checkpoint.pt`` and at the end ``result.json``. On one device and
    version of torch the log is the same to the last byte however often the run was stopped. Where a process
    group is initialised all processes call this, each trains on its share of every mini-batch, and the first
    writes.

    Args:
        run: What to train.
        folder: Its own folder; made if absent.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        every: Seconds between checkpoints.
        advance: Told how many steps were done since the last call.

    Returns:
        What became of it.

    Raises:
        InputError: If the data or the model cannot be, the folder holds another run or is another process's
            at the moment, or cannot be written.
    """
    folder = Path(folder)
    report = advance if advance is not None else _silent
    with joined(None) as ranks, held(folder) if ranks is None or ranks.rank == 0 else nullcontext():
        where = torch_device(device) if ranks is None else ranks.device(torch_device(device))
        done = finished(run, folder)
        if done is not None:
            report(run.steps)
            return done
        with _host(run.model.width) if where.type == "cpu" else nullcontext():
            return Training(run, folder, where, ranks, every, report).through()


@contextmanager
def _host(width: int) -> Iterator[None]:
    """Train on one thread, for sums that are split over threads depend on their number; in kept memory."""
    with one_thread(), kept_memory(), fast_products("float32") if width >= WIDE else nullcontext():
        yield


def _silent(steps: int) -> None:
    pass
