"""Laws of sample moments: exact where they should be, right on samples elsewhere, with the stated power."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from empirical.initialization.laws import (
    NORMAL,
    Shape,
    equal_variances,
    holm,
    mean_p_value,
    unevenness_law,
    variance_law,
)
from empirical.initialization.sample import kurtosis_score, law_of, summarise

DRAWS = 4000
Drawn = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return generator.standard_normal(shape)


def _uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return (12**0.5) * (generator.random(shape) - 0.5)


LAWS: dict[Shape, Drawn] = {"normal": _normal, "uniform": _uniform}


def calibrated(p_values: list[float], *, conservative: bool = False) -> bool:
    """Whether as many fall below 0.1 and 0.01 as should, or fewer, in the central 99.9 %."""
    n = len(p_values)
    for level in (0.1, 0.01):
        low, high = stats.binom.interval(0.999, n, level)
        count = int((np.array(p_values) < level).sum())
        if count > high or (count < low and not conservative):
            return False
    return True


@pytest.mark.parametrize("degrees", [7, 255, 10**6])
def test_the_variance_of_normal_entries_is_chi_square_exactly(degrees: int) -> None:
    law, exact = variance_law(degrees, "normal"), stats.chi2(degrees)
    for ratio in (0.9, 1 + 5 * (2 / degrees) ** 0.5):
        assert law.upper(ratio) == pytest.approx(exact.sf(ratio * degrees), rel=1e-9)
        assert law.lower(ratio) == pytest.approx(exact.cdf(ratio * degrees), rel=1e-9)
    low, high = law.interval(0.95)
    assert (low * degrees, high * degrees) == pytest.approx(exact.interval(0.95), rel=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("entries", [16, 64, 1024])
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_p_values_of_the_variance_are_uniform(law: Shape, entries: int) -> None:
    x = LAWS[law](np.random.default_rng(entries), (DRAWS, entries))
    null = variance_law(entries - 1, law)
    assert calibrated([null.two_sided(s_sq) for s_sq in x.var(axis=1, ddof=1)])
    wrong = variance_law(entries - 1, "normal" if law == "uniform" else "uniform")
    assert not calibrated([wrong.two_sided(s_sq) for s_sq in x.var(axis=1, ddof=1)])


@pytest.mark.statistical
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_p_values_of_the_mean_are_uniform(law: Shape) -> None:
    x = LAWS[law](np.random.default_rng(1), (DRAWS, 64))
    means, variances = x.mean(axis=1), x.var(axis=1, ddof=1)
    assert calibrated([mean_p_value(m, v, 64) for m, v in zip(means, variances, strict=True)])
    assert not calibrated([mean_p_value(m + 0.05, v, 64) for m, v in zip(means, variances, strict=True)])


@pytest.mark.statistical
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_p_values_of_equal_variances_are_uniform(law: Shape) -> None:
    x = LAWS[law](np.random.default_rng(2), (DRAWS, 6, 128))
    s_sq = x.var(axis=2, ddof=1)
    assert calibrated([equal_variances(list(row), [127] * 6, law) for row in s_sq])
    wrong = s_sq * np.array([1.2, 1, 1, 1, 1, 1])
    assert not calibrated([equal_variances(list(row), [127] * 6, law) for row in wrong])


@pytest.mark.statistical
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_unevenness_of_rows_is_not_found_in_independent_entries(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(3).standard_normal((DRAWS // 4, *shape))
    sums = (x**2).sum(axis=2)
    null = unevenness_law(shape[0], shape[1])

    def p_values(of: NDArray[np.float64]) -> list[float]:
        share = of.var(axis=1, ddof=1) / of.mean(axis=1) ** 2 * shape[1] / 2
        return [null.upper(value) for value in share]

    assert calibrated(p_values(sums), conservative=True)
    sums[:, 0] *= 2
    assert not calibrated(p_values(sums), conservative=True)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["rows", "columns", "directions"])
def test_unevenness_of_a_sample_is_calibrated(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    normal = [summarise(torch.randn(24, 48, generator=generator)) for _ in range(DRAWS // 4)]
    assert calibrated([sample.unevenness[name] for sample in normal], conservative=True)
    assert all(sample.law == "normal" for sample in normal)
    factors = [torch.randn(n, 4, generator=generator) for n in (24, 48)]
    assert summarise(factors[0] @ factors[1].T).unevenness[name] < 1e-6


@pytest.mark.statistical
def test_detectable_is_the_ratio_that_is_found_with_the_stated_probability() -> None:
    law, level = variance_law(16383, "normal"), 1e-4
    ratio = law.detectable(level, power=0.9)
    assert 1.05 < ratio < 1.07
    s_sq = ratio * stats.chi2.rvs(16383, size=DRAWS, random_state=5) / 16383
    hits = int((np.array([law.two_sided(value) for value in s_sq]) < level).sum())
    low, high = stats.binom.interval(0.999, DRAWS, 0.9)
    assert low <= hits <= high


def test_a_kurtosis_far_from_both_laws_is_neither() -> None:
    generator = torch.Generator().manual_seed(6)
    cut = torch.nn.init.trunc_normal_(torch.empty(256, 256), a=-2, b=2, generator=generator)
    heavy = torch.randn(256, 256, generator=generator) ** 3
    signs = torch.randint(0, 2, (256, 256), generator=generator) * 2.0 - 1
    assert [summarise(x).law for x in (cut, heavy, signs)] == ["other", "other", "fixed"]
    assert summarise(torch.rand(256, 256, generator=generator)).law == "uniform"
    assert law_of(1.8, 100) == law_of(3.0, 199) == "undecided"
    # A kurtosis of 1.8 whose largest entry is far out is no uniform law.
    assert law_of(1.8, 10_000, 9.0) == "other"


@pytest.mark.parametrize("entries", [200, 5000])
def test_the_score_of_a_kurtosis_is_that_of_scipy(entries: int) -> None:
    x = np.random.default_rng(7).standard_normal(entries)
    kurtosis = float(stats.kurtosis(x, fisher=False))
    assert kurtosis_score(kurtosis, entries) == pytest.approx(stats.kurtosistest(x).statistic, rel=1e-9)


def test_orthogonal_matrices_are_named_in_every_type() -> None:
    torch.manual_seed(8)
    wide, square = torch.empty(32, 128), torch.empty(64, 64)
    for matrix in (wide, square):
        torch.nn.init.orthogonal_(matrix, gain=1.7)
        assert summarise(matrix).law == summarise(matrix.T).law == summarise(matrix.bfloat16()).law
        assert summarise(matrix).law == "orthogonal"
    square[:32] *= 1.5
    assert summarise(square).law != "orthogonal"


def test_rows_of_zeros_are_left_out_of_tables_alone() -> None:
    generator = torch.Generator().manual_seed(9)
    table = torch.randn(50, 20, generator=generator)
    table[0] = 0
    assert summarise(table, table=True).zero_rows == 1
    assert summarise(table, table=True).variance == pytest.approx(summarise(table[1:]).variance)
    assert summarise(table).zero_rows == 0
    assert summarise(torch.zeros(5, 4), table=True).law == "constant"


def test_holm_is_between_bonferroni_and_nothing() -> None:
    p = [0.004, 0.0027, 0.5, 0.0024]
    rejected, level = holm(p, 0.01)
    assert rejected.tolist() == [True, True, False, True]  # 0.01/4, 0.01/3, 0.01/2
    assert level == 0.01
    assert holm([], 0.01)[0].tolist() == []


def test_heavy_tails_widen_the_law() -> None:
    assert variance_law(1000, "other", 9.0).variance == pytest.approx(8 / 1000)
    assert variance_law(1000, "other", NORMAL).variance == variance_law(1000, "normal").variance
    assert math.isclose(variance_law(1000, "other", NORMAL).skewness, variance_law(1000, "normal").skewness)


def test_entries_that_nobody_draws_are_fixed() -> None:
    angles = torch.arange(40)[:, None] * 10_000 ** -(torch.arange(16) / 16)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    ramp = torch.arange(1.0, 17.0).log().repeat(128, 1)
    assert [summarise(x).law for x in (waves, torch.eye(32), ramp)] == ["fixed"] * 3
    assert not summarise(waves).drawn
    generator = torch.Generator().manual_seed(10)
    for dtype in (torch.bfloat16, torch.float16):
        assert summarise(torch.randn(64, 64, generator=generator).to(dtype)).law == "normal"
        assert summarise(torch.rand(64, 64, generator=generator).to(dtype)).law == "uniform"
    unit = torch.nn.functional.normalize(torch.randn(64, 64, generator=generator), dim=1)
    assert summarise(unit).drawn
