"""`python -m empirical.sweep`: what it prints, how it ends, and what it leaves alone."""

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from empirical.sweep.__main__ import main
from empirical.sweep.cell import Cell
from empirical.sweep.grid import grid, load
from empirical.sweep.outcome import Outcome, attempt
from meanfield.errors import InputError
from tests.empirical.sweep.cases import FAILS, ROOT, SMALL, toml

EXAMPLE = ROOT / "docs" / "examples" / "sweep.toml"


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cells run in this process; how many would have run at once."""
    asked = []

    def serial(cells: Sequence[Cell], folder: Path, *, workers: int) -> Generator[Outcome, None, None]:
        asked.append(workers)
        return (attempt(cell, folder) for cell in cells)

    monkeypatch.setattr("empirical.sweep.driver.local", serial)
    return asked


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(toml(**SMALL))
    return tmp_path / "small.toml"


def swept(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_sweep_is_run_and_goes_on(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert swept(capsys, small, "--out", out) == (
        0, f"8 cells in {out}: 8 measured, 0 there already, 0 failed\n", ""
    )  # fmt: skip
    grid(SMALL).cells[3].path(out).unlink()
    status, output, errors = swept(capsys, small, "--out", out, "--json")
    assert (status, errors) == (0, "")
    wanted = {"folder": str(out), "cells": 8, "there": 7, "measured": 1, "failed": {}}
    assert json.loads(output) == wanted


def test_failures_are_one_line_each_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid.toml").write_text(f"[[grid]]\n{toml(**SMALL)}\n[[grid]]\n{toml(**FAILS)}")
    status, output, errors = swept(capsys, tmp_path / "grid.toml", "--out", tmp_path / "out")
    (failing,) = grid(FAILS).cells
    assert status == 1
    assert errors.startswith(f"{failing.name}: ")
    assert "not finite" in errors
    assert errors.count("\n") == 1
    assert output.startswith(f"9 cells in {tmp_path / 'out'}: 8 measured, 0 there already, 1 failed\n")
    status, output, _ = swept(capsys, "collect", tmp_path / "out", "--json")
    assert status == 1
    assert json.loads(output)["failed"] == [failing.name]


def test_a_dry_run_says_what_it_will_cost_and_touches_nothing(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: list[int]
) -> None:
    status, output, errors = swept(capsys, small, "--out", tmp_path / "out", "--dry-run", "--workers", 1)
    assert (status, errors) == (0, "")
    assert "8 cells, 0 there already, 8 to be measured" in output
    assert "flop/s, measured now on this machine, one thread" in output
    assert max(map(len, output.splitlines())) <= 100
    assert not (tmp_path / "out").exists()
    assert not workers
    swept(capsys, small, "--out", tmp_path / "out")
    _, output, _ = swept(capsys, small, "--out", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(output)["missing"] == []
    _, output, _ = swept(capsys, small, "--out", tmp_path / "new", "--dry-run", "--json")
    rows = json.loads(output)["missing"]
    assert [row["options"] for row in rows][:2] == [
        {"arch": "paper_post_ln", "depth": 1}, {"arch": "paper_post_ln", "depth": 2},
    ]  # fmt: skip
    assert all(row["seconds"] > 0 and row["memory"] > 1e8 and row["flops"] > 0 for row in rows)


def test_collect_prints_and_writes_one_table(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    swept(capsys, small, "--out", out)
    status, output, errors = swept(capsys, "collect", out)
    assert (status, errors) == (0, "")
    assert "paper_post_ln depth=1" in output
    assert "8 cells, 4 configurations" in output
    for name in ("table.parquet", "table.csv"):
        assert swept(capsys, "collect", out, "--out", tmp_path / name)[0] == 0
    parquet, csv = pd.read_parquet(tmp_path / "table.parquet"), pd.read_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(parquet, csv)
    assert {"configuration", "seeds", "grad_sq_hat", "grad_sq_hat_se", "grad_sq_hat_sd"} <= set(csv.columns)
    _, output, _ = swept(capsys, "collect", out, "--json")
    assert len(json.loads(output)["table"]) == len(csv)
    swept(capsys, "collect", out, "--samples", "--out", tmp_path / "samples.csv")
    assert set(pd.read_csv(tmp_path / "samples.csv")["seed"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "{out}", "--out", "{tmp}/table.xlsx"], "is of no known kind: .* .parquet or .csv"),
        (["collect", "{out}", "--out", "{out}/table.csv"], "lies in the folder of the cells"),
        (["collect", "{tmp}"], "is no folder of a sweep"),
        (["{tmp}/none.toml", "--out", "{out}"], "cannot be read"),
        (["{tmp}/small.toml", "--out", "{out}", "--engine", "slurm"], "unknown engine .slurm.: .* ray"),
        (["{tmp}/small.toml", "--out", "{out}", "--workers", "0"], "workers=0 is too small"),
        (["{tmp}/small.toml", "--out", "{out}", "--address", "auto"], "are for engine='ray'"),
        (["{tmp}/small.toml", "--out", "{out}", "--gpus-per-cell", "0.5"], "are for engine='ray'"),
        (
            ["{tmp}/small.toml", "--out", "{out}", "--engine", "ray", "--gpus-per-cell", "-1"],
            "gpus_per_cell=-1",
        ),
        (
            ["{tmp}/small.toml", "--out", "{out}", "--engine", "ray", "--address", "a", "--workers", "2"],
            "workers with address",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    swept(capsys, small, "--out", tmp_path / "out")
    with pytest.raises(InputError, match=message):
        main([text.format(out=tmp_path / "out", tmp=tmp_path) for text in arguments])


def test_a_cell_that_needs_too_much_memory_is_refused_with_the_number(tmp_path: Path) -> None:
    huge: dict[str, Any] = {"arch": "pre_ln", "width": [8, 2**20], "heads": 1, "depth": 96, "seeds": 1}
    (tmp_path / "grid.toml").write_text(toml(**huge))
    with pytest.raises(
        InputError, match=r"cell pre_ln-\w+ \(width=1048576, depth=96.*needs about [\d,.]+ TiB"
    ):
        main([str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_fewer_workers_are_used_where_more_would_not_fit(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    workers: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("empirical.sweep.memory.available", lambda: 1.5e9)
    _, _, errors = swept(capsys, small, "--out", tmp_path / "out", "--workers", 50)
    assert workers == [3]
    assert errors == "3 cells at once in place of 50: there is no memory for more\n"


def test_the_example_of_the_documentation_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, errors = swept(capsys, EXAMPLE, "--out", tmp_path)
    assert (status, errors) == (0, "")
    assert output.startswith(f"{len(load(EXAMPLE).cells)} cells in")
    assert swept(capsys, "collect", tmp_path)[0] == 0
    text = (ROOT / "docs" / "sweeps.md").read_text()
    assert EXAMPLE.read_text() in text
