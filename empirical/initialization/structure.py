"""Layers beside each other: a norm that one of them lacks or has twice, and any other difference."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from empirical.initialization.features import NORM, PRESENT, Features, features
from empirical.initialization.finding import Finding, runs
from empirical.initialization.items import Place, places
from empirical.initialization.stacks import layer_name, stacks_of
from empirical.readers.reading import Reading
from meanfield.ops import Norm, Transformer, walk

POSITIONS = (" window", " rotary", " alibi", " relative bias")
"""Ends of features in which layers often take turns: one global layer among local ones."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature in which layers of a stack differ from the others.

    Args:
        prefix: Prefix of the stack.
        depth: Its number of layers.
        feature: Name of the feature.
        values: Its value in every layer.
        usual: That of most layers.
        odd: The layers that have another one.
        on_purpose: Whether they follow a pattern, which is a note and no fault.
    """

    prefix: str
    depth: int
    feature: str
    values: dict[int, Any]
    usual: Any
    odd: tuple[int, ...]
    on_purpose: bool


def differences(reading: Reading) -> list[Difference]:
    """Compare the layers of each stack with each other.

    The value that most layers have is taken for right; of a norm, where as many have it as not, once. Layers
    that differ in a run of two or more at either end, periodically (windows), or each from each (Admin)
    follow a pattern, in norms only the run; so do layers at an end all of whose norms are in other places
    (Mix-LN), and any difference in windows and positions. A single layer that differs otherwise does not.

    Args:
        reading: What was read.

    Returns:
        The differences.
    """
    result = []
    for prefix, stack in stacks_of(reading):
        found = {layer: features(block) for layer, block in stack.blocks()}
        present = {
            layer: {name for name, value in own.items() if value == PRESENT} for layer, own in found.items()
        }
        # Where a whole sub-layer is missing, what it would consist of is not said too.
        without = {layer: set().union(*present.values()) - own for layer, own in present.items()}
        for name in dict.fromkeys(name for layer in found.values() for name in layer):
            absent = 0 if name.startswith(NORM) else "absent"
            values = {layer: own.get(name, absent) for layer, own in found.items()}
            usual = _usual(name, values)
            odd = tuple(
                layer
                for layer, value in values.items()
                if repr(value) != repr(usual)
                and not (set(name.split()) & without[layer] and name not in without[layer])
            )
            if odd and not _follows(name, found):
                purpose = (
                    _on_purpose(name, values, odd)
                    or (name.startswith(NORM) and _moved(found, odd))
                    or (name.startswith(f"{NORM}before") and odd == (1,) and _enters_normed(stack))
                )
                result.append(Difference(prefix, len(found), name, values, usual, odd, purpose))
    return result


def apart(found: list[Difference], reading: Reading) -> Iterator[Finding]:
    """Put differences between layers into words.

    Args:
        found: The differences.
        reading: What was read.

    Yields:
        ``norm_missing``, ``norm_doubled``, ``norm_extra``, ``layer_differs``; and ``layers_vary``, a note.
    """
    varied: dict[tuple[str, int, tuple[int, ...]], list[str]] = defaultdict(list)
    for one in found:
        if one.on_purpose:
            varied[one.prefix, one.depth, one.odd].append(one.feature)
            continue
        for layer in one.odd:
            yield _differs(one, layer, reading)
    for (prefix, depth, layers), names in varied.items():
        part = f"{prefix.rstrip('.')} " if prefix else ""
        where = f"{part}layers {runs(layers)} of {depth} differ from the others"
        yield Finding("layers_vary", (prefix.rstrip(".") or "layers",), f"{where} in: {', '.join(names)}")


def _usual(name: str, values: dict[int, Any]) -> Any:
    """The value of most layers; a norm that half of them have is taken to be there once."""
    counts = Counter(repr(value) for value in values.values())
    most = max(counts.values())
    best = [value for value in values.values() if counts[repr(value)] == most]
    return 1 if name.startswith(NORM) and 1 in best else best[0]


def _follows(name: str, found: dict[int, Features]) -> bool:
    """Whether a difference only repeats another one: the kind of a norm that is not there."""
    norm = name.removeprefix("kind of ")
    return norm != name and len({layer.get(norm, 0) for layer in found.values()}) > 1


def _on_purpose(name: str, values: dict[int, Any], odd: tuple[int, ...]) -> bool:
    layers = list(values)
    if name.endswith(POSITIONS):
        return True
    if len(odd) < 2:
        return False
    if list(odd) in (layers[: len(odd)], layers[-len(odd) :]):
        return len({repr(values[layer]) for layer in odd}) == 1 or not name.startswith(NORM)
    if name.startswith(NORM):
        return False
    steps = {b - a for a, b in pairwise(odd)}
    periodic = len(steps) == 1 and odd[0] <= (step := steps.pop()) and layers[-1] - odd[-1] < step
    return periodic or len({repr(value) for value in values.values()}) == len(layers)


def _enters_normed(stack: Transformer) -> bool:
    """Whether a norm acts before the first layer, which then needs none of its own (ModernBERT)."""
    return stack.entry is not None and any(isinstance(op, Norm) for op in walk(stack.entry))


def _moved(found: dict[int, Features], odd: tuple[int, ...]) -> bool:
    """Whether layers at one end have as many norms as the others, all of them in other places."""
    layers = list(found)
    if list(odd) not in (layers[: len(odd)], layers[-len(odd) :]):
        return False
    norms = {layer: {k: n for k, n in own.items() if k.startswith(NORM)} for layer, own in found.items()}
    return all(
        not set(norms[one]) & set(norms[other]) and len(norms[one]) == len(norms[other])
        for one in odd
        for other in layers
        if other not in odd
    )


def _differs(one: Difference, layer: int, reading: Reading) -> Finding:
    value, usual = one.values[layer], one.usual
    others = "the other layer has" if one.depth == 2 else "most layers have"
    inside = layer_name(reading, one.prefix, layer)
    names = (inside,) if inside else ()
    part = f"{one.prefix.rstrip('.')} " if one.prefix else ""
    where = f"{part}layer {layer}" + (f" ({inside})" if inside else "")
    if not one.feature.startswith(NORM):
        message = f"{where}: {one.feature} is {_plain(value)}, {others} {_plain(usual)}"
        return Finding("layer_differs", names, message)
    if value < usual:
        absent = missing_names(reading, one.prefix, layer, one.depth)
        has = f"{'no' if value == 0 else value} {one.feature}, {others} {usual}"
        missing = f": {', '.join(absent)} is missing" if absent else ""
        return Finding("norm_missing", absent or names, f"{where} has {has}{missing}")
    kind = "norm_doubled" if value > 1 else "norm_extra"
    row = f"{value} norms in a row {one.feature.removeprefix(NORM)}" if value > 1 else f"a {one.feature}"
    return Finding(kind, names, f"{where} has {row}, {others} {usual or 'none'}")


def _plain(value: Any) -> str:
    return f"{value[0]:.4g} on the skip, {value[1]:.4g} on the branch" if _factors(value) else str(value)


def _factors(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, float) for part in value)


def missing_names(reading: Reading, prefix: str, layer: int, depth: int) -> tuple[str, ...]:
    """Name the modules whose tensors most other layers have and one layer has not.

    Args:
        reading: What was read.
        prefix: Prefix of the stack.
        layer: The layer, from 1.
        depth: Number of layers.

    Returns:
        Their names; none where layers have no number of their own.
    """
    where = places({slot.name for slot in reading.slots})
    found: dict[int, set[Place]] = defaultdict(set)
    for slot in reading.slots:
        if slot.key.module.startswith(prefix) and 1 <= slot.key.layer <= depth:
            found[slot.key.layer].add(where[slot.name])
    own = {place.role for place in found[layer]}
    numbers = {place.layer for place in found[layer] if place.layer is not None}
    if len(numbers) != 1:
        return ()
    others = Counter(
        role for number in found if number != layer for role in {place.role for place in found[number]}
    )
    absent = [
        role for role, count in others.items() if 2 * count >= depth and role not in own and "*" in role
    ]
    number = str(numbers.pop() - 1)
    return tuple(dict.fromkeys(role.replace("*", number, 1).rpartition(".")[0] for role in absent))
