"""What cells will cost: seconds, from a rate that is measured here and now, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from empirical.sweep.cell import Cell
from empirical.sweep.grid import grid
from empirical.sweep.memory import peak
from meanfield.errors import InputError

_TRIAL = {"arch": "pre_ln", "width": 256, "depth": 2, "heads": 4, "tokens": 32, "seeds": 4}


@dataclass(frozen=True, slots=True)
class Cost:
    """What the cells of one configuration cost.

    Args:
        options: What tells it from the others.
        cells: Number of blocks of seeds.
        seeds: Number of seeds.
        flops: Floating-point operations of its products, or what takes as long.
        seconds: Of one thread of this machine; None where its device is not here.
        memory: Bytes of a worker.
    """

    options: Mapping[str, Any]
    cells: int
    seeds: int
    flops: float
    seconds: float | None
    memory: float


def rates(cells: Iterable[Cell]) -> dict[tuple[str, str], float]:
    """Measure how fast this machine is, one thread, with each method and on each device of some cells.

    Args:
        cells: The cells.

    Returns:
        (Method, device) -> operations per second; without devices that are not here.
    """
    found = {}
    for method, device in sorted({(cell.method, cell.setting["device"]) for cell in cells}):
        (trial,) = grid({**_TRIAL, "method": method, "device": device}).cells
        try:
            trial.measure()  # what is slow for once
            start = time.perf_counter()
            trial.measure()
        except InputError:
            continue
        found[method, device] = 2 * trial.work / (time.perf_counter() - start)
    return found


def costs(cells: Sequence[Cell], speed: Mapping[tuple[str, str], float]) -> list[Cost]:
    """Estimate what cells cost, configuration by configuration.

    Args:
        cells: The cells.
        speed: What `rates` measured.

    Returns:
        One entry for each configuration.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(repr(cell.configuration), []).append(cell)
    found = []
    names = varying([cell.options for cell in cells])
    for group in groups.values():
        first = group[0]
        flops = 2 * sum(cell.work for cell in group)
        rate = speed.get((first.method, first.setting["device"]))
        found.append(
            Cost(
                {name: first.options.get(name) for name in names},
                len(group),
                sum(len(cell.seeds) for cell in group),
                flops,
                None if rate is None else flops / rate,
                max(map(peak, group)),
            )
        )
    return found


def varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the keys whose value is not the same in all rows, in their order.

    Args:
        rows: Key -> value.

    Returns:
        The keys.

    Example:
        >>> varying([{"width": 8, "depth": 1}, {"width": 16, "depth": 1, "value": 0}])
        ['width', 'value']
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if any(row.get(key) != rows[0].get(key) for row in rows)]
