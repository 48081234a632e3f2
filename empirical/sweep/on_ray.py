"""The Ray engine: cells as tasks on the machines of a Ray cluster, or on a fresh one of this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from empirical.sweep.cell import Cell
from empirical.sweep.local import ONE_THREAD, TRIES
from empirical.sweep.outcome import Outcome, attempt
from meanfield.errors import InputError

AHEAD = 2  # tasks in flight for each that can run


def on_ray(
    cells: Sequence[Cell],
    folder: Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    gpus_per_cell: float = 0.0,
    memory: int,
) -> Iterator[Outcome]:
    ray = ray_or_error()
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")):
        os.environ.setdefault(name, value)
    options = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(
        address=address or "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": ONE_THREAD},
        **options,
    )
    try:
        task = ray.remote(num_cpus=1, num_gpus=gpus_per_cell, max_retries=TRIES - 1)(attempt)
        waiting = list(reversed(cells))
        flying: dict[Any, Cell] = {}
        while waiting or flying:
            most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(flying) < most:
                cell = waiting.pop()
                flying[task.options(memory=memory).remote(cell, folder)] = cell
            done, _ = ray.wait(list(flying), num_returns=1)
            for reference in done:
                cell = flying.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Outcome(cell.name, f"its worker was lost: {error}")
    finally:
        ray.shutdown()


def ray_or_error() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("engine 'ray' needs Ray: pip install 'meanfield-transformers[ray]'") from error
    return ray
