"""The Ray engine: the same numbers as without it, whatever is killed."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from empirical.sweep.driver import Engine
from empirical.sweep.grid import grid
from meanfield.errors import InputError
from tests.empirical.sweep.cases import FAILS, SMALL, below, count, processes, same, start, toml, until

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
SIXTY: dict[str, Any] = {  # cells of about half a second each
    "arch": ["post_ln", "pre_ln"], "width": 128, "heads": 4, "tokens": 64, "depth": [4, 5, 6, 7, 8, 9],
    "seeds": 100, "seed_block": 20,
}  # fmt: skip


@needs_ray
def test_cells_run_as_tasks_and_failures_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(f"[[grid]]\n{toml(**SMALL)}\n[[grid]]\n{toml(**FAILS)}")
    driver = start(
        tmp_path / "grid.toml", "--out", tmp_path / "out", "--engine", "ray", "--workers", 2, "--json"
    )
    output, messages = driver.communicate(timeout=120)
    (failing,) = grid(FAILS).cells
    report = json.loads(output)
    assert driver.returncode == 1
    assert (report["cells"], report["measured"], list(report["failed"])) == (9, 8, [failing.name])
    assert messages.startswith(f"{failing.name}: ")  # and nothing of Ray's own
    assert messages.count("\n") == 1
    calm = tmp_path / "calm"
    calm.mkdir()
    for cell in grid(SMALL).cells:
        cell.run(calm)
    assert same(tmp_path / "out", calm)


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process list")
def test_sixty_cells_survive_a_killed_worker_and_a_killed_driver(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(toml(**SIXTY))
    out, calm = tmp_path / "out", tmp_path / "calm"
    command = (tmp_path / "grid.toml", "--engine", "ray", "--workers", 2, "--out")

    driver = start(*command, out)
    try:
        until(lambda: count(out) >= 10 or driver.poll() is not None, "the first cells", 120)
        victim = until(lambda: busy(driver.pid), "a worker in the middle of a cell")[0]
        os.kill(victim, signal.SIGKILL)
        before = count(out)
        until(lambda: count(out) >= before + 10, "more cells")
        workers = until(lambda: busy(driver.pid), "a worker in the middle of a cell")
        assert driver.poll() is None, "the driver ended before it could be killed"
    finally:
        driver.kill()
        driver.communicate()
    assert victim not in workers
    until(lambda: not {process.pid for process in processes()} & set(workers), "end of the workers", 30)
    whole = count(out)
    assert 20 <= whole < 60

    resumed = start(*command, out)
    output, messages = resumed.communicate(timeout=300)
    assert (resumed.returncode, messages) == (0, "")
    assert count(out) == 60
    assert output == f"60 cells in {out}: {60 - whole} measured, {whole} there already, 0 failed\n"

    undisturbed = start(*command, calm)
    undisturbed.communicate(timeout=300)
    assert count(calm) == 60
    assert same(out, calm)


def busy(pid: int) -> list[int]:
    """Ray's workers below a process that are running a task just now."""
    return [process.pid for process in below(pid) if process.command.startswith("ray::attempt")]


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError, match=r"needs Ray, .*pip install 'meanfield-transformers\[ray\]'.*extra ray"
    ):
        Engine("ray")


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(toml(**SMALL))
    driver = start(tmp_path / "grid.toml", "--out", tmp_path / "out", "--engine", "ray", "--address", "auto")
    output, messages = driver.communicate(timeout=120)
    assert (driver.returncode, output) == (2, "")
    assert messages.startswith("python -m empirical.sweep: address='auto' cannot be used: ")
    assert messages.count("\n") == 1
