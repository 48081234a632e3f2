"""Tables that are kept, and measurements that are taken once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from empirical.store import FORMAT
from figures.lab import Cell, Lab, theory, work
from meanfield import paper_encoder_decoder, paper_pre_ln

CELL = Cell(paper_pre_ln(width=8, depth=2), tokens=2, seeds=3)


def test_kept_table_is_made_once_and_again_when_broken(tmp_path: Path) -> None:
    made = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"x": [1 / 3]})

    lab = Lab(tmp_path)
    for _ in range(2):
        assert lab.kept("thing", (1, 2), make)["x"].tolist() == [1 / 3]
    assert len(made) == 1
    (path,) = tmp_path.iterdir()
    cell = json.loads(pq.read_schema(path).metadata[b"configuration"])
    assert cell == {"format": FORMAT, "table": "thing", "of": [1, 2]}
    path.write_bytes(path.read_bytes()[:20])
    assert lab.kept("thing", (1, 2), make)["x"].tolist() == [1 / 3]
    assert len(made) == 2
    lab.kept("thing", (1, 3), make)
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    Lab(tmp_path, force=True).kept("thing", (1, 2), make)
    assert len(made) == 4


def test_equal_cells_are_measured_once_even_with_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def measured(arch: object, **options: Any) -> pd.DataFrame:
        calls.append((arch, options["seeds"], options["force"]))
        options["progress"](len(options["seeds"]))
        return pd.DataFrame({"seed": options["seeds"]})

    monkeypatch.setattr("empirical.measured", measured)
    done: list[float] = []
    lab = Lab(tmp_path, force=True, advance=done.append)
    same = Cell(paper_pre_ln(width=8, depth=2), tokens=2, seeds=3)
    assert lab.samples(CELL) is lab.samples(same)
    assert calls == [(CELL.arch, range(3), True)]
    assert sum(done) == work([CELL, same])


def test_theory_covers_one_stack_and_two() -> None:
    assert set(theory(CELL).df["depth"]) == {2}
    arch = paper_encoder_decoder(width=8, depth=1, heads=2, d_ff=8, vocab=5, attention="uniform")
    two = Cell(arch, tokens=2, seeds=2)
    assert {module.partition(".")[0] for module in theory(two).df["module"]} == {"encoder", "decoder"}


def test_a_damaged_table_is_made_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    values = pd.DataFrame({"value": np.random.default_rng(0).standard_normal(50)})
    lab.kept("numbers", "size 50", lambda: values)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for position in range(0, len(whole), 23):  # pages, their headers and the footer alike
        damaged = bytearray(whole)
        damaged[position] ^= 16
        path.write_bytes(bytes(damaged))
        assert lab.kept("numbers", "size 50", lambda: values)["value"].tolist() == values["value"].tolist()


def test_cost_grows_with_everything() -> None:
    def cost(width: int = 64, depth: int = 2, tokens: int = 4, minibatches: int = 1) -> float:
        arch = paper_pre_ln(width=width, depth=depth)
        return Cell(arch, tokens, seeds=1, minibatches=minibatches).seed_cost

    assert min(cost(width=128), cost(depth=4), cost(tokens=8), cost(minibatches=2)) > cost()
    assert cost(depth=4) == 2 * cost()
