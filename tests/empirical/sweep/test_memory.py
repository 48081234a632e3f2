"""Memory: what there is, what fits into it, and estimates against what processes really take."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from empirical.sweep import memory
from empirical.sweep.grid import grid
from meanfield.errors import InputError
from tests.empirical.sweep.cases import ROOT

GIB = 2**30
MEASURE = """
import json, sys
import torch
from empirical.sweep.grid import grid
torch.set_num_threads(1)
grid(json.loads(sys.argv[1])).cells[0].measure()
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""
BASE: dict[str, Any] = {"arch": "pre_ln", "width": 256, "heads": 4, "depth": 12, "tokens": 16, "seeds": 2}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("method", ["ensemble", "stream", "weight_free"])
@pytest.mark.parametrize(
    "change",
    [
        {"width": 1024, "heads": 16},  # weights
        {"tokens": 256, "batch": 8},  # hidden states
        {"tokens": 1024, "heads": 16, "depth": 4},  # attention weights
        {
            "vocab": 32_000,
            "loss": "cross_entropy",
            "width": 512,
            "tokens": 64,
            "depth": 2,
        },  # embedding, logits
    ],
)
def test_estimated_memory_is_that_of_a_fresh_process(method: str, change: dict[str, Any]) -> None:
    table = {**BASE, **change, "method": method}
    command = [sys.executable, "-c", MEASURE, json.dumps(table)]
    measured = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    (cell,) = grid(table).cells
    assert within(memory.peak(cell), measured)
    assert not within(2.5 * memory.peak(cell), measured)


def within(estimate: float, measured: float) -> bool:
    return measured / 1.5 < estimate < measured * 1.5


def test_memory_grows_with_what_fills_it() -> None:
    (small,) = grid(BASE).cells
    for change in ({"width": 512}, {"depth": 24}, {"tokens": 64}, {"batch": 4}, {"dtype": "float64"}):
        (large,) = grid({**BASE, **change}).cells
        assert memory.peak(large) > memory.peak(small)


def test_workers_are_as_many_as_fit() -> None:
    cells = grid(BASE).cells
    one = memory.peak(cells[0])
    assert memory.workers_that_fit(cells, 4, 10 * one) == 4
    assert memory.workers_that_fit(cells, 4, 2.5 * one) == 2
    assert memory.workers_that_fit((), 4, 0) == 4
    with pytest.raises(
        InputError, match=r"cell pre_ln-\w+ .*needs about \d+ MiB of memory and \d+ MiB are free"
    ):
        memory.workers_that_fit(cells, 4, 0.9 * one)


def test_what_is_available_is_a_sensible_number() -> None:
    assert 2**26 < memory.available() < 2**50


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups_limit_what_is_available(tmp_path: Path, version: int) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/job/step\n" if version == 2 else "9:cpu:/x\n4:memory:/job/step\n0::/\n")
    root = tmp_path if version == 2 else tmp_path / "memory"
    limit, usage, cache = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    for place, most in (
        (root / "job" / "step", "max" if version == 2 else str(2**62)),
        (root / "job", str(4 * GIB)),
    ):
        place.mkdir(parents=True, exist_ok=True)
        (place / limit).write_text(f"{most}\n")
        (place / usage).write_text(f"{3 * GIB}\n")
        (place / "memory.stat").write_text(f"{cache} {GIB}\nother 5\n")
    assert min(memory.left_by_groups(tmp_path, own)) == 2 * GIB
