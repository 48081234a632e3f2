"""Laws of sample moments of independent entries: what a measured variance may be if all is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

Shape: TypeAlias = Literal["normal", "uniform", "other"]

NORMAL, UNIFORM = 3.0, 1.8
"""Kurtosis E(x - mean)^4 / variance^2 of both laws."""


@dataclass(frozen=True, slots=True)
class Law:
    """A gamma law with a shift: that of a positive statistic with mean 1 and known next two cumulants.

        x = 1 + sd (g - a) / sqrt(a),  g ~ Gamma(a),  a = 4 / skewness^2

    Args:
        variance: Its variance.
        skewness: Third central moment over sd^3, above 0.

    Example:
        The mean of 8 squared standard normals has variance 1/4 and skewness 1; it is a chi-square over 8.

        >>> bool(abs(Law(1 / 4, 1.0).upper(2.0) - special.chdtrc(8, 16)) < 1e-12)
        True
    """

    variance: float
    skewness: float

    @property
    def _gamma(self) -> tuple[float, float]:
        """Shape a, and the scale of g."""
        a = 4 / self.skewness**2
        return a, math.sqrt(self.variance / a)

    def upper(self, x: float) -> float:
        """Probability of more than x."""
        a, scale = self._gamma
        return float(special.gammaincc(a, max(a + (x - 1) / scale, 0.0)))

    def lower(self, x: float) -> float:
        """Probability of less than x."""
        a, scale = self._gamma
        return float(special.gammainc(a, max(a + (x - 1) / scale, 0.0)))

    def two_sided(self, x: float) -> float:
        """Twice the probability of the smaller tail at x."""
        return min(1.0, 2 * min(self.upper(x), self.lower(x)))

    def quantiles(self, low: float, high: float) -> tuple[float, float]:
        """Values below which, and above which, these probabilities lie."""
        a, scale = self._gamma
        ends = special.gammaincinv(a, low), special.gammainccinv(a, high)
        return 1 + (float(ends[0]) - a) * scale, 1 + (float(ends[1]) - a) * scale

    def interval(self, level: float) -> tuple[float, float]:
        """Central interval of that probability."""
        return self.quantiles((1 - level) / 2, (1 - level) / 2)

    def detectable(self, level: float, power: float = 0.95) -> float:
        """Smallest factor above 1 that a two-sided test at a level finds with that power."""
        low, high = self.quantiles(1 - power, level / 2)
        return high / low


def variance_law(degrees: int, shape: Shape, kurtosis: float = NORMAL) -> Law:
    """Law of the sample variance over the true one.

        variance 2/nu + (kurtosis - 3)/(nu + 1);  for normal entries chi-square(nu)/nu exactly

    Args:
        degrees: nu: entries less the number of means that were subtracted.
        shape: Law of the entries. For ``"other"`` the kurtosis is used, and a gamma law without shift.
        kurtosis: That of the entries, where the shape is ``"other"``.

    Returns:
        The law, of mean 1.

    Assumes:
        Independent entries of one law. For uniform entries the third cumulant lacks terms 1/n smaller.

    Example:
        >>> round(variance_law(16, "normal").variance, 12), round(variance_law(9, "uniform").variance, 3)
        (0.125, 0.102)
    """
    if shape == "uniform":
        # The square of a uniform entry has third central moment 16/35, in units of its mean.
        variance = 2 / degrees + (UNIFORM - NORMAL) / (degrees + 1)
        return Law(variance, 16 / 35 / degrees**2 / variance**1.5)
    spread = (2.0 if shape == "normal" else max(kurtosis - 1, 1e-3)) / degrees
    return Law(spread, 2 * math.sqrt(spread))


def unevenness_law(count: int, degrees: float) -> Law:
    """Law of the sample variance of sums of squares over its mean: how uneven the rows of a matrix are.

    Each sum is taken as a chi-square, whose own cumulants kappa_m = 2^(m-1) (m-1)! degrees make the law wider
    than that of a normal sample.

    Args:
        count: Number of sums.
        degrees: Degrees of freedom of each.

    Returns:
        The law, of mean 1.

    Source:
        R. A. Fisher (1929), the cumulants of a sample variance.

    Example:
        Sums of many squares are normal: 9 of them give a chi-square with 8 degrees over 8.

        >>> round(unevenness_law(9, 1e9).variance, 6), round(unevenness_law(9, 1e9).skewness, 6)
        (0.25, 1.0)
    """
    n = count
    variance = 2 / (n - 1) + 12 / degrees / n
    third = (
        480 / degrees**2 / n**2
        + 12 * 12 / degrees / (n * (n - 1))
        + 4 * (n - 2) * 8 / degrees / (n * (n - 1) ** 2)
        + 8 / (n - 1) ** 2
    )
    return Law(variance, third / variance**1.5)


def equal_variances(
    variances: Sequence[float], degrees: Sequence[int], shape: Shape, kurtosis: float = NORMAL
) -> float:
    """Probability of variances at least as different as these, if all are equal: Bartlett's test.

        T = (nu log(pooled variance) - sum_l nu_l log s_l^2) / C ~ chi-square(k - 1)
        C = (kurtosis - 1)/2 (1 + c (sum_l 1/nu_l - 1/nu)/(k - 1))

    c makes the mean of T right to the next order: 1/3 for normal entries, 2.32 for uniform ones.

    Args:
        variances: Sample variances, above 0; at least two.
        degrees: Their degrees of freedom.
        shape: Law of the entries.
        kurtosis: That of the entries, where the shape is ``"other"``.

    Returns:
        The probability.

    Source:
        M. S. Bartlett (1937); G. E. P. Box (1953) for the kurtosis.

    Example:
        >>> equal_variances([2.0, 2.0, 2.0], [50, 50, 50], "normal")
        1.0
    """
    s_sq, nu = np.asarray(variances, dtype=np.float64), np.asarray(degrees, dtype=np.float64)
    total, k = nu.sum(), len(nu)
    kurtosis = {"normal": NORMAL, "uniform": UNIFORM}.get(shape, kurtosis)
    c = 2.32 if shape == "uniform" else max(kurtosis - 1, 0.0) / 6
    pooled = float((nu * s_sq).sum() / total)
    statistic = float((nu * np.log(pooled / s_sq)).sum())
    correction = (kurtosis - 1) / 2 * (1 + c * (float((1 / nu).sum()) - 1 / total) / (k - 1))
    return float(special.chdtrc(k - 1, max(statistic, 0.0) / correction))


def mean_p_value(mean: float, variance: float, entries: int) -> float:
    """Probability of a sample mean as far from 0 as this: the t-test.

    Args:
        mean: Sample mean, less the mean that is expected.
        variance: Sample variance.
        entries: Number of entries, at least 2.

    Returns:
        The two-sided probability.

    Example:
        >>> mean_p_value(0.0, 1.0, 10)
        1.0
    """
    return float(2 * special.stdtr(entries - 1, -abs(mean) / math.sqrt(variance / entries)))


def holm(p_values: Sequence[float], level: float) -> tuple[NDArray[np.bool_], float]:
    """Holm's procedure: which hypotheses to reject so that none that is true is, but with probability level.

    Args:
        p_values: One for each hypothesis; they may depend on each other.
        level: The family-wise error rate.

    Returns:
        Which are rejected, and the level at which a single further one would have been tested.

    Source:
        S. Holm (1979).

    Example:
        >>> rejected, nxt = holm([0.001, 0.04, 0.03, 0.005], 0.05)
        >>> rejected.tolist(), nxt
        ([True, False, False, True], 0.025)
    """
    p = np.asarray(p_values, dtype=np.float64)
    rejected = np.zeros(len(p), dtype=bool)
    left = len(p)
    for index in np.argsort(p, kind="stable"):
        if p[index] > level / left:
            break
        rejected[index] = True
        left -= 1
    return rejected, level / max(left, 1)
