"""A folder of cells: whose it is, what is whole, what is set aside, and what cannot be written."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from empirical import store, tables
from empirical.sweep import collect, run
from empirical.sweep.folder import MANIFEST, SCHEMA, Folder
from empirical.sweep.grid import grid
from empirical.sweep.outcome import Outcome, attempt
from meanfield.errors import InputError
from tests.empirical.sweep.cases import SMALL, count, same

CELLS = grid(SMALL).cells


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep that is done."""
    opened = Folder.open(tmp_path / "sweep")
    for cell in CELLS:
        cell.run(opened.path)
    return opened.path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_cells_that_are_whole_are_not_missing(folder: Path) -> None:
    assert Folder.open(folder).missing(CELLS) == []
    CELLS[0].path(folder).unlink()
    assert Folder.open(folder).missing(CELLS) == [CELLS[0]]
    assert not CELLS[1].run(folder)  # another driver was faster


@pytest.mark.parametrize("change", [{"schema": SCHEMA + 1}, {"format": store.FORMAT + 1}, {"schema": "x"}])
def test_a_folder_of_another_version_is_refused_and_not_touched(folder: Path, change: dict[str, Any]) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change, "meanfield": "9.1"}))
    CELLS[0].path(folder).write_bytes(b"damaged")
    before = snapshot(folder)
    calls: list[Callable[[], object]] = [lambda: run(SMALL, out=folder), lambda: collect(folder)]
    for call in calls:
        with pytest.raises(InputError, match=r"was written by version 9\.1, schema .*: give another folder"):
            call()
    assert snapshot(folder) == before


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\0"])
def test_a_folder_that_does_not_say_its_version_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="does not say which version wrote the folder"):
        run(SMALL, out=folder)


def garbage(path: Path) -> None:
    path.write_bytes(b"not a table")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    pd.DataFrame({"x": [1.0]}).to_parquet(path)


def another_cell(path: Path) -> None:
    path.write_bytes(CELLS[3].path(path.parent).read_bytes())


def renamed_numbers(path: Path) -> None:
    table = pq.read_table(path)
    column = table.schema.get_field_index("grad_sq_hat")
    pq.write_table(table.set_column(column, "grad_sq_hat", table["mean_grad_sq_hat"].cast("float32")), path)


DAMAGES = [garbage, truncated, foreign, another_cell, renamed_numbers]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_cells_are_set_aside_and_measured_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    path = CELLS[0].path(folder)
    damage(path)
    damaged = path.read_bytes()
    (missing,) = Folder.open(folder).missing(CELLS)
    assert missing == CELLS[0]
    aside = path.with_name(f"{path.name}.corrupt-1")
    assert aside.read_bytes() == damaged
    assert f"moved to {aside.name}" in capsys.readouterr().err
    assert missing.run(folder)
    assert Folder.open(folder).missing(CELLS) == []
    for cell in CELLS:
        cell.run(tmp_path)
    assert same(folder, tmp_path)


@pytest.mark.parametrize("damage", [garbage, foreign])
def test_foreign_tables_beside_the_cells_are_set_aside(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(folder / "mine.parquet")
    mine = (folder / "mine.parquet").read_bytes()
    found = collect(folder)
    assert (found.cells, found.damaged) == (len(CELLS), 1)
    assert (folder / "mine.parquet.corrupt-1").read_bytes() == mine
    damage(folder / "mine.parquet")
    assert Folder.open(folder).missing(CELLS) == []
    assert (folder / "mine.parquet.corrupt-2").exists()
    assert capsys.readouterr().err.count("moved to mine.parquet.corrupt-") == 2


def test_tables_that_no_sweep_made_are_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.kept(folder, "figure", {"table": "x"}, lambda: pd.DataFrame({"x": [1.0]}))
    Folder.open(folder).missing(CELLS)
    assert collect(folder).cells == len(CELLS)
    assert len(list(folder.glob("figure-*.parquet"))) == 1
    assert capsys.readouterr().err == ""


def test_two_runs_never_overwrite_what_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"damaged")
    (tmp_path / "a.parquet.corrupt-1").write_bytes(b"of another run")
    tables.set_aside(path, "it is damaged")
    assert (tmp_path / "a.parquet.corrupt-1").read_bytes() == b"of another run"
    assert (tmp_path / "a.parquet.corrupt-2").read_bytes() == b"damaged"
    tables.set_aside(path, "it is damaged")  # another run has moved it
    assert not (tmp_path / "a.parquet.corrupt-3").exists()


def full(*args: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["pyarrow.parquet.write_table", "os.fsync"])
def test_a_full_disk_loses_nothing_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    CELLS[0].path(folder).unlink()
    before = snapshot(folder)
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        outcome = attempt(CELLS[0], folder)
    assert outcome.full
    assert "No space left on device" in str(outcome.error)
    assert "free space or give another folder" in str(outcome.error)
    assert snapshot(folder) == before
    assert attempt(CELLS[0], folder).error is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mount is not permitted")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_really_fills_up(small_disk: Path) -> None:
    wanted = {**SMALL, "width": [8, 16], "depth": [1, 2, 4]}
    opened = Folder.open(small_disk)
    outcomes: list[Outcome] = []
    while not outcomes or not outcomes[-1].full:
        outcomes.append(attempt(grid(wanted).cells[len(outcomes)], opened.path))
    assert "No space left on device" in str(outcomes[-1].error)
    whole = count(small_disk)
    assert 0 < whole < len(grid(wanted).cells)
    assert not list(small_disk.glob(".*.tmp"))
    assert len(Folder.open(small_disk).missing(grid(wanted).cells)) == len(grid(wanted).cells) - whole


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        run(SMALL, out=tmp_path / "file" / "below")
    with pytest.raises(InputError, match="is no folder of a sweep"):
        collect(tmp_path)
