"""Tensors of one role in several layers: do they have one variance, or one that follows the depth?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from empirical.initialization.finding import Finding, labels, layers_of, named
from empirical.initialization.items import Item, in_layers
from empirical.initialization.laws import NORMAL, UNIFORM, Shape, equal_variances
from empirical.initialization.sample import Sample, law_of

ENOUGH = 1e-3
"""Probability of a residual below which a smooth curve does not describe the layers."""


@dataclass(frozen=True, eq=False)
class Role:
    """The tensors of one role and one shape, all drawn, in order of the layers; at least two.

    Args:
        items: One per layer.
        samples: Theirs.
    """

    items: list[Item]
    samples: list[Sample]

    @property
    def degrees(self) -> list[int]:
        """Degrees of freedom of each variance."""
        return [sample.entries - 1 for sample in self.samples]

    @property
    def law(self) -> tuple[Shape, float]:
        """Law and kurtosis of the entries, from all layers together: one alone may have too few."""
        entries = sum(sample.entries for sample in self.samples)
        kurtosis = sum(sample.entries * sample.kurtosis for sample in self.samples) / entries
        laws = {sample.law for sample in self.samples} - {"undecided"}
        found = laws.pop() if len(laws) == 1 else law_of(kurtosis, entries, 3.0)
        if found == "uniform":
            return "uniform", UNIFORM
        return ("other", kurtosis) if found == "other" else ("normal", NORMAL)

    @property
    def p_value(self) -> float:
        """Probability of variances at least as different as these, if the layers have one."""
        return equal_variances([sample.variance for sample in self.samples], self.degrees, *self.law)

    @property
    def logarithms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logarithm of s^2 of each layer, and its standard error."""
        errors = np.sqrt((self.law[1] - 1) / np.array(self.degrees, dtype=np.float64))
        return np.log([sample.variance for sample in self.samples]), errors


def roles(samples: dict[Item, Sample]) -> list[Role]:
    """Collect the drawn tensors of each role over the layers.

    Args:
        samples: The items with their samples.

    Returns:
        The roles that two layers or more have.
    """
    groups: dict[object, list[Item]] = defaultdict(list)
    for item in in_layers(list(samples)):
        if samples[item].drawn:
            groups[item.role, item.shape].append(item)
    return [Role(group, [samples[item] for item in group]) for group in groups.values() if len(group) > 1]


@dataclass(frozen=True, slots=True)
class Pattern:
    """How the variances of a role differ.

    Args:
        kind: ``"smooth"`` along the depth; ``"few"``, a minority differs from the rest; ``"all"``, no
            majority agrees.
        odd: Positions of those that differ; all where no majority agrees, none where the change is smooth.
        exponent: p in variance ~ layer^p, where the change is smooth.
    """

    kind: Literal["smooth", "few", "all"]
    odd: tuple[int, ...] = ()
    exponent: float = math.nan


def pattern(role: Role, level: float) -> Pattern:
    """Tell a schedule along the depth from single layers that differ.

    A schedule is a power of the layer's number or an exponential of it (from six layers on also a parabola in
    its logarithm) that leaves no more than chance, and less than leaving one layer out does: one doubled
    layer at the end is no schedule. With two layers nothing is.

    Args:
        role: A role whose variances differ.
        level: Level of the test of single layers.

    Returns:
        The pattern.
    """
    y, errors = role.logarithms
    layer = np.array([item.layer for item in role.items], dtype=np.float64)
    count = len(y)
    log = np.log(layer)
    curves = [(log,), (layer,)] + ([(log, log**2)] if count >= 6 else [])
    if count > 2:
        left = min(_residual(np.delete(y, k), np.delete(errors, k), ()) for k in range(count))
        for curve in curves:
            residual = _residual(y, errors, curve)
            freedom = count - 1 - len(curve)
            if residual < left and special.chdtrc(freedom, residual) > ENOUGH:
                return Pattern("smooth", exponent=float(np.polyfit(log, y, 1, w=1 / errors)[0]))
    return _odd_ones(y, errors, level / count)


def _residual(
    y: NDArray[np.float64], errors: NDArray[np.float64], curve: tuple[NDArray[np.float64], ...]
) -> float:
    """Weighted sum of squares that the best curve a + sum_k b_k x_k leaves."""
    matrix = np.stack([np.ones_like(y), *curve], axis=1) / errors[:, None]
    solution = np.linalg.lstsq(matrix, y / errors, rcond=None)[0]
    return float(((matrix @ solution - y / errors) ** 2).sum())


def _odd_ones(y: NDArray[np.float64], errors: NDArray[np.float64], level: float) -> Pattern:
    """Layers that do not fit to the others, from the median outwards."""
    bound = -float(special.ndtri(level / 2))
    usual = np.ones(len(y), dtype=bool)
    middle = float(np.median(y))
    for _ in range(len(y)):
        near = np.abs(y - middle) <= bound * errors
        if not near.any() or bool((near == usual).all()):
            break
        usual = near
        middle = float(np.average(y[usual], weights=errors[usual] ** -2))
    if 2 * int(usual.sum()) <= len(y) or bool(usual.all()):
        return Pattern("all", tuple(range(len(y))))
    return Pattern("few", tuple(int(k) for k in np.flatnonzero(~usual)))


def describe(role: Role, found: Pattern) -> Finding:
    """Put a pattern into words.

    Args:
        role: The role.
        found: Its pattern.

    Returns:
        A finding: ``depth_scaled``, a note, or ``peers``.
    """
    what, variances = role.items[0].role, [sample.variance for sample in role.samples]
    if found.kind == "smooth":
        message = (
            f"{what}: the variance changes smoothly with the layer, about like layer^{found.exponent:.2g} "
            f"({variances[0]:.4g} in the first, {variances[-1]:.4g} in the last)"
        )
        return Finding("depth_scaled", labels(role.items), message)
    if found.kind == "all":
        listed = ", ".join(f"{v:.4g}" for v in variances[:8]) + (", ..." if len(variances) > 8 else "")
        why = "no majority agrees, and no smooth schedule fits"
        why = why if len(variances) > 2 else "of two layers nobody can say which one is right"
        message = f"{what}: {layers_of(role.items)} have variances {listed}; {why}"
        return Finding("peers", labels(role.items), message)
    rest = [k for k in range(len(variances)) if k not in found.odd]
    usual = float(np.average(np.array(variances)[rest], weights=np.array(role.degrees)[rest]))
    odd = [role.items[k] for k in found.odd]
    ratios = ", ".join(f"{variances[k] / usual:.3g}" for k in found.odd)
    message = f"{named(odd)}: variance {ratios} times that of the other {len(rest)} layers ({usual:.4g})"
    return Finding("peers", labels(odd), message)


def laws(samples: dict[Item, Sample]) -> Iterator[Finding]:
    """Name orthogonal matrices, and tensors whose law is not that of the same role in most other layers.

    Args:
        samples: The items with their samples.

    Yields:
        Notes of kind ``law``.
    """
    orthogonal = [item for item, sample in samples.items() if sample.law == "orthogonal"]
    if orthogonal:
        message = f"{named(orthogonal)}: orthogonal, W W^T is a multiple of 1: no independent entries"
        yield Finding("law", labels(orthogonal), message)
    for role in roles(samples):
        counts = Counter(sample.law for sample in role.samples if sample.law != "undecided")
        usual, most = counts.most_common(1)[0] if counts else ("", 0)
        odd = [
            item
            for item, sample in zip(role.items, role.samples, strict=True)
            if sample.law not in ("undecided", "orthogonal", usual) and 2 * most > len(role.items)
        ]
        for item in odd:
            message = f"{item.label}: {samples[item].law} where most layers are {usual}"
            yield Finding("law", (item.label,), message)
