"""The Ray engine: cells as tasks on the machines of a Ray cluster, or on a fresh one of this machine."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from empirical.sweep.cell import Cell
from empirical.sweep.local import ONE_THREAD, TRIES
from empirical.sweep.memory import available, check, peak
from empirical.sweep.outcome import Outcome, attempt
from meanfield.errors import InputError

AHEAD = 2  # tasks in flight for each that can run: a worker does not wait for the driver
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about a future default
    "RAY_task_oom_retries": str(TRIES - 1),
}


def on_ray(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int,
    address: str | None = None,
    gpus_per_cell: float = 0.0,
) -> Generator[Outcome, None, None]:
    """Run cells as Ray tasks; those of a lost worker or machine are tried again elsewhere.

    The worker writes the result: the driver only schedules.

    Args:
        cells: What is to be run.
        folder: Where cells are kept, on storage that all machines see.
        workers: Cells at once, on a fresh instance.
        address: Of a cluster; None for a fresh instance of this machine.
        gpus_per_cell: Share of a GPU that a cell takes.

    Yields:
        What became of a cell, as soon as it is known.

    Raises:
        InputError: If the cluster cannot be reached, or no machine of it can run a cell.
    """
    ray = ray_or_error()
    _connect(ray, workers, address)
    try:
        for cell in cells:
            _check_machines(ray, cell, gpus_per_cell)
        task = ray.remote(num_cpus=1, num_gpus=gpus_per_cell, max_retries=TRIES - 1)(attempt)
        waiting = deque(cells)
        flying: dict[Any, Cell] = {}
        while waiting or flying:
            most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(flying) < most:
                cell = waiting.popleft()
                reference = task.options(memory=int(peak(cell))).remote(cell, folder.resolve())
                flying[reference] = cell
            done, _ = ray.wait(list(flying), num_returns=1)
            for reference in done:
                yield _outcome(ray, reference, flying.pop(reference))
    finally:
        ray.shutdown()


def ray_or_error() -> Any:
    """Import Ray.

    Returns:
        The module.

    Raises:
        InputError: If it is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "engine='ray' needs Ray, which is not installed: pip install 'meanfield-transformers[ray]' (the "
            "extra ray), or use engine='local'"
        ) from error
    return ray


def _connect(ray: Any, workers: int, address: str | None) -> None:
    fresh: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": 80 * 2**20,  # results go to the folder
        "_memory": available(),
    }
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": ONE_THREAD},
            **({} if address else fresh),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"address={address!r}" if address else "a fresh instance of Ray"
        raise InputError(f"{where} cannot be used: {error}; start one with 'ray start --head'") from error


def _check_machines(ray: Any, cell: Cell, gpus: float) -> None:
    """Refuse a cell that would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if max((machine.get("GPU", 0.0) for machine in machines), default=0.0) < gpus:
        raise InputError(f"gpus_per_cell={gpus:g} and no machine of the cluster has as many: give less, or 0")
    check(
        cell, peak(cell), max(machine.get("memory", 0.0) for machine in machines), "of memory on one machine"
    )


def _outcome(ray: Any, reference: Any, cell: Cell) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.OutOfMemoryError:
        return Outcome(cell.name, "its worker was killed by Ray: its machine was out of memory")
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        return Outcome(
            cell.name, f"its worker was lost {TRIES} times ({type(error).__name__}: {first})", str(error)
        )
