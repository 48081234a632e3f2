"""Streaming: the same numbers as the ensemble's, in memory that does not grow with depth."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

import empirical
import meanfield as mf
from empirical import streamed
from meanfield import ops
from meanfield.errors import InputError
from tests.meanfield.test_weight_free import CASES, SOURCE_PADDED

BY = ["seed", "layer", "module", "parameter"]


def squares(table: pd.DataFrame) -> pd.Series:
    return table.query("parameter != 'activation'").set_index(BY).grad_sq_hat


@pytest.mark.parametrize("name", CASES)
def test_every_rule_gives_the_numbers_of_the_ensemble(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every second layer alone is the input kept, so that others are computed again."""
    monkeypatch.setattr(streamed, "STATES", 400)
    arch, how = CASES[name]
    fixed: dict[str, Any] = {"loss": how.get("loss", "linear"), "padding": how.get("padding")}
    if isinstance(arch, ops.EncoderDecoder):
        fixed["source_tokens"] = 4
        fixed["padding"] = None if fixed["padding"] is None else (SOURCE_PADDED, fixed["padding"])
    if fixed["loss"] == "cross_entropy":
        fixed["label_smoothing"] = how.get("smoothing", 0.0)
    shared: dict[str, Any] = {"tokens": 3, "batch": 2, "seeds": [4, 1], "dtype": "float64", **fixed}
    found, expected = (squares(f(arch, **shared).samples) for f in (empirical.stream, empirical.ensemble))
    np.testing.assert_allclose(found, expected.reindex(found.index), rtol=1e-9, atol=1e-12 * expected.max())


@pytest.mark.parametrize("states", [1, 2000, 10**6])
def test_any_number_of_kept_inputs_gives_the_same_bits(states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = mf.pre_ln(width=32, depth=7, heads=2, d_ff=64, activation="gelu", dropout=0.1)
    expected = empirical.stream(arch, tokens=4, seeds=range(2)).samples
    monkeypatch.setattr(streamed, "STATES", states)
    found = empirical.stream(arch, tokens=4, seeds=range(2)).samples
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_automatic_differentiation_agrees_in_single_precision() -> None:
    arch = mf.post_ln(width=192, depth=5, heads=4, d_ff=384, activation="gelu", init="torch_transformer")
    how: dict[str, Any] = {"tokens": 16, "seeds": range(3)}
    found, expected = (squares(f(arch, **how).samples) for f in (empirical.stream, empirical.measure))
    expected = expected.reindex(found.index)
    there = expected > 1e-12 * expected.max()
    assert (found[there] / expected[there] - 1).abs().max() < 1e-5
    assert (found[there] / (1.05 * expected[there]) - 1).abs().max() > 1e-2


PEAK = """
import sys, meanfield as mf, empirical
def peak():
    with open('/proc/self/status') as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024
width, depth = map(int, sys.argv[1:])
arch = mf.pre_ln(width=width, depth=depth, heads=width // 64, activation="gelu", init="torch_transformer")
before = peak()
table = empirical.stream(arch, tokens=32).df
assert len(table) == 16 * depth + 2, len(table)
print(peak() - before)
"""


def peak(width: int, depth: int) -> float:
    """Peak resident memory of a fresh process above that after its imports, in MB."""
    command = [sys.executable, "-c", PEAK, str(width), str(depth)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_depth() -> None:
    """96 layers of width 512 hold 1.2 GB of weights; 1,000 layers 12.6 GB. What grows is the table."""
    assert peak(512, 96) < 120
    assert peak(512, 1000) < 160


def test_bad_input() -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=2, d_ff=32)
    with pytest.raises(InputError, match="needs an output head and pre_ln has none"):
        empirical.stream(arch, loss="cross_entropy")
    with pytest.raises(InputError, match="tokens=0"):
        empirical.stream(arch, tokens=0)
