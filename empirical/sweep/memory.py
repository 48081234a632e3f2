"""How much memory there is, and how many cells fit into it at once."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from empirical.sweep.cell import Cell
from meanfield.errors import InputError

IDLE = 400 * 2**20
"""Bytes of an idle worker: the interpreter with torch, pandas and pyarrow."""
CGROUPS = Path("/sys/fs/cgroup")


def peak(cell: Cell) -> float:
    """Estimate the memory of the process that runs a cell.

    Args:
        cell: The cell.

    Returns:
        Bytes of the host's memory; on a device the arrays are there, and the host's share is small.
    """
    return IDLE + (cell.memory if cell.setting["device"] == "cpu" else 0.0)


def workers_that_fit(cells: Sequence[Cell], wanted: int, there: float | None = None) -> int:
    """Say how many workers can run at once whatever cells they have; refuse cells that do not fit alone.

    Args:
        cells: What is to be run.
        wanted: Number of workers asked for.
        there: Bytes of memory; None for what this machine has free.

    Returns:
        At most the number wanted, at least 1.

    Raises:
        InputError: If a cell needs more memory than there is.
    """
    if not cells:
        return wanted
    free = available() if there is None else there
    largest = max(cells, key=peak)
    check(largest, peak(largest), free, "of memory")
    fitting = int(free // peak(largest))
    on_device = [cell for cell in cells if cell.setting["device"] == "cuda"]
    if on_device and torch.cuda.is_available():
        largest = max(on_device, key=lambda cell: cell.memory)
        free_there, _ = torch.cuda.mem_get_info()
        check(largest, largest.memory, free_there, "of the GPU's memory")
        fitting = min(fitting, int(free_there // max(largest.memory, 1)))
    return min(wanted, fitting)


def check(cell: Cell, needed: float, free: float, of: str) -> None:
    """Refuse a cell that does not fit.

    Args:
        cell: The cell.
        needed: Bytes that it needs.
        free: Bytes that there are.
        of: Which bytes, for the message.

    Raises:
        InputError: If it does not fit.
    """
    if needed > free:
        sizes = ", ".join(
            f"{key}={cell.options[key]}" for key in ("width", "depth", "vocab") if key in cell.options
        )
        raise InputError(
            f"cell {cell.name} ({sizes}, tokens={cell.setting['tokens']}, batch={cell.setting['batch']}) "
            f"needs about {human(needed)} {of} and {human(free)} are free: make it smaller, or use a larger "
            "machine"
        )


def human(size: float) -> str:
    """Write a number of bytes.

    Args:
        size: The number.

    Returns:
        The text.

    Example:
        >>> human(3 * 2**29), human(200 * 2**20)
        ('1.5 GiB', '200 MiB')
    """
    for power, unit in ((40, "TiB"), (30, "GiB")):
        if size >= 2**power:
            return (
                f"{size / 2**power:,.3g} {unit}"
                if size < 1000 * 2**power
                else f"{size / 2**power:,.0f} {unit}"
            )
    return f"{size / 2**20:.0f} MiB"


def available() -> float:
    """Find how much more memory processes may take here.

    Returns:
        Bytes: what the kernel calls available, or less where a control group or a limit of this process,
        which its children inherit, says so.
    """
    limits = [*_host(), *left_by_groups(), *_process()]
    return min(limits, default=float("inf"))


def _host() -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield int(value.split()[0]) * 1024
                return
    with contextlib.suppress(OSError, ValueError):  # not Linux: all there is
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def left_by_groups(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """Yield what each control group above this process leaves, of version 2 or 1."""
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                base, limit, usage, cache = root, "memory.max", "memory.current", "inactive_file"
            elif "memory" in controllers.split(","):
                base, limit = root / "memory", "memory.limit_in_bytes"
                usage, cache = "memory.usage_in_bytes", "total_inactive_file"
            else:
                continue
            group = base / path.lstrip("/")
            for place in (group, *group.parents):  # a container may see its own group as the root
                if place.is_relative_to(base):
                    yield from _left(place, limit, usage, cache)


def _left(place: Path, limit: str, usage: str, cache: str) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        most = int((place / limit).read_text())
        held = int((place / usage).read_text())
        statistics = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        yield most - held + int(statistics.get(cache, 0))


def _process() -> Iterator[float]:
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield limit
