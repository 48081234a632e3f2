"""The comparison with dense weights accepts the truth, rejects what is wrong, and keeps what is done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.weight_free_law import __main__ as command
from benchmarks.weight_free_law import trial as trials
from benchmarks.weight_free_law.cases import Case, cases
from benchmarks.weight_free_law.compare import compare, holm, judged
from benchmarks.weight_free_law.dense import Squares, dense_squares
from benchmarks.weight_free_law.faults import FAULTS
from benchmarks.weight_free_law.report import BEGIN, END, everything, failures, tables, update
from benchmarks.weight_free_law.trial import (
    SIDES,
    TORCH,
    Trial,
    attempt,
    done,
    in_torch,
    load,
    path_of,
    save,
    settings,
)
from meanfield.errors import InputError
from meanfield.ops import ACTIVATIONS, ParameterKey
from meanfield.presets import PLACEMENTS
from meanfield.presets.catalogue import PRESETS
from meanfield.presets.options import GATED

SEEDS, TENSORS = 4000, 20
CASES = cases()


def lognormal(start: int, wrong: float = 1.0, culprits: int = TENSORS) -> Squares:
    """Squares of spread 30 % around 1, the first tensors times a factor."""
    values = np.random.default_rng(start).lognormal(-0.045, 0.3, size=(TENSORS, SEEDS))
    values[:culprits] *= wrong
    found = {ParameterKey(1, f"map{k}", "weight"): row for k, row in enumerate(values)}
    return found | {ParameterKey(1, "attention.k", "bias"): 1e-16 * values[0]}


def made_up(wrong: float = 1.0, culprits: int = TENSORS, scaled: float = 1.05) -> Trial:
    truth = lognormal(1)
    sides = dict.fromkeys(SIDES[:3], compare(lognormal(2), truth))
    sides |= dict.fromkeys(SIDES[3:], compare(lognormal(3, scaled), truth))
    sides[TORCH] = compare(lognormal(4, wrong, culprits), truth)
    setting = {"seeds": SEEDS, "commit": "c", "sampler": "s", "torch": "2", "numpy": "2", "seconds": 60.0}
    return Trial("made up", "attention", setting, sides)


def test_holm_rejects_more_than_bonferroni_and_less_than_single_tests() -> None:
    p = [0.04, 0.011, 0.02, 0.012, float("nan")]
    assert holm(p, 0.05).tolist() == [True, True, True, True, False]
    assert holm([0.04, 0.011, 0.03, 0.012], 0.05).tolist() == [False, True, False, True]
    assert not holm([float("nan")], 0.05).any()


def test_the_truth_is_accepted() -> None:
    table = judged(compare(lognormal(2), lognormal(1)))
    assert not (table.mean_rejected | table.law_rejected).any()
    assert table.z.isna().sum() == 1  # the key's bias
    assert not failures([made_up()])


@pytest.mark.parametrize("wrong", [1.05, 1 / 1.05])
def test_five_per_cent_are_rejected_everywhere(wrong: float) -> None:
    table = judged(compare(lognormal(2, wrong), lognormal(1))).dropna()
    assert table.mean_rejected.all()
    assert table.law_rejected.all()


def test_another_law_of_equal_mean_is_rejected() -> None:
    wider = {key: values * values / (values * values).mean() for key, values in lognormal(2).items()}
    table = judged(compare(wider, lognormal(1))).dropna()
    assert table.law_rejected.all()


def test_a_gradient_that_only_one_side_has_is_rejected() -> None:
    ours, key = lognormal(2), ParameterKey(1, "attention.k", "bias")
    ours[key] = 1e10 * ours[key]
    table = judged(compare(ours, lognormal(1)))
    assert table.set_index("module").law_rejected["attention.k"]


def test_samples_of_other_parameters_are_refused() -> None:
    ours = lognormal(2)
    ours.popitem()
    with pytest.raises(InputError, match=r"attention.k.*in one of the samples alone"):
        compare(ours, lognormal(1))


def test_a_single_wrong_tensor_fails_and_is_named() -> None:
    (line,) = failures([made_up(1.05, culprits=1)])
    assert line.startswith(f"{TORCH}, made up, layer 1 map0.weight: mean and law rejected, ratio 1.0")


def test_controls_that_see_nothing_fail() -> None:
    lines = failures([made_up(scaled=1.0)])
    assert lines == [
        "5 % wrong, made up: not rejected",
        *(f"{fault}: rejected in no case" for fault in FAULTS),
    ]


def test_the_tables_go_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    other = replace(made_up(1.05, culprits=1), case="other", group="uniform weights")
    update(page, tables([made_up(1.05, culprits=1), other]))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert f"| {TORCH} | made up | 1 map0.weight | 1.0" in text  # more than 3 standard errors off
    assert len(everything([made_up(), other])) == 2 * (TENSORS + 1)
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(InputError, match="has no lines"):
        update(page, "")


def test_cases_have_every_preset_placement_and_activation() -> None:
    assert set(PRESETS) <= set(CASES)
    assert {f"pair, {name}" for name in PLACEMENTS} <= set(CASES)
    used = {
        case.arch.feed_forward.activation for case in CASES.values() if hasattr(case.arch, "feed_forward")
    }
    assert set(ACTIVATIONS) == used
    assert set(GATED) - {"geglu_tanh"} <= set(CASES)
    assert len({path_of(Path(), name) for name in CASES}) == len(CASES)


@pytest.mark.parametrize("name", CASES)
def test_both_sides_have_the_same_parameters(name: str) -> None:
    case = CASES[name]
    dense = dense_squares(case.arch, case.setting, seeds=2, key=0)
    ours = in_torch(case, range(2))
    assert set(ours) == set(dense)
    assert all(np.isfinite(values).all() for values in dense.values())


@pytest.mark.parametrize("name", ["drawn gains and shifts, pre_ln", "pair, one table for both and the head"])
def test_seeds_together_are_seeds_one_by_one(name: str) -> None:
    def loop(function: Callable[..., Any], randomness: str) -> Callable[..., Any]:
        def every(parameters: Any, inputs: Any, target: Any) -> torch.Tensor:
            return torch.stack([
                function({n: p[k] for n, p in parameters.items()}, tuple(x[k] for x in inputs), target[k])
                for k in range(len(target))
            ])

        return every

    case = CASES[name]
    together = dense_squares(case.arch, case.setting, seeds=3, key=7)
    with mock.patch.object(torch, "vmap", loop):
        apart = dense_squares(case.arch, case.setting, seeds=3, key=7)
    largest = max(values.max() for values in apart.values())
    for key, values in apart.items():
        np.testing.assert_allclose(together[key], values, rtol=1e-4, atol=1e-10 * largest)


def test_masks_of_dropout_differ_from_seed_to_seed() -> None:
    case = CASES["dropout everywhere"]
    alike = replace(case.setting, gram=np.full((6, 6), 1.0))  # all tokens are equal but for their masks
    found = dense_squares(case.arch, alike, seeds=20, key=1)
    assert (found[ParameterKey(2, "attention.q", "weight")] > 1e-9).all()
    assert len(set(found[ParameterKey(2, "attention.q", "weight")])) == 20


def test_a_case_survives_the_disk_until_something_changes(tmp_path: Path) -> None:
    case, path = CASES["T = d"], path_of(tmp_path, "T = d")
    counted: list[int] = []
    tried = attempt(case, 16, counted.append)
    assert sum(counted) == trials.work(case, 16)
    save(tmp_path, tried)
    again = load(path)
    assert again.setting == tried.setting
    for side, table in tried.sides.items():
        pd.testing.assert_frame_equal(again.sides[side], table)
    assert done(path, case, 16)
    assert not done(path, case, 17)
    assert not done(path, CASES["T = d - 1"], 16)
    with mock.patch.object(trials, "fingerprint", return_value="another"):
        assert not done(path, case, 16)


def run(*arguments: str) -> int:
    with mock.patch.object(sys, "argv", ["weight_free_law", *arguments]):
        return command.main()


def test_a_run_that_is_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def interrupted(case: Case, seeds: int, progress: Any) -> Trial:
        tried.append(case.name)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return replace(made_up(), case=case.name, setting=made_up().setting | settings(case, seeds))

    monkeypatch.setattr(command, "attempt", interrupted)
    two = "--case", "post_ln", "--case", "pre_ln", "--measured", str(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(*two)
    assert run(*two) == 0
    assert tried == ["post_ln", "pre_ln", "pre_ln"]
    assert run(*two) == 0
    assert len(tried) == 3


def test_what_is_rejected_is_tried_again_and_shown(tmp_path: Path) -> None:
    case = CASES["T = d"]
    rejected = replace(made_up(1.05), case=case.name)
    save(tmp_path, rejected)
    save(tmp_path, replace(made_up(), case="post_ln"))
    assert run("--again", "--seeds", "30", "--measured", str(tmp_path)) == 0  # the sampler is right
    (path,) = (tmp_path / "again").iterdir()
    page = tables([rejected], [load(path)])
    assert "| T = d | fresh sampler |" in page
    assert f"- {TORCH}, T = d, layer 1 map0.weight: mean and law rejected" in page  # and stays so
    assert failures([rejected])


def test_a_case_that_fails_sets_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        command, "attempt", lambda case, seeds, progress: replace(made_up(1.05), case=case.name)
    )
    assert run("--case", "post_ln", "--measured", str(tmp_path)) == 1


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown case 'postln'"):
        run("--case", "postln")
    with pytest.raises(InputError, match="seeds"):
        run("--seeds", "0")
    with pytest.raises(InputError, match="is empty"):
        run("--report", "--measured", str(tmp_path))


def test_the_report_says_which_cases_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, replace(made_up(), case="post_ln"))
    (tmp_path / "weight_free.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    assert run("--report", "--measured", str(tmp_path), "--out", str(tmp_path)) == 1
    assert f"1 of {len(CASES)} cases" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "results" / "weight_free.csv")) == TENSORS + 1
