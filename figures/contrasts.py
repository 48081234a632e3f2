"""Means over a handful of seeds and their differences, with Student's intervals in Welch's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from figures.compare import CONFIDENCE
from meanfield.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Estimate(NamedTuple):
    """A number with the ends of its interval."""

    value: float
    low: float
    high: float


def contrast(
    samples: Sequence[ArrayLike], weights: Sequence[float] = (1.0,), comparisons: int = 1
) -> Estimate:
    r"""Weighted sum of the means of independent samples, with its interval.

        \hat{c} = \sum_k w_k \bar{x}_k,    v_k = w_k^2 s_k^2 / n_k,    v = \sum_k v_k,
        \hat{c} \pm t_{1 - 0.025/m}(\nu) \sqrt{v},    \nu = v^2 / \sum_k v_k^2 / (n_k - 1)

    One sample of weight 1 gives Student's interval of a mean, two of weights 1 and -1 Welch's of their
    difference.

    Args:
        samples: The samples, one number per seed in each; they need not be equally long.
        weights: One weight per sample.
        comparisons: The number m of intervals of which all shall hold at once with 95 % (Bonferroni).

    Returns:
        The estimate. Samples without any spread give an interval of length 0.

    Raises:
        InputError: If a sample has fewer than two numbers or one that is not finite.

    Assumes:
        Numbers of a sample are independent and near to Gaussian. Samples are independent; where runs of one
        seed share weights and batches, differences vary less than assumed and the interval is too long. With
        unequal spreads Welch's form is approximate: of two Gaussian samples of 3 it covers 94.3 to 96.5 %,
        and 98.1 to 99.3 % where four comparisons ask for 98.75 %.

    Source:
        welch1947.

    Example:
        >>> [round(end, 3) for end in contrast([[1.0, 2.0, 3.0]])]
        [2.0, -0.484, 4.484]
        >>> contrast([[1.0, 1.0], [4.0, 4.0]], [1.0, -0.5])
        Estimate(value=-1.0, low=-1.0, high=-1.0)
    """
    value, parts, inverse = 0.0, [], 0.0
    for sample, weight in zip(samples, weights, strict=True):
        numbers = np.asarray(sample, dtype=np.float64)
        if len(numbers) < 2 or not np.isfinite(numbers).all():
            raise InputError(f"sample {numbers.tolist()}: an interval needs at least two finite numbers")
        value += weight * float(numbers.mean())
        parts.append(weight**2 * float(numbers.var(ddof=1)) / len(numbers))
        inverse += parts[-1] ** 2 / (len(numbers) - 1)
    variance = sum(parts)
    if not inverse:  # no spread, or so little that its square is 0
        return Estimate(value, value, value)
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2 / comparisons, variance**2 / inverse)) * variance**0.5
    return Estimate(value, value - reach, value + reach)


def ratio(above: ArrayLike, below: ArrayLike, comparisons: int = 1) -> Estimate:
    """Ratio of the geometric means of two independent samples, with its interval.

    Args:
        above: Positive numbers, one per seed.
        below: The same of what it is compared with.
        comparisons: As for `contrast`.

    Returns:
        The exponential of the contrast of the logarithms.

    Example:
        >>> round(ratio([2.0, 2.0], [8.0, 8.0]).value, 12)
        0.25
    """
    return Estimate(*np.exp(contrast([np.log(above), np.log(below)], [1.0, -1.0], comparisons)).tolist())


def geometric_mean(sample: ArrayLike) -> Estimate:
    """Geometric mean of positive numbers with its interval, which never leaves them.

    Args:
        sample: Positive numbers, one per seed.

    Returns:
        The exponential of the mean of the logarithms.

    Example:
        >>> round(geometric_mean([1.0, 4.0, 16.0]).value, 12)
        4.0
    """
    return Estimate(*np.exp(contrast([np.log(sample)])).tolist())
