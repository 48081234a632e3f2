"""Cells become one table: seeds are joined within a configuration, and nowhere else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import empirical
import meanfield as mf
from empirical import tables
from empirical.setting import KEYS
from empirical.sweep import collect
from empirical.sweep.folder import Folder
from empirical.sweep.grid import grid
from meanfield.errors import InputError

BASE = {"arch": "pre_ln", "width": 8, "heads": 2, "depth": 1, "tokens": 3, "seeds": 5, "seed_block": 2}
ROUNDING = 1e-6  # of a key's bias, whose gradient is 0 in exact numbers: some last places of 1


def swept(folder: Path, *changes: dict[str, object]) -> Path:
    opened = Folder.open(folder)
    for change in changes or ({},):
        for cell in grid({**BASE, **change}).cells:
            cell.run(opened.path)
    return opened.path


def test_blocks_of_seeds_are_joined_to_what_one_measurement_gives(tmp_path: Path) -> None:
    found = collect(swept(tmp_path))
    direct = empirical.ensemble(mf.pre_ln(width=8, heads=2, depth=1), tokens=3, seeds=range(5))
    assert found.cells == 3
    assert found.own == ("configuration", "method")
    pd.testing.assert_frame_equal(found.samples.drop(columns=list(found.own)), direct.samples, atol=ROUNDING)
    own = found.df.drop(columns=[*found.own, "seeds"])
    pd.testing.assert_frame_equal(own, direct.df, atol=ROUNDING)
    wrong = own.assign(grad_sq_hat=own["grad_sq_hat"] * 1.05)
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(wrong, direct.df, atol=ROUNDING)
    assert (found.df["seeds"] == 5).all()


def test_configurations_stay_apart_and_what_differs_has_a_column(tmp_path: Path) -> None:
    found = collect(swept(tmp_path, {"causal": [False, True]}, {"width": 16, "rotary": 0.5}, {"vocab": 10}))
    assert found.own == ("configuration", "method", "causal", "rotary", "vocab")
    apart = found.df.groupby("configuration")[["width", "causal", "rotary", "vocab"]].first()
    assert len(apart) == 4
    assert sorted(apart["causal"]) == [False, False, False, True]
    keys = [*KEYS, *found.own[1:]]
    assert not found.df.duplicated(keys).any()
    assert found.df.duplicated(KEYS).any()  # without these columns rows would be mixed up
    assert found.df.groupby("configuration")["seeds"].first().eq(5).all()


def test_methods_stay_apart(tmp_path: Path) -> None:
    found = collect(swept(tmp_path, {"method": ["ensemble", "weight_free"]}))
    assert set(found.df["method"]) == {"ensemble", "weight_free"}
    assert found.df["configuration"].nunique() == 2


def test_seeds_in_two_blocks_count_once(tmp_path: Path) -> None:
    once = collect(swept(tmp_path / "once")).df
    twice = collect(swept(tmp_path / "twice", {}, {"seed_block": 3}))
    assert twice.cells == 5
    pd.testing.assert_frame_equal(twice.df, once, rtol=1e-4, atol=ROUNDING)


def test_other_numbers_for_one_seed_are_refused(tmp_path: Path) -> None:
    swept(tmp_path, {}, {"seed_block": 3})
    cell = grid({**BASE, "seed_block": 3}).cells[1]
    table, metadata = tables.read(cell.path(tmp_path))
    described = {key: metadata[key] for key in ("configuration", "options")}
    tables.write(cell.path(tmp_path), table.assign(grad_sq_hat=table["grad_sq_hat"] * (1 + 1e-9)), described)
    assert collect(tmp_path).cells == 5
    tables.write(cell.path(tmp_path), table.assign(grad_sq_hat=table["grad_sq_hat"] * 1.05), described)
    with pytest.raises(InputError, match="have other numbers for seed=3 of one configuration"):
        collect(tmp_path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    swept(tmp_path)
    cell = grid(BASE).cells[0]
    table, metadata = tables.read(cell.path(tmp_path))
    described = {key: metadata[key] for key in ("configuration", "options")}
    tables.write(cell.path(tmp_path), table.drop(columns="q_hat"), described)
    with pytest.raises(InputError, match="has other columns than"):
        collect(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no whole cell"):
        collect(Folder.open(tmp_path).path)


def test_options_of_several_types_are_written(tmp_path: Path) -> None:
    windows = {"depth": 2, "window": [2, [2, "none"], "none"]}
    found = collect(swept(tmp_path, windows, {"score_scale": ["mup", 0.5]}))
    assert set(found.df["window"]) == {"2", "[2, null]", "none"}
    assert set(found.df["score_scale"]) == {"mup", "0.5", "none"}
    found.df.to_parquet(tmp_path / "table.pq")
    assert np.isfinite(pd.read_parquet(tmp_path / "table.pq")["grad_sq_hat"]).all()
