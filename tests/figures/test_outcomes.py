"""What a run came to, which runs belong together, and where curves cross a level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figures import steps_to_loss
from figures.outcomes import RUN, cells, of_grid, outcomes, pairs
from meanfield.errors import InputError
from tests.figures.training_tables import RATES, START, STEPS, WARMUPS, Course, paper, trained


def where(table: pd.DataFrame, **keys: Any) -> pd.DataFrame:
    for key, value in keys.items():
        table = table[table[key] == value]
    return table


def test_a_diverged_run_is_worth_what_it_was_before_training() -> None:
    runs = outcomes(trained())
    gone = runs[runs["status"] == "diverged"]
    assert len(gone) == 1
    assert gone["final_loss"].tolist() == gone["start_loss"].tolist() == pytest.approx([START], abs=0.2)
    assert gone["bleu"].tolist() == [0.0]
    assert gone["gained"].tolist() == [0.0]
    whole = runs[runs["status"] == "finished"]
    assert (whole["gained"] == whole["start_loss"] - whole["final_loss"]).all()
    assert whole[whole["task"] == "masked"]["bleu"].isna().all()


def test_a_loss_that_is_no_number_stays_one_unless_it_diverged() -> None:
    tables = trained()
    tables["runs"].loc[0, "valid_loss"] = np.nan
    assert outcomes(tables)["final_loss"].isna().sum() == 1


def test_a_run_without_its_loss_before_training_is_named() -> None:
    tables = trained()
    curves = tables["curves"]
    tables["curves"] = curves[(curves["step"] > 0) | (curves["optimizer"] != "radam")]
    with pytest.raises(
        InputError, match=r"run translation post_ln radam .* has no validation loss of step 0"
    ):
        outcomes(tables)


def test_cells_count_what_diverged_and_give_no_interval_to_one_seed() -> None:
    table = cells(outcomes(trained()))
    sgd = where(table, optimizer="sgd", placement="post_ln", warmup=1).iloc[0]
    assert (sgd["diverged"], sgd["seeds"]) == (1, 3)
    assert sgd["final_loss"] == pytest.approx((5.5 + 5.5 + START) / 3, abs=0.1)
    assert table["diverged"].sum() == 1
    single = cells(outcomes(trained(seeds=1)))
    assert single[["final_loss_low", "final_loss_high"]].isna().all(axis=None)
    assert single["final_loss"].notna().all()


def test_the_grid_is_the_size_with_warm_up() -> None:
    runs = outcomes(trained())
    translation = runs[runs["task"] == "translation"]
    assert of_grid(translation)["depth"].unique().tolist() == [6]
    assert len(of_grid(translation)) < len(translation)
    assert of_grid(translation[translation["warmup"] == 1]).empty


def test_pairs_are_the_learning_rates_with_warm_up() -> None:
    found = pairs(outcomes(trained()), "translation", "post_ln")
    assert [(pair.optimizer, pair.lr_max) for pair in found] == [("adam", r) for r in RATES] + [("sgd", 0.5)]
    assert list(found[0].warmups) == list(WARMUPS[1:])
    assert found[0].without["warmup"].unique().tolist() == [1]
    assert found[0].best["warmup"].unique().tolist() == [400]  # its runs end lower by 0.05


falling = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=10)


@settings(deadline=None)
@given(falling, st.floats(0.01, 0.99))
def test_a_falling_curve_is_crossed_where_interpolation_says(drops: list[float], share: float) -> None:
    losses = 10.0 - np.cumsum([0.0, *drops])
    steps = np.arange(len(losses)) * 7.0
    level = losses[0] + share * (losses[-1] - losses[0])
    assert steps_to_loss.crossing(steps, losses, level) == pytest.approx(np.interp(-level, -losses, steps))
    assert np.isnan(steps_to_loss.crossing(steps, losses, losses[-1] - 1e-6))


def test_the_first_crossing_counts_where_a_curve_comes_back_up() -> None:
    assert steps_to_loss.crossing([0, 1, 2, 3], [4.0, 2.0, 5.0, 1.0], 3.0) == 0.5
    assert steps_to_loss.crossing([0, 1], [2.0, 1.0], 3.0) == 0.0


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
    assert steps_to_loss.speed(rows, rows)[1] == "unknown"
    whole = rows.fillna(150.0)
    assert steps_to_loss.speed(rows, whole)[1] == "at least"
    assert steps_to_loss.speed(whole, rows)[1] == "at most"


@pytest.mark.parametrize("final", [START + 1.0, START - 0.01])
def test_what_learns_next_to_nothing_is_not_compared(final: float) -> None:
    assert steps_to_loss.measure(trained(lambda key: Course(final), noise=0.1)) == {}
