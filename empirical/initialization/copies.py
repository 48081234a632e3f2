"""Different tensors that are equal bit for bit: cloned layers, and single copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from empirical.initialization.finding import Finding, labels, named, runs
from empirical.initialization.items import Item, in_layers, same_bits, storage
from empirical.initialization.sample import Sample


def copies(samples: dict[Item, Sample]) -> list[list[Item]]:
    """Group tensors that hold the same numbers, shared ones included; constants are left out.

    Args:
        samples: The items with their samples.

    Returns:
        Groups of two and more.
    """
    alike: dict[object, list[Item]] = defaultdict(list)
    for item, sample in samples.items():
        if sample.drawn:
            alike[item.shape, sample.mean, sample.variance].append(item)
    groups = []
    for candidates in alike.values():
        left = candidates
        while len(left) > 1:
            first = left[0].entries()
            equal = [item for item in left if same_bits(item.entries(), first)]
            left = [item for item in left if item not in equal]
            if len(equal) > 1:
                groups.append(equal)
    return groups


def cloned(groups: list[list[Item]], samples: dict[Item, Sample]) -> Iterator[Finding]:
    """Find layers that are copies of each other, and other tensors that are equal.

    Args:
        groups: What `copies` gives.
        samples: The items with their samples.

    Yields:
        ``cloned_layers`` where every drawn tensor of a layer is that of another layer, else
        ``equal_tensors``. What lies in one place of memory is no copy.
    """
    number = {item: k for k, group in enumerate(groups) for item in group}
    drawn = in_layers([item for item, sample in samples.items() if sample.drawn])
    layers: dict[tuple[str, int], dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in drawn:
        layers[item.family, item.layer or 0][item.role].append(item)
    twins: dict[object, list[tuple[str, int]]] = defaultdict(list)
    for place, roles in layers.items():
        content = {role: tuple(number.get(item, item) for item in group) for role, group in roles.items()}
        twins[place[0], frozenset(content.items())].append(place)
    explained: set[Item] = set()
    for several in twins.values():
        group = [item for place in several for items in layers[place].values() for item in items]
        if len(several) > 1:
            explained |= set(group)
            if _places(group) > len({item.role for item in group}):
                yield Finding("cloned_layers", labels(group), _cloned_message(several))
    yield from _single(groups, explained)


def _single(groups: list[list[Item]], explained: set[Item]) -> Iterator[Finding]:
    """What is equal although its layer is not, together where layers are the same."""
    rest: dict[object, list[Item]] = defaultdict(list)
    for group in groups:
        left = [item for item in group if item not in explained]
        if _places(left) > 1:
            one_role = len({item.role for item in left}) == 1
            rest[tuple(item.layer for item in left) if one_role else left[0]] += left
    for group in rest.values():
        yield Finding("equal_tensors", labels(group), _equal_message(group))


def _places(group: list[Item]) -> int:
    """Number of places in memory in which items lie."""
    return len({(storage(item.source), item.slot and item.slot.part) for item in group})


def _cloned_message(several: list[tuple[str, int]]) -> str:
    family = several[0][0].rstrip(".")
    where = f"layers {runs(layer for _, layer in several)}" + (f" of {family}" if family else "")
    return (
        f"{where} are equal bit for bit: torch.nn.TransformerEncoder and TransformerDecoder deep-copy the "
        "layer that they are given. Draw each anew: gradients of copies are not those of independent layers"
    )


def _equal_message(group: list[Item]) -> str:
    roles = {item.role for item in group}
    message = f"{named(group)} are equal bit for bit"
    if len({item.layer for item in group}) > 2 and len(roles) < len(group):
        return (
            f"{message}, other tensors of these layers are not: copies of one layer of which a part was "
            "drawn anew (torch.nn.Transformer draws matrices and leaves the biases copied)"
        )
    return f"{message}: {', '.join(labels(group)[:4])}"
