"""The measured tail on norms whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from figures.concentration import tail

WIDTH = 512


def chi_square(seeds: int, tokens: int, stream: int = 0) -> np.ndarray:
    return np.random.default_rng(stream).chisquare(WIDTH, (seeds, tokens)) / WIDTH


@pytest.mark.statistical
def test_gaussian_norms_follow_the_exact_tail() -> None:
    table = tail(chi_square(2000, 16), WIDTH)
    near = table[table["chi2"] > 1e-3]
    se = np.sqrt(near["chi2"] * (1 - near["chi2"]) / (2000 * 16))
    assert ((near["delta_hat"] - near["chi2"]).abs() < 4 * se).all()
    assert (table["delta_hat_high"] <= table["lemma"].clip(lower=3 / 2000))[1:].all()


@pytest.mark.statistical
def test_control_heavier_norms_leave_the_exact_tail() -> None:
    heavier = chi_square(2000, 16) * np.random.default_rng(1).uniform(0.9, 1.1, (2000, 1))
    at = tail(heavier, WIDTH).set_index("eps").loc[0.1]
    assert at["delta_hat_low"] > at["chi2"]


@pytest.mark.statistical
def test_tokens_of_one_seed_do_not_count_as_independent() -> None:
    same = np.repeat(chi_square(200, 1), 16, axis=1)
    apart = chi_square(200, 16)
    width = {}
    for name, norms in (("same", same), ("apart", apart)):
        at = tail(norms, WIDTH).set_index("eps").loc[0.05]
        width[name] = at["delta_hat_high"] - at["delta_hat_low"]
    assert width["same"] > 2.5 * width["apart"]  # sqrt(16) = 4 in the mean


def test_unseen_tail_has_the_rule_of_three_as_its_upper_end() -> None:
    last = tail(chi_square(100, 16), WIDTH).iloc[-1]
    assert last["delta_hat"] == 0
    assert last["delta_hat_high"] == pytest.approx(0.03)
