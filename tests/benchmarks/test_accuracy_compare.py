"""A comparison of gradients accepts the truth, and rejects what is 5 % wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy.compare import KEYS, join, judge, score
from benchmarks.accuracy.components import COMPONENTS, QUANTITIES, errors, predicted, settings
from benchmarks.accuracy.report import Comparison, report
from benchmarks.accuracy.store import Measured, condense, load_measured, save_measured
from meanfield.errors import InputError
from meanfield.ops import ParameterKey

SEEDS, TENSORS = 400, 60


def _measured(truth: np.ndarray) -> Measured:
    noise = np.random.default_rng(7).lognormal(-0.005, 0.1, size=(SEEDS, len(truth)))
    keys = [ParameterKey(k // 10 + 1, f"module{k % 10}", "weight") for k in range(len(truth))]
    return condense({"model": "made up"}, keys, (truth * noise).astype(np.float32))


def _predicted(truth: np.ndarray, measured: Measured) -> pd.DataFrame:
    table = pd.DataFrame(measured.keys, columns=KEYS)
    table["grad_sq"], table["grad_sq_limit"] = truth, 0.9 * truth
    table["grad_sq_se"], table["grad_sq_sd"] = 0.0, 0.1 * truth
    table["grad_sq_low"], table["grad_sq_high"] = truth * np.exp(-0.201), truth * np.exp(0.191)
    return table.sample(frac=1, random_state=3)


def test_the_truth_is_accepted_and_five_per_cent_rejected() -> None:
    truth = 10.0 ** np.linspace(-6, 2, TENSORS)
    measured = _measured(truth)
    right = score([judge(join(_predicted(truth, measured), measured), 0.02)], 0.02)
    assert (right.tensors, right.missed, right.disagree) == (TENSORS, 0, 0)
    assert right.r_squared > 0.99999
    assert 0.93 < right.coverage < 0.97
    assert right.limit_largest == pytest.approx(0.1, abs=0.02)
    wrong = score([judge(join(_predicted(1.05 * truth, measured), measured), 0.02)], 0.02)
    assert (wrong.missed, wrong.disagree) == (TENSORS, TENSORS)
    assert wrong.coverage < 0.93


def test_a_single_wrong_tensor_is_found() -> None:
    truth = np.ones(TENSORS)
    measured = _measured(truth)
    predicted = _predicted(truth, measured)
    culprit = (predicted.layer == 2) & (predicted.module == "module3")
    predicted.loc[culprit, "grad_sq"] *= 0.95
    judged = judge(join(predicted, measured), 0.02)
    assert judged[judged.disagrees][["layer", "module"]].to_numpy().tolist() == [[2, "module3"]]


def test_exact_zeros_must_be_rounding() -> None:
    truth = np.r_[np.full(9, 1.0), 1e-16]
    measured = _measured(truth)
    predicted = _predicted(np.r_[np.full(9, 1.0), 0.0], measured)
    assert score([judge(join(predicted, measured), 0.02)], 0.02).zeros == 1
    claimed = predicted.assign(grad_sq=predicted.grad_sq.where(predicted.module != "module3", 0.0))
    assert score([judge(join(claimed, measured), 0.02)], 0.02).disagree == 1


def test_a_tensor_without_partner_is_refused() -> None:
    truth = np.ones(10)
    measured = _measured(truth)
    with pytest.raises(InputError, match="1 tensors without a partner, the first is 1 module"):
        join(_predicted(truth, measured).iloc[1:], measured)


def test_a_measurement_survives_the_disk(tmp_path: Path) -> None:
    measured = _measured(np.ones(3))
    save_measured(tmp_path / "made_up.npz", measured)
    again = load_measured(tmp_path / "made_up.npz")
    assert (again.setting, again.keys, again.seeds) == (measured.setting, measured.keys, SEEDS)
    assert np.array_equal(again.se, measured.se)
    assert again.values.shape == (256, 3)


def test_the_page_says_what_was_met_and_names_what_was_not() -> None:
    truth = 10.0 ** np.linspace(-6, 2, TENSORS)
    measured = _measured(truth)
    predicted_table = _predicted(truth, measured)
    alone = {name: pd.DataFrame(0.001, index=range(5), columns=_columns()) for name in COMPONENTS}

    def page(table: pd.DataFrame) -> str:
        judged = judge(join(table, measured), 0.02)
        return report([Comparison("made_up", 512, SEEDS, judged)], alone, "no library")

    right = page(predicted_table)
    assert right.count("- Met:") == 5
    assert "Missed" not in right
    culprit = (predicted_table.layer == 2) & (predicted_table.module == "module3")
    predicted_table.loc[culprit, "grad_sq"] *= 1.06
    wrong = page(predicted_table)
    assert wrong.count("**Missed**: every tensor") == 1
    assert "| made_up | 512 | 2 module3 weight |" in wrong
    alone["norm"]["q_grad"] = 0.014
    assert ": not norm p50 (1.40 against 0.4)." in page(predicted_table)


def _columns() -> list[str]:
    return [*QUANTITIES, *(f"{quantity}_se" for quantity in QUANTITIES)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_errors_are_zero_for_the_theory_itself(component: str) -> None:
    table = pd.DataFrame([predicted(component, s) for s in settings(component)], columns=QUANTITIES)
    table[[f"{quantity}_se" for quantity in QUANTITIES]] = 0.0
    assert errors(component, table)[QUANTITIES].to_numpy().max() < 1e-12
    table["q_grad"] *= 1.05
    assert errors(component, table).q_grad.to_numpy() == pytest.approx(0.05 / 1.05)
