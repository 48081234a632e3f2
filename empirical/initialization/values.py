"""Biases, gains and shifts that are not the constant that their peers are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from empirical.initialization.finding import Finding, labels, named
from empirical.initialization.items import Item
from empirical.initialization.sample import Sample

MOST = 0.75
"""Share of the peers that have to agree."""

DRAWN = "drawn"


def constants(samples: dict[Item, Sample], known: set[Item]) -> Iterator[Finding]:
    """Compare the constants of vectors with those of their peers, exactly.

    Peers are those of the same role in other layers; where there are none, as for the last norm, all of the
    same kind. Three quarters of them have to agree: on one constant, or on being drawn.

    Args:
        samples: The items with their samples.
        known: Items that were compared with a scheme already.

    Yields:
        Findings of kind ``value``.
    """
    vectors = [
        item for item in samples if item.kind in ("bias", "gain", "shift", "vector") and not item.matrix
    ]
    counts: dict[str, Counter[float | str]] = defaultdict(Counter)
    for item in vectors:
        counts[item.role][_value(samples[item])] += 1
        if item.kind != "vector":
            counts[item.kind][_value(samples[item])] += 1
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in vectors:
        peers = counts[item.role] if counts[item.role].total() > 1 else counts[item.kind]
        peers = peers - Counter([_value(samples[item])])
        number = peers.total()
        if item in known or not number:
            continue
        usual, count = peers.most_common(1)[0]
        if count >= MOST * number and _value(samples[item]) != usual:
            groups[item.role, _message(samples[item], usual, count, number)].append(item)
    for (_, message), group in groups.items():
        yield Finding("value", labels(group), f"{named(group)} {message}")


def _value(sample: Sample) -> float | str:
    return sample.mean if sample.law == "constant" else DRAWN


def _message(sample: Sample, usual: float | str, count: int, peers: int) -> str:
    rms = (sample.mean**2 + sample.variance) ** 0.5
    own = (
        f"is {sample.mean:.4g}"
        if sample.law == "constant"
        else f"is not constant (root mean square {rms:.3g})"
    )
    theirs = f"are {usual:.4g}" if isinstance(usual, float) else "are drawn at random"
    return f"{own}, and {count} of its {peers} peers {theirs}"
