"""Saving: whole files, equal bytes, and settings that do not leak."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from figures import style
from meanfield.errors import InputError


def saved(folder: Path) -> dict[str, bytes]:
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [1 / 3, 0.1, 1e-30]})
    with style.style():
        figure, axes = style.canvas(1, 1, style.COLUMN, 2.0)
        axes[0, 0].plot(table["x"], table["y"])
        middle = np.array([1.0, 2.0, 3.0])
        style.points(axes[0, 0], middle, middle - 0.1, middle, middle + 0.2, 1, r"$\rho$, $\sqrt{2/3}$")
        axes[0, 0].legend()
        style.save(figure, {"data": table}, folder, "sample")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figure_and_data_are_written_and_equal_every_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert sorted(first) == ["sample.data.csv", "sample.pdf", "sample.png", "sample.sha256"]
    assert first == second
    assert b"/FontFile2" in first["sample.pdf"]  # TrueType, not Type 3
    assert b"CreationDate" not in first["sample.pdf"]


def test_data_round_trips_to_the_last_digit(tmp_path: Path) -> None:
    saved(tmp_path)
    table = pd.read_csv(tmp_path / "sample.data.csv")
    assert table["y"].tolist() == pytest.approx([1 / 3, 0.1, 1e-30], rel=1e-15)


def test_fonts_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="matplotlib"):
        saved(tmp_path)
    assert not caplog.records  # a missing font is a warning in matplotlib's log


def test_style_does_not_leak() -> None:
    before = matplotlib.rcParams["font.family"]
    with style.style():
        assert matplotlib.rcParams["font.family"] == ["STIXGeneral"]
    assert matplotlib.rcParams["font.family"] == before


def test_neighbouring_series_differ_in_colour_and_marker() -> None:
    with style.style():
        looks = [style.series(k) for k in range(7)]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 7


def test_nothing_is_left_when_a_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="No space left"):
        style.write_whole(tmp_path, {"a.csv": b"1", "b.csv": b"2"})
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a folder that can be written"):
        style.write_whole(tmp_path / "none", {"a": b""})
