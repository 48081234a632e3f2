"""One tensor as a sample: its moments, the law that they fit, and whether the entries look independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.initialization.laws import NORMAL, UNIFORM, Law, Shape, unevenness_law

FoundLaw: TypeAlias = Literal["normal", "uniform", "constant", "fixed", "orthogonal", "undecided", "other"]

FEWEST = 200  # entries below which the kurtosis tells nothing: 2.5 standard errors between both laws
SIDES = 16  # rows or columns below which sums of squares are too few, or of too few terms, for their law
PROBES = 32
LOOKED_AT = 4096  # entries; more than 1/32 of them differ in any drawn tensor, in half precision too
BEYOND_CHANCE = 5.0  # standard errors; the law is a description, not one of the tests

ROWS, COLUMNS, DIRECTIONS = "rows", "columns", "directions"


@dataclass(frozen=True, slots=True)
class Sample:
    """The entries of one tensor, summed up.

    Args:
        entries: How many; rows of a table that are 0 are left out.
        mean: Their mean.
        variance: Their sample variance, around that mean.
        kurtosis: Fourth central moment over the square of the second; NaN for a constant.
        law: What the kurtosis, and for ``"orthogonal"`` a few products, say; ``"fixed"`` are entries
            that nobody draws: a few values, as in an identity matrix, or sines and cosines.
        zero_rows: Rows of a table that are 0 and were left out: padding.
        unevenness: Probability of sums of squares at least as uneven as found, were all entries independent:
            of ``"rows"``, of ``"columns"``, and of projections on random ``"directions"``.
    """

    entries: int
    mean: float
    variance: float
    kurtosis: float
    law: FoundLaw
    zero_rows: int
    unevenness: dict[str, float]

    @property
    def drawn(self) -> bool:
        """Whether entries are drawn at random: neither constant nor of a few values."""
        return self.law not in ("constant", "fixed")

    @property
    def shape(self) -> Shape:
        """The law that a test on the variance takes: normal entries where nothing else is known."""
        if self.law in ("uniform", "other"):
            return "uniform" if self.law == "uniform" else "other"
        return "normal"


def summarise(values: torch.Tensor, table: bool = False) -> Sample:
    """Sum up the entries of a tensor.

    Args:
        values: The entries, all finite; any shape. The first axis counts rows.
        table: Whether rows that are 0 are padding.

    Returns:
        The sample.

    Example:
        >>> sample = summarise(torch.tensor([1.0, 1.0, 3.0, 3.0]))
        >>> sample.mean, round(sample.variance, 12), sample.kurtosis, sample.law
        (2.0, 1.333333333333, 1.0, 'undecided')
    """
    x = values.detach().to("cpu", torch.float64)
    x = x.reshape(x.shape[0], -1) if x.ndim > 1 else x[None] if x.ndim else x[None, None]
    zero_rows = 0
    if table and len(x) > 1:
        used = (x != 0).any(1)
        if bool(used.any()):
            zero_rows, x = int((~used).sum()), x[used]
    n = x.numel()
    if bool((x == x[0, 0]).all()):
        return Sample(n, float(x[0, 0]), 0.0, math.nan, "constant", zero_rows, {})
    mean = float(x.mean())
    fixed = _few_values(x) or _waves(x)
    square = (x - mean).square_()
    second = float(square.mean())
    kurtosis = float((square / second).square_().mean())
    law = "fixed" if fixed else law_of(kurtosis, n, float(square.max()) / second)
    unevenness: dict[str, float] = {}
    if min(x.shape) >= SIDES and not fixed:
        spread = {"normal": NORMAL, "uniform": UNIFORM}.get(law, kurtosis) - 1
        for name, axis in ((ROWS, 1), (COLUMNS, 0)):
            sums = square.sum(axis).numpy()
            unevenness[name] = _unevenness(sums, 2 * x.shape[axis] / spread)[0]
        sums, terms = _directions(x - mean)
        unevenness[DIRECTIONS], share = _unevenness(sums, terms)
        if share < 0.01:  # of what independent entries give: chance has probability 1e-13 with 16 directions
            law, unevenness = "orthogonal", {}
    return Sample(n, mean, second * n / (n - 1), kurtosis, law, zero_rows, unevenness)


def _few_values(x: torch.Tensor) -> bool:
    first = x.reshape(-1)[:LOOKED_AT]
    return len(first) >= SIDES and len(torch.unique(first)) <= max(3, len(first) / 32)


def _waves(x: torch.Tensor) -> bool:
    """Whether rows are sines and cosines of as many angles: their squares add to half the columns."""
    half = x.shape[1] / 2
    short = len(x) < 2 or x.shape[1] < 4 or float(x[0].abs().max()) > 1 + 1e-3
    return not short and bool(((x**2).sum(1) - half).abs().max() < 1e-2 * half)


def law_of(kurtosis: float, entries: int, largest: float = 0.0) -> FoundLaw:
    """Name the law whose kurtosis this is.

    Args:
        kurtosis: Fourth central moment over the square of the second.
        entries: Number of entries.
        largest: Largest square over their mean; 3 for a uniform law.

    Returns:
        The name; ``"undecided"`` below 200 entries.

    Example:
        >>> law_of(3.01, 10_000), law_of(1.8, 10_000, 3.0), law_of(2.4, 10_000), law_of(2.4, 20)
        ('normal', 'uniform', 'other', 'undecided')
    """
    if entries < FEWEST:
        return "undecided"
    if kurtosis < (NORMAL + UNIFORM) / 2:
        # Standard deviation of the sample kurtosis of uniform entries: sqrt(1.3166 / n).
        near = abs(kurtosis - UNIFORM) < BEYOND_CHANCE * math.sqrt(1.3166 / entries)
        return "uniform" if near and largest < 3 * (1 + 10 / entries**0.5) else "other"
    return "normal" if abs(kurtosis_score(kurtosis, entries)) < BEYOND_CHANCE else "other"


def kurtosis_score(kurtosis: float, entries: int) -> float:
    """Turn the sample kurtosis of normal entries into a nearly standard normal number.

    Args:
        kurtosis: Fourth central moment over the square of the second.
        entries: Number of entries, at least 20.

    Returns:
        The number.

    Source:
        F. J. Anscombe and W. J. Glynn (1983).

    Example:
        >>> bool(abs(kurtosis_score(3 - 6 / 100_001, 100_000)) < 0.01)
        True
    """
    n = entries
    expected = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (kurtosis - expected) / math.sqrt(variance)
    skewness = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9))
    skewness *= math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skewness * (2 / skewness + math.sqrt(1 + 4 / skewness**2))
    ratio = (1 - 2 / a) / (1 + x * math.sqrt(2 / (a - 4)))
    return (1 - 2 / (9 * a) - math.copysign(abs(ratio) ** (1 / 3), ratio)) / math.sqrt(2 / (9 * a))


def _unevenness(sums: NDArray[np.float64], degrees: float) -> tuple[float, float]:
    """Probability of sums at least as uneven as these, and their variance over what chance gives."""
    share = float(np.var(sums / sums.mean(), ddof=1)) * degrees / 2
    law: Law = unevenness_law(len(sums), degrees)
    return law.upper(share), share


def _directions(x: torch.Tensor) -> tuple[NDArray[np.float64], int]:
    """Sums of squares of products with orthonormal random vectors: equal for an orthogonal matrix."""
    x = x if x.shape[0] <= x.shape[1] else x.T  # (short, long)
    generator = torch.Generator().manual_seed(0)
    count = min(PROBES, x.shape[0])
    vectors = torch.randn(x.shape[0], count, generator=generator, dtype=x.dtype)
    vectors = torch.linalg.qr(vectors).Q  # (short, directions)
    return (vectors.T @ x).square().sum(1).numpy(), x.shape[1]
