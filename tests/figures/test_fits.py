"""Scaling exponents on synthetic power laws whose exponent is known."""

from __future__ import annotations

import numpy as np
import pytest

from figures.fits import fit_exponent, slope
from meanfield.errors import InputError

SIZES = np.array([64.0, 128.0, 256.0, 512.0])


def power_law(exponent: float, seeds: int, stream: int, spread: float = 0.3) -> np.ndarray:
    """Squares whose root mean square is exactly size**exponent, with gamma spread over seeds."""
    shape = spread**-2
    noise = np.random.default_rng(stream).gamma(shape, 1 / shape, (seeds, len(SIZES)))
    return SIZES ** (2 * exponent) * noise


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.5, 1.0])
def test_noiseless_law_is_recovered(exponent: float) -> None:
    squares = np.tile(3.0 * SIZES ** (2 * exponent), (4, 1))
    assert fit_exponent(SIZES, squares) == pytest.approx((exponent,) * 3, abs=1e-12)


@pytest.mark.statistical
def test_interval_covers_the_truth_in_95_percent() -> None:
    # 400 data sets: the standard error of the coverage is 1.1 %.
    fits = [fit_exponent(SIZES, power_law(-0.5, seeds=50, stream=k)) for k in range(400)]
    coverage = np.mean([fit.low <= -0.5 <= fit.high for fit in fits])
    assert coverage == pytest.approx(0.95, abs=3 * 0.011)


@pytest.mark.statistical
def test_interval_covers_when_sizes_share_seeds() -> None:
    # A factor common to all sizes of a seed cancels in the slope: joint resampling sees that.
    covered, widths = [], []
    for k in range(400):
        common = np.random.default_rng(10_000 + k).gamma(4.0, 0.25, (50, 1))
        fit = fit_exponent(SIZES, common * power_law(0.5, seeds=50, stream=k, spread=0.1))
        covered.append(fit.low <= 0.5 <= fit.high)
        widths.append(fit.high - fit.low)
    assert np.mean(covered) == pytest.approx(0.95, abs=3 * 0.011)
    apart = [power_law(0.5, seeds=50, stream=k, spread=0.5) for k in range(20)]
    assert np.mean(widths) < 0.5 * np.mean([np.ptp(fit_exponent(SIZES, s)[1:]) for s in apart])


@pytest.mark.statistical
def test_a_wrong_exponent_is_rejected() -> None:
    # sqrt(L) dropped: the law is flat where -1/2 is claimed.
    fits = [fit_exponent(SIZES, power_law(0.0, seeds=50, stream=k)) for k in range(100)]
    assert not any(fit.low <= -0.5 <= fit.high for fit in fits)
    # 10 % off in the exponent, at the same 50 seeds.
    fits = [fit_exponent(SIZES, power_law(-0.45, seeds=50, stream=k)) for k in range(100)]
    assert np.mean([fit.low <= -0.5 <= fit.high for fit in fits]) < 0.1


def test_slope_does_not_depend_on_units() -> None:
    values = np.array([2.0, 3.0, 7.0, 8.0])
    assert slope(SIZES, values) == pytest.approx(slope(10 * SIZES, 0.01 * values))


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="two different sizes"):
        slope([2, 2], [1, 2])
    with pytest.raises(InputError, match="positive"):
        slope([1, 2], [1, 0])
    with pytest.raises(InputError, match="at least two rows"):
        fit_exponent(SIZES, np.ones((1, 4)))
    with pytest.raises(InputError, match="shape"):
        fit_exponent(SIZES, np.ones((5, 3)))
