"""Scaling exponents: slopes on log-log axes, with intervals from the bootstrap over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from figures.compare import interval, resampled_means
from meanfield.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Exponent(NamedTuple):
    """A fitted exponent with the ends of its 95 % interval."""

    estimate: float
    low: float
    high: float


def slope(sizes: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    r"""Least-squares slope of log(values) against log(sizes), for any number of data sets at once.

        b = \sum_k (x_k - \bar{x}) y_k / \sum_k (x_k - \bar{x})^2,    x = log size, y = log value

    Args:
        sizes: The sizes, positive; shape (sizes,).
        values: Positive values; shape (..., sizes).

    Returns:
        The slopes, shape (...).

    Raises:
        InputError: If there are fewer than two sizes, or a size or value is not a positive number.

    Example:
        >>> round(float(slope([1, 2, 4], [3, 12, 48])), 12)
        2.0
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(np.unique(x)) < 2:
        raise InputError(f"sizes={x.tolist()}: an exponent needs at least two different sizes")
    if not (np.all(x > 0) and np.all(y > 0) and np.all(np.isfinite(y))):
        raise InputError("an exponent needs positive, finite sizes and values: leave the others out")
    centred = np.log(x) - np.log(x).mean()
    return np.log(y) @ centred / (centred @ centred)


def fit_exponent(sizes: ArrayLike, samples: ArrayLike) -> Exponent:
    r"""Exponent b of the root mean square, \sqrt{E v} = C size^b, with its 95 % interval.

    The mean over seeds is taken first, then the root, then the slope; the interval repeats this on resampled
    seeds. One set of resampled seeds serves all sizes, because a seed draws related weights at every size
    (the first layers of a deeper model are those of a shallower one).

    Args:
        sizes: The sizes; shape (sizes,).
        samples: Squares, one row per seed; shape (seeds, sizes).

    Returns:
        The estimate and the ends of the interval.

    Raises:
        InputError: If the shapes do not fit, or there are fewer than two seeds or sizes.

    Assumes:
        A pure power law over the sizes given. Where the law has corrections the estimate is the mean slope
        over that range and not the limit. Seeds are independent and enough for a bootstrap: with 25 and a
        spread of 30 % the interval covers about 94 %.

    Source:
        efron1979.

    Example:
        >>> [round(float(b), 12) for b in fit_exponent([1, 4], [[9.0, 36.0], [9.0, 36.0]])]
        [0.5, 0.5, 0.5]
    """
    x, squares = np.asarray(sizes, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    if squares.ndim != 2 or squares.shape[1] != len(x) or len(squares) < 2:
        raise InputError(
            f"samples of shape {squares.shape} for {len(x)} sizes: give at least two rows (seeds) of {len(x)}"
        )
    low, high = interval(slope(x, resampled_means(squares)) / 2)
    return Exponent(float(slope(x, squares.mean(axis=0))) / 2, float(low), float(high))
