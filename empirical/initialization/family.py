"""The family of tests of one module: which hypotheses there are, and what it means that one fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from empirical.initialization import against, peers
from empirical.initialization.expected import Expected
from empirical.initialization.finding import Finding, labels, named
from empirical.initialization.items import Item
from empirical.initialization.laws import holm, mean_p_value
from empirical.initialization.sample import Sample

LEVEL = 0.01
"""Family-wise error rate: the share of right models of which any test fails."""


@dataclass(frozen=True, eq=False)
class Test:
    """One hypothesis.

    Args:
        kind: ``"variance"``, ``"role"``, ``"mean"``, ``"peers"``, or what is uneven: ``"rows"``,
            ``"columns"``, ``"directions"``.
        items: The tensors that it is about.
        p_value: Probability of what was found or worse, if it is true.
    """

    kind: str
    items: tuple[Item, ...]
    p_value: float


@dataclass(frozen=True, eq=False)
class Family:
    """All tests of one module, and which of them fail.

    Args:
        samples: Tensors with numbers of their own: of copies one.
        expected: What a scheme says of them; empty without one.
        tests: The hypotheses.
        failed: Those that Holm's procedure rejects.
        level: Level at which one more would have been rejected.
    """

    samples: dict[Item, Sample]
    expected: dict[Item, Expected]
    tests: list[Test]
    failed: list[Test]
    level: float

    def mean(self, item: Item) -> float:
        """The mean that a tensor should have."""
        return float(self.expected[item].draw.mean) if item in self.expected else 0.0


def family(samples: dict[Item, Sample], expected: dict[Item, Expected]) -> Family:
    """Test everything at once.

    The variances of each role are compared over the layers, and with the scheme. A mean is tested where
    entries are drawn around a known one: in matrices, and in what a scheme draws.

    Args:
        samples: Tensors with numbers of their own.
        expected: What a scheme says of them.

    Returns:
        The family.
    """
    drawn = {
        item: known for item, known in expected.items() if _drawn(samples[item]) and known.draw.variance > 0
    }
    compared = {item: against.compare([item], samples, known) for item, known in drawn.items()}
    tests = [Test("variance", (item,), found.p_value) for item, found in compared.items()]
    tests += [
        Test("role", tuple(group), against.compare(group, samples, drawn[group[0]]).p_value)
        for group in _by_role(list(drawn))
        if len(group) > 1
    ]
    for item, sample in samples.items():
        if _drawn(sample) and (item in drawn or item.matrix):
            mean = float(drawn[item].draw.mean) if item in drawn else 0.0
            p_value = mean_p_value(sample.mean - mean, sample.variance, sample.entries)
            tests.append(Test("mean", (item,), p_value))
        tests += [Test(what, (item,), p_value) for what, p_value in sample.unevenness.items()]
    tests += [Test("peers", tuple(role.items), role.p_value) for role in peers.roles(samples)]
    rejected, level = holm([test.p_value for test in tests], LEVEL)
    failed = [test for test, out in zip(tests, rejected, strict=True) if out]
    return Family(samples, drawn, tests, failed, level)


def _drawn(sample: Sample) -> bool:
    return sample.drawn and sample.entries > 1


def _by_role(items: list[Item]) -> list[list[Item]]:
    groups: dict[object, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.role, item.shape].append(item)
    return list(groups.values())


def findings(found: Family, scheme: str) -> Iterator[Finding]:
    """Put the tests that failed into words.

    Args:
        found: The family.
        scheme: Name of the scheme.

    Yields:
        ``variance``, ``mean``, ``peers``, ``not_independent``; and ``depth_scaled``, a note.
    """
    groups = _groups(found)
    blamed = {item for group, _ in groups for item in group}
    yield from against.explained(groups, found.samples, scheme)
    yield from _means(found)
    yield from _apart(found, blamed)
    yield from _uneven(found)


def _apart(found: Family, blamed: set[Item]) -> Iterator[Finding]:
    """Roles whose layers differ; where a scheme names the same tensors they are not named twice."""
    for test in found.failed:
        if test.kind == "peers":
            role = peers.Role(list(test.items), [found.samples[item] for item in test.items])
            how = peers.pattern(role, found.level)
            odd = {role.items[k] for k in how.odd}
            said = set(role.items) & set(found.expected) and (
                how.kind != "few" or odd == blamed & set(role.items)
            )
            if not said:
                yield peers.describe(role, how)


def _groups(found: Family) -> list[tuple[list[Item], Expected]]:
    """Tensors whose variance is not the scheme's, in groups of one ratio."""
    alone = {test.items[0] for test in found.failed if test.kind == "variance"}
    together = {item for test in found.failed if test.kind == "role" for item in test.items}
    groups = []
    for role in _by_role(list(found.expected)):
        if not (alone | together) & set(role):
            continue
        known = found.expected[role[0]]
        blamed = against.blame(role, known, found.samples, alone, found.level)
        groups += [(group, known) for group in blamed]
    return groups


def _means(found: Family) -> Iterator[Finding]:
    """Means that are not what they should be, those of one role together."""
    groups: dict[object, list[Item]] = defaultdict(list)
    for test in found.failed:
        if test.kind == "mean":
            groups[test.items[0].role, found.mean(test.items[0])].append(test.items[0])
    for group in groups.values():
        samples, right = [found.samples[item] for item in group], found.mean(group[0])
        mean = sum(sample.mean for sample in samples) / len(samples)
        away = max(abs(s.mean - right) / (s.variance / s.entries) ** 0.5 for s in samples)
        message = f"{named(group)}: the mean is {mean:.4g}, up to {away:.1f} standard errors from {right:g}"
        yield Finding("mean", labels(group), message)


def _uneven(found: Family) -> Iterator[Finding]:
    """Matrices whose entries are not independent, those of one role together."""
    kinds: dict[Item, list[str]] = defaultdict(list)
    for test in found.failed:
        if test.kind in ("rows", "columns", "directions"):
            kinds[test.items[0]].append(test.kind)
    groups: dict[tuple[object, tuple[str, ...]], list[Item]] = defaultdict(list)
    for item, what in kinds.items():
        groups[item.role, tuple(what)].append(item)
    for (_, odd), group in groups.items():
        message = (
            f"{named(group)}: the sums of squares of {' and '.join(odd)} are too uneven for independent "
            "entries of one law: low rank, rows of different scale, or a trained matrix"
        )
        yield Finding("not_independent", labels(group), message)
