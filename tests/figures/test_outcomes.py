"""What a run came to, and which runs belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from figures.outcomes import cells, of_grid, outcomes, pairs
from meanfield.errors import InputError
from tests.figures.training_tables import RATES, START, WARMUPS, trained


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
    assert (whole["learnt"] == whole["unigram_loss"] - whole["final_loss"]).all()
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
