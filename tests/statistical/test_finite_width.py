"""Predictions at the real width: the excess of W_Q and W_K at n/d = 1/2, error bars, and what they cover."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import empirical
import meanfield as mf

KEYS = ["layer", "module", "parameter"]
SEEDS, SAMPLES, TOKENS = 1000, 1000, 32
ARCH = mf.pre_ln(width=64, depth=2, heads=4, d_ff=128, init="xavier_normal")


@pytest.fixture(scope="module")
def measurement() -> empirical.Measurement:
    return empirical.ensemble(ARCH, tokens=TOKENS, seeds=range(5000, 5000 + SEEDS))


@pytest.fixture(scope="module")
def both(measurement: empirical.Measurement) -> pd.DataFrame:
    """Prediction and measurement of a Pre-LN model of width 64 on 32 tokens, side by side."""
    predicted = mf.predict(ARCH, tokens=TOKENS, samples=SAMPLES).df
    measured = measurement.df
    columns = ["grad_sq", "grad_sq_limit", "grad_sq_se", "grad_sq_sd", "grad_sq_low", "grad_sq_high"]
    # A key's bias has no gradient: rounding is all that there is to compare.
    joined = measured.merge(predicted[KEYS + columns], on=KEYS)
    return joined[joined.grad_sq_limit > 0]


@pytest.mark.statistical
def test_the_excess_of_queries_and_keys_comes_out(both: pd.DataFrame) -> None:
    """n/d = 1/2 puts the score weights far above the limit, in the prediction as in the measurement."""
    scores = both[both.module.isin(["attention.q", "attention.k"]) & (both.parameter == "weight")]
    excess = scores.grad_sq / scores.grad_sq_limit - 1
    measured = scores.grad_sq_hat / scores.grad_sq_limit - 1
    assert len(scores) == 4
    assert (excess > 0.15).all()
    error = np.hypot(scores.grad_sq_hat_se, scores.grad_sq_se) / scores.grad_sq_limit
    assert (np.abs(excess - measured) < 4 * error).all()
    # the control: the limit, which has no excess, is rejected for each of the four
    assert (measured > 4 * scores.grad_sq_hat_se / scores.grad_sq_limit).all()


@pytest.mark.statistical
def test_every_parameter_agrees_at_the_real_width(both: pd.DataFrame) -> None:
    """Five standard errors for 31 parameters; the limit differs from some of them by more."""
    error = np.hypot(both.grad_sq_hat_se, both.grad_sq_se)
    assert (np.abs(both.grad_sq_hat - both.grad_sq) < 5 * error).all()
    assert (np.abs(both.grad_sq_hat - both.grad_sq_limit) > 5 * error).any()
    assert (np.abs(both.grad_sq_hat - 1.3 * both.grad_sq) > 5 * error).mean() > 0.5


@pytest.mark.statistical
def test_the_spread_from_seed_to_seed_agrees(both: pd.DataFrame) -> None:
    """A standard deviation of n near-normal values has a relative error of 1/sqrt(2 n); tails double it.

    Parameters of a seed move together, so that the median over them is as uncertain as one of them: 3 to 6 %.
    """
    ratio = both.grad_sq_hat_sd / both.grad_sq_sd
    error = 2 * np.hypot((2 * SEEDS) ** -0.5, (2 * SAMPLES) ** -0.5)
    assert (np.abs(ratio - 1) < 4 * error).all()
    assert abs(ratio.median() - 1) < 0.1


@pytest.mark.statistical
def test_the_band_holds_single_seeds(both: pd.DataFrame, measurement: empirical.Measurement) -> None:
    """95 % of single seeds, to four standard errors of the seeds' shares: parameters of one are dependent."""
    bands = both[[*KEYS, "grad_sq_low", "grad_sq_high"]]
    seeds = measurement.samples.merge(bands, on=KEYS)
    inside = seeds.grad_sq_hat.between(seeds.grad_sq_low, seeds.grad_sq_high)
    share = inside.groupby(seeds.seed).mean().to_numpy(dtype=float)
    assert abs(share.mean() - 0.95) < 4 * share.std() / SEEDS**0.5 < 0.05
    # the control: a band of half its width in logarithms
    middle = np.sqrt(seeds.grad_sq_low * seeds.grad_sq_high)
    narrow = seeds.grad_sq_hat.between(
        np.sqrt(seeds.grad_sq_low * middle), np.sqrt(seeds.grad_sq_high * middle)
    )
    assert narrow.mean() < 0.8
