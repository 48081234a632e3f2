"""Where curves come down to a level, and how many steps one side needs over those of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figures import races, steps_to_loss
from figures.outcomes import RUN
from tests.figures.training_tables import RATES, START, STEPS, Course, paper, trained


def where(table: pd.DataFrame, **keys: Any) -> pd.DataFrame:
    for key, value in keys.items():
        table = table[table[key] == value]
    return table


falling = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=10)


@settings(deadline=None)
@given(falling, st.floats(0.01, 0.99))
def test_a_falling_curve_is_crossed_where_interpolation_says(drops: list[float], share: float) -> None:
    losses = 10.0 - np.cumsum([0.0, *drops])
    steps = np.arange(len(losses)) * 7.0
    level = losses[0] + share * (losses[-1] - losses[0])
    assert races.crossing(steps, losses, level) == pytest.approx(np.interp(-level, -losses, steps))
    assert np.isnan(races.crossing(steps, losses, losses[-1] - 1e-6))


def test_the_first_crossing_counts_where_a_curve_comes_back_up() -> None:
    assert races.crossing([0, 1, 2, 3], [4.0, 2.0, 5.0, 1.0], 3.0) == 0.5
    assert races.crossing([0, 1], [2.0, 1.0], 3.0) == 0.0


def test_the_ratio_of_steps_is_that_of_the_time_constants() -> None:
    def course(key: Any) -> Course:
        return Course(1.0, 150.0 if key["placement"] == "pre_ln" else 300.0)

    tables = steps_to_loss.measure(trained(course, noise=1e-4))
    ratios = where(tables["ratios"], task="translation", race="pre_ln")
    assert sorted(ratios["lr_max"].unique()) == list(RATES)
    # A chord lies above an exponential: at 100 steps between evaluations that is at most 100^2/(8 time).
    assert ratios["ratio"].to_numpy() == pytest.approx(0.5, abs=0.03)
    assert (ratios["bound"] == "exact").all()
    assert set(tables["steps"].groupby(["race", "race_lr_max", "share", "side", *RUN]).size()) == {1}


def test_a_loss_that_is_never_reached_is_a_bound_and_no_guess() -> None:
    def course(key: Any) -> Course:
        late = key["seed"] == 1 and key["placement"] == "post_ln"
        return Course(2.5) if late else paper(key)

    tables = steps_to_loss.measure(trained(course))
    hard = where(tables["ratios"], task="translation", race="pre_ln", share=0.98).iloc[0]
    assert (hard["bound"], hard["first_never"], hard["second_never"]) == ("at most", 0, 1)
    steps = where(tables["steps"], task="translation", race="pre_ln", share=0.98, seed=1, side="second")
    assert steps["reached"].isna().all()
    assert (steps["last_step"] == STEPS).all()
    easy = where(tables["ratios"], task="translation", race="pre_ln", share=0.5).iloc[0]
    assert (easy["bound"], easy["second_never"]) == ("exact", 0)


def test_two_that_never_get_there_have_no_ratio_to_speak_of() -> None:
    rows = pd.DataFrame({"reached": [100.0, np.nan, 100.0], "last_step": [200.0, 200.0, 200.0]})
    assert races.speed(rows, rows)[1] == "unknown"
    whole = rows.fillna(150.0)
    assert races.speed(rows, whole)[1] == "at least"
    assert races.speed(whole, rows)[1] == "at most"


@pytest.mark.parametrize("final", [START + 1.0, START - 0.01])
def test_what_learns_next_to_nothing_is_not_compared(final: float) -> None:
    assert steps_to_loss.measure(trained(lambda key: Course(final), noise=0.1)) == {}
