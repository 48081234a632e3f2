"""The local engine: worker processes on this machine, any of which may be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

import empirical
from empirical.sweep.cell import Cell
from empirical.sweep.outcome import Outcome
from meanfield.errors import InputError

TRIES = 3  # of a cell whose workers are killed, and of starting a worker
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def local(cells: Sequence[Cell], folder: Path, *, workers: int) -> Generator[Outcome, None, None]:
    """Run cells in processes of one thread each; a killed one is replaced, and its cell tried again.

    Args:
        cells: What is to be run.
        folder: Where cells are kept.
        workers: Number of processes.

    Yields:
        What became of a cell, as soon as it is known. Closing the iterator kills the workers.

    Raises:
        InputError: If workers do not start.
    """
    pool = _Pool(cells, folder, workers)
    try:
        while pool.unfinished:
            yield from pool.step()
    finally:
        pool.kill()


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    cell: Cell | None = None


class _Pool:
    def __init__(self, cells: Sequence[Cell], folder: Path, size: int) -> None:
        self.waiting = deque(cells)
        self.folder, self.size = folder, size
        self.workers: list[_Worker] = []
        self.kills: Counter[str] = Counter()
        self.stillborn = 0

    @property
    def unfinished(self) -> int:
        return len(self.waiting) + sum(worker.cell is not None for worker in self.workers)

    def step(self) -> list[Outcome]:
        """Wait until a worker says something or ends, and see to it that it has a cell to run."""
        while len(self.workers) < min(self.size, self.unfinished):
            self.workers.append(_start())
        heard = wait([worker.connection for worker in self.workers])
        outcomes = []
        for worker in [worker for worker in self.workers if worker.connection in heard]:
            try:
                outcome = worker.connection.recv()  # None when it is ready
            except (EOFError, OSError):
                outcome = self._ended(worker)
            else:
                worker.ready, worker.cell, self.stillborn = True, None, 0
                self._next(worker)
            outcomes += [outcome] if outcome is not None else []
        return outcomes

    def _next(self, worker: _Worker) -> None:
        if self.waiting:
            worker.cell = self.waiting.popleft()
            with contextlib.suppress(OSError):  # killed just now: the next receive says so
                worker.connection.send((worker.cell, self.folder))

    def _ended(self, worker: _Worker) -> Outcome | None:
        """Bury a worker: its cell is tried again, a few times."""
        self.workers.remove(worker)
        worker.connection.close()
        status = worker.process.wait()
        how = (
            f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        )
        if not worker.ready:
            self.stillborn += 1
            if self.stillborn == TRIES:
                raise InputError(f"worker processes end before they are ready, the last one {how}: see above")
        if worker.cell is None:
            return None
        name = worker.cell.name
        self.kills[name] += 1
        if self.kills[name] < TRIES:
            sys.stderr.write(f"{name}: its worker was {how}; the cell is tried again\n")
            self.waiting.append(worker.cell)
            return None
        return Outcome(name, f"its worker was {how}, {TRIES} times: likely out of memory; lower --workers")

    def kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()


def _start() -> _Worker:
    here, there = Pipe()
    root = str(Path(empirical.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "empirical.sweep.worker", str(there.fileno())],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        pass_fds=[there.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,  # stdout is for results
        start_new_session=True,  # Ctrl-C is the driver's, which ends its workers
    )
    there.close()
    return _Worker(process, here)
