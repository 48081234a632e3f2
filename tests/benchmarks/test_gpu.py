"""The GPU benchmark without a GPU: every part runs as a toy; parts that fail take nothing with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_place import Place, dense_values, encoder, products_of
from benchmarks.gpu_runner import Note, Part, run_parts

SCRIPT = Path(gpu.__file__)


def test_all_parts_run_as_toys(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--smoke", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert set(gpu.PARTS) < set(found)
    assert [found[part]["status"] for part in gpu.PARTS] == ["done"] * len(gpu.PARTS)
    assert found["environment"]["torch"] == torch.__version__
    assert found["seconds"] < 30
    assert not gpu.faults(found)


def test_a_device_that_is_not_there_ends_it_at_once(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "environment: InputError: device='cuda' is not present" in done.stdout
    assert json.loads(out.read_text())["audit"]["status"] == "left out without environment"


def fine(before: dict[str, Any], note: Note) -> None:
    note("value", len(before))


def hangs(before: dict[str, Any], note: Note) -> None:
    note("first", 1)
    time.sleep(60)
    note("second", 2)


def crashes(before: dict[str, Any], note: Note) -> None:
    note("first", 1)
    time.sleep(0.2)  # what has been noted is on its way
    os._exit(7)


def fails(before: dict[str, Any], note: Note) -> None:
    raise ValueError("a line\nand another")


def test_parts_that_fail_take_nothing_with_them(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    works = (fine, hangs, crashes, fails, fine)
    parts = [Part(f"{work.__name__}{k}", work, 1.0) for k, work in enumerate(works)]
    found = run_parts(parts, out, {"smoke": True}, 60, finish=sorted)
    statuses = {name: found[name]["status"] for name in found if isinstance(found[name], dict)}
    assert statuses == {
        "fine0": "done",
        "hangs1": "ended after 1 s",
        "crashes2": "died with exit status 7",
        "fails3": "ValueError: a line",
        "fine4": "done",
    }
    assert found["hangs1"]["first"] == found["crashes2"]["first"] == 1
    assert "second" not in found["hangs1"]
    assert found["fine4"]["value"] == 6  # what was known before it, and itself
    assert json.loads(out.read_text()) == found


def test_time_is_shared(tmp_path: Path) -> None:
    parts = [Part("slow", hangs, 30.0), Part("left", fine, 30.0)]
    found = run_parts(parts, tmp_path / "x.json", {}, 0.5, finish=len)
    assert found["slow"]["status"].startswith("ended after")
    assert found["left"]["status"] == "no time was left"


def test_wrong_numbers_are_faults() -> None:
    good = {part: {"status": "done", "seconds": 1.0} for part in gpu.PARTS}
    assert gpu.faults(good) == []
    for part, name, value in (
        ("host_and_device", "ensemble", {"worst_z": 9.0, "agrees": False}),
        ("never_waits", "sees_a_look", False),
        ("precision", "tf32", {"largest": 0.5, "small_enough": False}),
    ):
        assert len(gpu.faults({**good, part: {**good[part], name: value}})) == 1


def test_aims_are_compared() -> None:
    results = {
        "weight_free": {"d=512, float32": {"seeds_per_s": 4000.0}},
        "streaming": {"d=4096, L=96, T=2048, tf32": {"seconds": 0.9, "peak_gb": 17.0}},
    }
    assert [aim["reached"] for aim in gpu.aims(results).values()] == [False, True, False]


def test_the_comparison_of_means_sees_five_per_cent() -> None:
    found: dict[str, Any] = {}
    gpu_parts.host_and_device(Place("cpu", True), {}, lambda name, value: found.update({name: value}))
    for values in found.values():
        assert values["worst_z"] < gpu_parts.WORST
        assert values["worst_z_if_wrong"] > values["worst_z"]


def test_one_model_in_every_precision() -> None:
    """Float32's own error is seen; double precision of other weights would be off by per cents."""
    arch, place = encoder(32, 2), Place("cpu", True)
    single, double, other = (
        dense_values(arch, place, dtype, seeds, tokens=4)
        for dtype, seeds in (("float32", range(3)), ("float64", range(3)), ("float64", range(5, 8)))
    )
    there = double > 1e-12 * double.max()
    assert 0 < np.abs(single / np.where(there, double, 1) - 1)[there].max() < 1e-5
    assert np.abs(single / np.where(there, other, 1) - 1)[there].max() > 0.05


def test_operations_of_many_tokens() -> None:
    width, tokens = 64, 10**6  # norms by the products themselves
    assert products_of(encoder(width, 2), tokens) == 2 * 12 * width**2 * 6 * tokens
    assert products_of(encoder(width, 2), tokens, forward=2) == 2 * 12 * width**2 * 8 * tokens
