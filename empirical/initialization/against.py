"""Every tensor against a scheme: its variance, its mean, its constant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from empirical.initialization.causes import UNEXPLAINED, context, explain
from empirical.initialization.expected import Expected
from empirical.initialization.finding import Finding, labels, named
from empirical.initialization.items import Item
from empirical.initialization.laws import Law, Shape, variance_law
from empirical.initialization.peers import ENOUGH, Role, pattern
from empirical.initialization.sample import Sample

CAUSE_LEVEL = 0.999
"""A cause is named if its ratio lies in the interval of this level."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tensor, or one role over several layers, beside what a scheme says of its variance.

    Args:
        items: The tensors, each with numbers of its own.
        expected: What the scheme says of all of them.
        ratio: Pooled sample variance over the expected one.
        law: Law of that ratio, if the scheme is right.
    """

    items: tuple[Item, ...]
    expected: Expected
    ratio: float
    law: Law

    @property
    def p_value(self) -> float:
        """Probability of a ratio at least as far from 1."""
        return self.law.two_sided(self.ratio)

    def interval(self, level: float) -> tuple[float, float]:
        """Interval of the true variance over the expected one."""
        low, high = self.law.interval(level)
        return self.ratio / high, self.ratio / low if low > 0 else math.inf


def compare(group: list[Item], samples: dict[Item, Sample], expected: Expected) -> Comparison:
    """Pool the variances of tensors that a scheme draws alike.

    The shape of the law is that of the entries where they say it, else the scheme's: a normal tensor where a
    uniform one is expected is tested as what it is, and named beside.

    Args:
        group: Tensors with numbers of their own.
        samples: Samples of all.
        expected: What the scheme says of them.

    Returns:
        The comparison.
    """
    degrees = [samples[item].entries - 1 for item in group]
    total = sum(degrees)
    pooled = sum(nu * samples[item].variance for nu, item in zip(degrees, group, strict=True)) / total
    laws: set[Shape] = {
        expected.draw.law if samples[item].law == "undecided" else samples[item].shape for item in group
    }
    shape = laws.pop() if len(laws) == 1 else "other"
    kurtosis = max((samples[item].kurtosis for item in group), default=math.nan)
    law = variance_law(total, shape, kurtosis)
    return Comparison(tuple(group), expected, pooled / float(expected.draw.variance), law)


def blame(
    role: list[Item], expected: Expected, samples: dict[Item, Sample], rejected: set[Item], level: float
) -> list[list[Item]]:
    """Decide which tensors of a role are not the scheme's, in groups that one factor explains.

    Args:
        role: The tensors of one role.
        expected: What the scheme says of them.
        samples: Samples of all.
        rejected: Those whose own test fails.
        level: Level for the others together.

    Returns:
        Groups with one ratio each; none if nothing differs.
    """
    odd = [item for item in role if item in rejected]
    rest = [item for item in role if item not in rejected]
    if rest and compare(rest, samples, expected).p_value <= level:
        odd = role
    if len(odd) < 2:
        return [odd] if odd else []
    together = Role(odd, [samples[item] for item in odd])
    if together.p_value > level or pattern(together, level).kind == "smooth":
        return [odd]
    return [[item] for item in odd]


def explained(
    groups: list[tuple[list[Item], Expected]], samples: dict[Item, Sample], scheme: str
) -> Iterator[Finding]:
    """Put deviating variances into words, those of one cause together.

    Args:
        groups: Tensors with one ratio, and what the scheme says of them.
        samples: Samples of all.
        scheme: Name of the scheme.

    Yields:
        Findings of kind ``variance``.
    """
    groups_of: dict[str | int, list[tuple[list[Item], Comparison]]] = defaultdict(list)
    others: dict[str | int, set[str]] = defaultdict(set)
    for number, (group, expected) in enumerate(groups):
        found = compare(group, samples, expected)
        cause, *other = _causes(group, samples, found, scheme)
        key: str | int = cause if cause != UNEXPLAINED else number
        groups_of[key].append((group, found))
        others[key].add(other[0] if other else "")
    for own, several in groups_of.items():
        items = [item for group, _ in several for item in group]
        causes = [own if isinstance(own, str) else UNEXPLAINED]
        causes += [other for other in others[own] if other and len(others[own]) == 1]
        yield Finding("variance", labels(items), f"{_ratios(several, scheme)}: {'; or '.join(causes)}")


def _causes(group: list[Item], samples: dict[Item, Sample], found: Comparison, scheme: str) -> list[str]:
    together = Role(group, [samples[item] for item in group])
    if len(group) > 2 and together.p_value < ENOUGH:
        along = pattern(together, ENOUGH)
        if along.kind == "smooth":
            return [f"it changes smoothly with the layer, about like layer^{along.exponent:.2g}"]
    known = context(group[0], found.expected, scheme, samples[group[0]].law)
    return explain(known, *found.interval(CAUSE_LEVEL))


def _ratios(several: list[tuple[list[Item], Comparison]], scheme: str) -> str:
    """Name the tensors and the ratio, or one ratio for each role where they differ."""
    lows, highs = zip(*(found.interval(0.95) for _, found in several), strict=True)
    items = [item for group, _ in several for item in group]
    if max(lows) <= min(highs) or len(several) == 1:
        total = sum(len(group) for group, _ in several)
        ratio = sum(len(group) * found.ratio for group, found in several) / total
        interval = f"95 % {min(lows):.3g} to {max(highs):.3g}"
        return f"{named(items)}: variance {ratio:.3g} times that of {scheme} ({interval})"
    each = ", ".join(f"{named(group)} {found.ratio:.3g}" for group, found in several)
    return f"variance in units of that of {scheme}: {each}"


def constants(expected: dict[Item, Expected], samples: dict[Item, Sample], scheme: str) -> Iterator[Finding]:
    """Compare what a scheme says is constant, exactly, and what is constant though the scheme draws it.

    Args:
        expected: What the scheme says.
        samples: Samples of all.
        scheme: Name of the scheme.

    Yields:
        Findings of kind ``value``.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item, known in expected.items():
        sample, draw = samples[item], known.draw
        constant = sample.law == "constant"
        if draw.variance == 0:
            if not (constant and sample.mean == float(draw.mean)):
                what = f"constant {sample.mean:.4g}" if constant else _drawn(item, known, sample)
                groups[f"{what}, where {scheme} has {float(draw.mean):g}"].append(item)
        elif constant and not item.matrix:
            what = (
                f"constant {sample.mean:.4g}, where {scheme} draws with variance {float(draw.variance):.4g}"
            )
            groups[what].append(item)
        elif sample.law == "fixed" and item.kind == "weight":
            groups[f"a pattern that nobody draws, where {scheme} draws its entries"].append(item)
    for what, group in groups.items():
        yield Finding("value", labels(group), f"{named(group)}: {what}")


def _drawn(item: Item, known: Expected, sample: Sample) -> str:
    sizes = known.stack.sizes
    fan_in = {"up_bias": sizes.width, "down_bias": sizes.d_ff, "attention_bias": sizes.width}
    fan_in |= {"output_bias": sizes.q_width, "head_bias": sizes.width}
    if known.field in fan_in:
        default = 1 / (3 * fan_in[known.field])
        low, high = variance_law(sample.entries - 1, "uniform").interval(CAUSE_LEVEL)
        if low < sample.variance / default < high:
            return "drawn with torch.nn.Linear's default for biases, 1/(3 fan_in)"
    return "not constant"


def laws(expected: dict[Item, Expected], samples: dict[Item, Sample], scheme: str) -> Iterator[Finding]:
    """Name laws that are not the scheme's, though gradients see the variance alone.

    Args:
        expected: What the scheme says.
        samples: Samples of all.
        scheme: Name of the scheme.

    Yields:
        Notes of kind ``law``.
    """
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item, known in expected.items():
        found: str = samples[item].law
        if known.draw.variance > 0 and found not in ("undecided", "constant", "fixed", known.draw.law):
            groups[found, known.draw.law].append(item)
    for (law, wanted), group in groups.items():
        kurtosis = sum(samples[item].kurtosis for item in group) / len(group)
        what = f"{law}, kurtosis {kurtosis:.3g}" if law == "other" else law
        yield Finding("law", labels(group), f"{named(group)}: {what}, where {scheme} is {wanted}")
