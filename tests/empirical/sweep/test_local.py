"""The local engine: failures are recorded, killed workers replaced, and everything killed is resumed."""

import json
import os
import signal
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from empirical.sweep import run
from empirical.sweep.cell import Cell
from empirical.sweep.folder import FAILED
from empirical.sweep.grid import grid
from empirical.sweep.local import TRIES, local
from empirical.sweep.outcome import Outcome, attempt
from meanfield.errors import InputError
from tests.empirical.sweep.cases import FAILS, SMALL, Deadly, below, count, same, start, toml, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the process list")
LONG: dict[str, Any] = {  # cells of some tenths of a second each
    "arch": "post_ln", "width": 128, "heads": 4, "depth": [6, 7], "tokens": 64, "seeds": 60, "seed_block": 20,
}  # fmt: skip


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run in this process: it takes seconds to start another."""

    def serial(cells: Sequence[Cell], folder: Path, *, workers: int) -> Generator[Outcome, None, None]:
        return (attempt(cell, folder) for cell in cells)

    monkeypatch.setattr("empirical.sweep.driver.local", serial)


@pytest.mark.usefixtures("here")
def test_failed_cells_are_recorded_and_tried_again_and_others_go_on(tmp_path: Path) -> None:
    wanted = {"grid": [SMALL, FAILS]}
    (failing,) = grid(FAILS).cells
    seen = []
    report = run(wanted, out=tmp_path, workers=1, progress=lambda cell, outcome: seen.append(outcome.name))
    assert (report.cells, report.measured, report.there) == (9, 8, 0)
    assert list(report.failed) == [failing.name]
    assert sorted(seen) == sorted(cell.name for cell in grid(wanted).cells)
    record = tmp_path / f"{failing.name}{FAILED}"
    assert "not finite" in json.loads(record.read_text())["error"]
    assert json.loads(record.read_text())["cell"] == failing.description
    again = run(wanted, out=tmp_path, workers=1)
    assert (again.measured, again.there, list(again.failed)) == (0, 8, [failing.name])


@pytest.mark.usefixtures("here")
def test_the_record_of_a_failure_goes_when_the_cell_is_whole(tmp_path: Path) -> None:
    cell = grid(SMALL).cells[0]
    record = tmp_path / f"{cell.name}{FAILED}"
    run({**SMALL, "depth": 2}, out=tmp_path, workers=1)
    record.write_text("{}")
    report = run(SMALL, out=tmp_path, workers=1)
    assert not report.failed
    assert not record.exists()


@pytest.mark.slow
def test_a_cell_that_kills_its_workers_is_given_up_and_others_are_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cells: list[Any] = [Deadly("always", 99), Deadly("once", 1), Deadly("never", 0)]
    outcomes = {outcome.name: outcome.error for outcome in local(cells, tmp_path, workers=2)}
    assert outcomes["once"] is outcomes["never"] is None
    assert outcomes["always"] is not None
    assert "killed by SIGKILL" in outcomes["always"]
    assert "likely out of memory" in outcomes["always"]
    assert len((tmp_path / "always").read_text()) == TRIES
    assert capfd.readouterr().err.count("its worker was killed by SIGKILL; the cell is tried again") == TRIES


def test_workers_that_do_not_start_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="end before they are ready, the last one ended with exit status 1"):
        list(local(grid(SMALL).cells, tmp_path, workers=1))


def workers_of(pid: int) -> list[int]:
    return [process.pid for process in below(pid) if "empirical.sweep.worker" in process.command]


@linux
def test_killed_worker_then_killed_driver_then_resumed(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(toml(**LONG))
    out, calm = tmp_path / "killed", tmp_path / "calm"
    driver = start(tmp_path / "grid.toml", "--out", out, "--workers", 2)
    try:
        until(lambda: count(out) >= 1 or driver.poll() is not None, "the first cell")
        victim = workers_of(driver.pid)[0]
        os.kill(victim, signal.SIGKILL)  # cells take much longer than what is between them
        until(lambda: count(out) >= 2 and victim not in workers_of(driver.pid), "one more cell")
        orphans = workers_of(driver.pid)
        assert driver.poll() is None, "the driver ended before it could be killed"
    finally:
        driver.kill()
        _, messages = driver.communicate()
    assert len(orphans) == 2
    assert "its worker was killed by SIGKILL; the cell is tried again" in messages
    until(lambda: not [pid for pid in orphans if Path(f"/proc/{pid}").exists()], "end of the workers", 5)
    whole = count(out)
    assert 2 <= whole < 6
    report = run(LONG, out=out, workers=1)
    assert (report.measured, report.there, report.failed) == (6 - whole, whole, {})
    calm.mkdir()
    first, *_, last = grid(LONG).cells
    for cell in grid(LONG).cells:
        cell.run(calm)
    assert same(out, calm)
    last.path(calm).write_bytes(first.path(calm).read_bytes())
    assert not same(out, calm)


@linux
@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(toml(**LONG))
    driver = start(tmp_path / "grid.toml", "--out", tmp_path / "out", "--workers", 2)
    until(lambda: count(tmp_path / "out") >= 1, "the first cell")
    workers = workers_of(driver.pid)
    begin = time.monotonic()
    driver.send_signal(signal.SIGINT)
    output, messages = driver.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert driver.returncode == 130
    assert output == ""
    assert (
        messages
        == "python -m empirical.sweep: interrupted; run it again: tables that were finished are kept\n"
    )
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not run(LONG, out=tmp_path / "out").failed


@pytest.mark.slow
def test_two_drivers_on_one_folder_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(toml(**LONG))
    out, calm = tmp_path / "out", tmp_path / "calm"
    drivers = [start(tmp_path / "grid.toml", "--out", out, "--workers", 1, "--json") for _ in range(2)]
    reports = [json.loads(driver.communicate(timeout=120)[0]) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert all(report["measured"] + report["there"] == 6 for report in reports)
    assert sum(report["measured"] for report in reports) >= 6
    calm.mkdir()
    for cell in grid(LONG).cells:
        cell.run(calm)
    assert same(out, calm)
