"""Small sweeps, folders compared, and the processes that a sweep has."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {
    "arch": ["paper_post_ln", "paper_pre_ln"], "width": 8, "depth": [1, 2], "tokens": 2, "seeds": 3,
    "seed_block": 2,
}  # fmt: skip
FAILS = {"arch": "rezero", "width": 8, "heads": 1, "depth": 9, "value": 1e20, "tokens": 2, "seeds": 2}


def values(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a folder by name; nothing about dates and machines."""
    return {
        path.name: pq.read_table(path, partitioning=None).to_pandas() for path in folder.glob("*.parquet")
    }


def same(left: Path, right: Path) -> bool:
    """Whether two folders have the same cells with the same numbers, bit for bit."""
    ours, theirs = values(left), values(right)
    return ours.keys() == theirs.keys() and all(equal(table, theirs[name]) for name, table in ours.items())


def equal(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    except AssertionError:
        return False
    return True


def toml(**table: Any) -> str:
    """One table of a TOML file."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        return str(value).lower() if isinstance(value, bool) else repr(value)

    return "".join(f"{key} = {text(value)}\n" for key, value in table.items())


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start `python -m empirical.sweep` from the sources."""
    return subprocess.Popen(
        [sys.executable, "-m", "empirical.sweep", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Process:
    """A line of the process list."""

    pid: int
    parent: int
    command: str


def processes() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if entry.name.isdigit():
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text().replace("\0", " ").strip()
                if status[0] != "Z":
                    yield Process(int(entry.name), int(status[1]), command)


def below(pid: int) -> list[Process]:
    """The descendants of a process."""
    listed, found = list(processes()), {pid}
    while more := {process.pid for process in listed if process.parent in found} - found:
        found |= more
    return [process for process in listed if process.pid in found - {pid}]


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait for something, and fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.01)
    return found


def count(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


@dataclass(frozen=True)
class Deadly:
    """Stands in for a cell that has its worker killed."""

    name: str
    times: int

    def run(self, folder: Path) -> bool:
        with (folder / self.name).open("a") as file:
            file.write("x")
        if len((folder / self.name).read_text()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return True
