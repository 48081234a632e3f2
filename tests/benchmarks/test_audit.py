"""The page on foreign families accepts the truth, rejects what is 5 % wrong, and keeps reasons verbatim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.audit.family import Family, output
from benchmarks.audit.report import judge, report, summary
from benchmarks.audit.store import Trial, load, nothing, path_of, save
from empirical.audit.statistics import compare
from meanfield.errors import InputError

SEEDS, TENSORS = 128, 40
SETTING = {
    "library": "torch 2.0",
    "torch": "2.0",
    "sizes": {"width": 8, "depth": 2, "heads": 2, "batch": 2, "tokens": 3, "vocab": 5},
    "seeds": SEEDS,
    "tolerance": 0.03,
    "seconds": 1.0,
}


def trial(wrong: float = 1.0, culprits: int = TENSORS) -> Trial:
    """Measurements of spread 10 % around 1, predicted right or wrong."""
    values = np.random.default_rng(5).lognormal(-0.005, 0.1, size=(SEEDS, TENSORS))
    predicted = pd.DataFrame({
        "parameter": [f"layer.{k}.weight" for k in range(TENSORS)],
        "layer": 1,
        "module": "ffn.up",
        "role": "weight",
        "grad_sq": np.where(np.arange(TENSORS) < culprits, wrong, 1.0),
        "grad_sq_se": 0.005,
        "grad_sq_sd": 0.1,
        "grad_sq_low": 0.8,
        "grad_sq_high": 1.2,
        "grad_sq_limit": 1.0,
    })
    return Trial("made_up", "linear", SETTING, None, ("a note",), compare(predicted, values, 0.03))


def refused() -> Trial:
    return Trial("odd", "linear", SETTING, "h.0: does | what no op does", (), nothing())


def test_the_truth_is_accepted() -> None:
    s = summary(judge([trial()]))
    assert (s.tensors, s.within, s.beyond, s.zeros, s.unpredicted) == (TENSORS, TENSORS, 0, 0, 0)
    assert s.median < 0.01 < s.largest < 0.04


@pytest.mark.parametrize("wrong", [1.07, 1 / 1.07])
def test_seven_per_cent_are_beyond_chance(wrong: float) -> None:
    s = summary(judge([trial(wrong)]))
    assert s.within < TENSORS // 4
    assert s.beyond > TENSORS // 2


def test_five_per_cent_miss_the_target() -> None:
    s = summary(judge([trial(1.05)]))
    assert s.within < TENSORS // 2


def test_a_single_wrong_tensor_is_named() -> None:
    page = report([trial(1.15, culprits=1), refused()], set())
    misses = page.split("## Tensors that miss the target")[1].split("##")[0]
    assert "`layer.0.weight`" in misses
    assert "`layer.1.weight`" not in misses


def test_the_reason_of_a_refusal_is_kept() -> None:
    page = report([trial(), refused()], {"odd"})
    assert "does \\| what no op does" in page.split("### Refused there")[1]


@pytest.mark.parametrize("kept", [trial(1.02), refused()], ids=["read", "refused"])
def test_a_trial_survives_the_disk(tmp_path: Path, kept: Trial) -> None:
    save(tmp_path, kept)
    again = load(path_of(tmp_path, kept.family, kept.variant))
    assert (again.refused, again.notes, again.setting) == (kept.refused, kept.notes, kept.setting)
    assert again.table.flag.tolist() == kept.table.flag.tolist()
    np.testing.assert_allclose(again.table.ratio.astype(float), kept.table.ratio.astype(float), rtol=1e-6)


def test_a_family_has_known_variants() -> None:
    with pytest.raises(InputError, match="give some of"):
        Family("none", "torch", {})


def test_an_output_without_vectors_is_refused() -> None:
    with pytest.raises(InputError, match="neither logits nor hidden states"):
        output(["a"])
