"""Many runs in worker processes, any of which may be killed: at most a checkpoint's interval is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from empirical.ensemble import ONE_THREAD
from empirical.train.folder import CHECKPOINT, LOG, Result, finished
from empirical.train.loop import train
from empirical.train.run import Run
from meanfield.errors import InputError

POLL = 1.0  # seconds between looks at the logs of running workers
TAIL = 4096  # bytes at the end of a log that hold its last line, norms apart: they wait for the next


def train_all(
    runs: Sequence[Run],
    folder: Path,
    *,
    workers: int,
    device: str = "cpu",
    advance: Callable[[float], None] | None = None,
) -> list[Result]:
    """Train what has not ended yet, several runs at once; the same call goes on after any interruption.

    A run that has ended keeps its log and result, and its checkpoint is deleted: the weights of a grid are of
    no further use.

    Args:
        runs: The runs, each in a folder of its name; long ones first leave no worker idle at the end.
        folder: Where the folders are.
        workers: Processes; 1 trains in this one.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        advance: Told how many steps were done since the last call.

    Returns:
        What became of them, in their order.

    Raises:
        InputError: If a run cannot be trained, or a worker was killed.
    """
    report = advance if advance is not None else _silent
    if workers == 1:
        results = []
        for run in runs:
            results.append(train(run, folder / run.name, device=device, advance=report))
            (folder / run.name / CHECKPOINT).unlink(missing_ok=True)
        return results
    waiting = [run for run in runs if finished(run, folder / run.name) is None]
    report(sum(run.steps for run in runs) - sum(run.steps for run in waiting))
    if waiting:
        _spread(waiting, folder, workers, device, report)
    return [_ended(run, folder) for run in runs]


def _spread(
    runs: list[Run], folder: Path, workers: int, device: str, report: Callable[[float], None]
) -> None:
    from loky import ProcessPoolExecutor
    from loky.process_executor import BrokenProcessPool

    executor = ProcessPoolExecutor(max_workers=min(workers, len(runs)), env=ONE_THREAD)
    done = dict.fromkeys(runs, 0)
    try:
        futures: dict[Future[Result], Run] = {executor.submit(_one, run, folder, device): run for run in runs}
        left = set(futures)
        while left:
            ready, left = wait(left, timeout=POLL, return_when=FIRST_COMPLETED)
            for future in ready:
                future.result()
            for run, before in done.items():
                done[run] = max(before, _steps_done(run, folder / run.name))
                report(done[run] - before)
    except BrokenProcessPool:
        raise InputError(
            f"one of workers={workers} was killed, probably for want of memory: run it again, what was done "
            "is kept; or give fewer workers"
        ) from None
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def _one(run: Run, folder: Path, device: str) -> Result:
    """Train a run in a worker."""
    parent = os.getppid()

    def watch(steps: int) -> None:
        if os.getppid() != parent:  # whoever wanted the runs was killed; its folder is free again
            os._exit(1)

    result = train(run, folder / run.name, device=device, advance=watch)
    (folder / run.name / CHECKPOINT).unlink(missing_ok=True)
    return result


def _ended(run: Run, folder: Path) -> Result:
    result = finished(run, folder / run.name)
    assert result is not None
    return result


def _steps_done(run: Run, folder: Path) -> int:
    """Read from the end of its log how far a run is; all of its steps where it has ended."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            record = json.loads(file.read().split(b"\n")[-2])
        return int(run.steps if record["kind"] == "end" else record["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0


def _silent(steps: float) -> None:
    pass
