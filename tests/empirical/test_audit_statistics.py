"""A comparison accepts the truth, rejects what is 5 % wrong, and is as strict as it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from empirical.audit.statistics import (
    AGREES,
    CHANCE,
    DISAGREES,
    FLAGS,
    UNLIKELY,
    UNPREDICTED,
    WITHIN,
    ZERO,
    compare,
    score,
    worst,
)
from meanfield.errors import InputError

SEEDS, TENSORS, SPREAD = 400, 60, 0.1


def lognormal(rng: np.random.Generator, shape: tuple[int, ...], spread: float = SPREAD) -> Any:
    s = np.log1p(spread**2) ** 0.5
    return np.exp(s * rng.standard_normal(shape) - s**2 / 2)


def predicted(truth: np.ndarray, spread: float = SPREAD) -> pd.DataFrame:
    s = np.log1p(spread**2) ** 0.5
    middle = truth * np.exp(-(s**2) / 2)
    return pd.DataFrame({
        "parameter": [f"t{k}" for k in range(len(truth))],
        "layer": [k // 10 for k in range(len(truth))],
        "grad_sq": truth,
        "grad_sq_se": 0.0,
        "grad_sq_sd": spread * truth,
        "grad_sq_low": middle * np.exp(-1.96 * s),
        "grad_sq_high": middle * np.exp(1.96 * s),
    })


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.asarray(10.0 ** np.linspace(-6, 2, TENSORS))


@pytest.fixture(scope="module")
def values(truth: np.ndarray) -> np.ndarray:
    return np.asarray(truth * lognormal(np.random.default_rng(7), (SEEDS, TENSORS)))


def test_the_truth_is_accepted_and_five_per_cent_rejected(truth: np.ndarray, values: np.ndarray) -> None:
    right = score(compare(predicted(truth), values, 0.02))
    assert (right.tensors, right.within, right.disagree) == (TENSORS, TENSORS, 0)
    assert 0.93 < right.coverage < 0.97
    assert right.error == pytest.approx(SPREAD / SEEDS**0.5, rel=0.1)
    for factor in (0.95, 1.05):
        wrong = score(compare(predicted(factor * truth), values, 0.02))
        assert (wrong.within, wrong.disagree) == (0, TENSORS)


def test_a_single_wrong_tensor_is_found_and_named_first(truth: np.ndarray, values: np.ndarray) -> None:
    table = predicted(truth)
    table.loc[table.parameter == "t23", "grad_sq"] *= 1.06
    found = compare(table, values, 0.02)
    assert list(found.parameter[found.flag == DISAGREES]) == ["t23"]
    assert worst(found).parameter.iloc[0] == "t23"
    assert found.ratio[23] == pytest.approx(1 / 1.06, abs=0.02)
    assert found.ratio_high[23] < 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    inside = []
    for trial in range(40):
        rng = np.random.default_rng(trial)
        table = predicted(np.ones(TENSORS))
        drawn = lognormal(rng, (64, TENSORS))  # a prediction has an error of its own
        table["grad_sq"], table["grad_sq_se"] = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / 8
        found = compare(table, lognormal(rng, (32, TENSORS)), 0.02)
        inside.append((found.ratio_low <= 1) & (found.ratio_high >= 1))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)  # 2,400 intervals: 0.4 % is one standard error


@pytest.mark.statistical
@pytest.mark.parametrize("seeds", [2, 8, 32])
@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_chance_makes_a_faultless_audit_disagree_in_one_of_a_hundred(seeds: int, spread: float) -> None:
    trials = 300
    rng = np.random.default_rng([seeds, int(10 * spread)])
    table = predicted(np.ones(100), spread)
    alarms = sum(
        bool((compare(table, lognormal(rng, (seeds, 100), spread), 1e-6).flag == DISAGREES).any())
        for _ in range(trials)
    )
    # Three of 300 are expected; ten or more have a probability of 0.001.
    assert alarms < 10, f"{alarms} of {trials}, {100 * CHANCE} % asked for"


def test_exact_zeros_must_be_rounding() -> None:
    truth = np.r_[np.ones(8), 0.0, 0.0]
    rng = np.random.default_rng(1)
    values = np.r_[np.ones(8), 1e-16, 1e-3] * lognormal(rng, (50, 10))
    found = compare(predicted(truth), values, 0.1)
    assert list(found.flag[8:]) == [ZERO, DISAGREES]
    assert found.ratio[8] == 1
    assert np.isinf(found.ratio[9])
    assert worst(found).parameter.iloc[0] == "t9"
    assert score(found).zeros == 1
    # In half precision rounding is larger.
    assert compare(predicted(truth), values, 0.1, eps=2.0**-7).flag[9] == ZERO


def test_what_is_not_predicted_is_not_judged() -> None:
    truth = np.ones(10)
    table = predicted(truth)
    table.loc[3, [name for name in table if str(name).startswith("grad_sq")]] = np.nan
    found = compare(table, np.asarray(lognormal(np.random.default_rng(2), (50, 10))), 0.1)
    assert found.flag[3] == UNPREDICTED
    assert np.isnan(found.ratio[3])
    assert (score(found).unpredicted, score(found).tensors, score(found).disagree) == (1, 9, 0)


def test_few_seeds_are_held_to_the_predicted_spread() -> None:
    table, equal = predicted(np.ones(1)), np.array([[1.2], [1.2001]])  # two that happen to be near each other
    found = compare(table, equal, 0.02)
    assert found.flag[0] == WITHIN  # 1.2 is 2.6 standard errors of two seeds of spread 0.1
    far = compare(table, equal * 1.5, 0.02)
    assert far.flag[0] == DISAGREES


def test_between_three_standard_errors_and_chance_lies_the_unlikely() -> None:
    table = predicted(np.ones(100))
    values = np.ones((100, 100)) * np.r_[[0.9, 1.1] * 50][:, None]  # mean 1, standard error 0.01
    values[:, 4] *= np.exp(0.035)
    values[:, 5] *= np.exp(0.045)
    found = compare(table, values, 0.02)
    assert list(found.flag[:6]) == [AGREES] * 4 + [UNLIKELY, DISAGREES]


def test_every_flag_is_explained() -> None:
    assert set(FLAGS) == {AGREES, WITHIN, UNLIKELY, DISAGREES, ZERO, UNPREDICTED}


@pytest.mark.parametrize(
    ("seeds", "tolerance", "message"), [(1, 0.03, "1 seed gives no"), (4, 0.0, "tolerance=0.0 is no share")]
)
def test_what_cannot_be_compared_is_refused(seeds: int, tolerance: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(predicted(np.ones(2)), np.ones((seeds, 2)), tolerance)
