"""One tensor in several places: layers that share weights, and tied tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torch import nn

from empirical.initialization.finding import Finding, runs
from empirical.initialization.items import Item, in_layers, named_tensors, places, storage
from empirical.readers.reading import Reading


def shared(module: nn.Module, items: list[Item], reading: Reading | None) -> Iterator[Finding]:
    """Find tensors that stand in several places.

    torch lists a shared tensor once, under its first name; here all its names count, and so does each place
    in the architecture that a reading gives it.

    Args:
        module: The module.
        items: Its items.
        reading: What was read, or None.

    Yields:
        ``shared`` where a layer has a part in it; otherwise ``tied``, a note.
    """
    names: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name, tensor in named_tensors(module).items():
        names[storage(tensor)].append(name)
    uses: dict[tuple[object, ...], list[Item]] = defaultdict(list)
    for item in items:
        uses[storage(item.source)].append(item)
    where = places(named_tensors(module))
    by_layers: dict[tuple[int, ...], list[list[str]]] = defaultdict(list)
    said: set[str] = set()
    for place, own in names.items():
        keyed = [item for item in uses[place] if item.key is not None]
        parts = [item.slot and item.slot.part for item in keyed]
        if len(own) < 2 and len(set(parts)) == len(parts):
            continue
        said |= {*own, *(item.label for item in keyed)}
        inside = in_layers(keyed) if keyed else in_layers(uses[place])
        if not inside:
            yield Finding("tied", tuple(own), _tied_message(own, keyed))
            continue
        layers = {item.layer for item in inside if item.layer}
        by_name = {layer for name in own if (layer := where[name].layer) is not None}
        by_layers[tuple(sorted(layers if len(layers) >= len(by_name) else by_name))].append(own)
    for numbers, found in by_layers.items():
        yield Finding("shared", tuple(name for own in found for name in own), _shared_message(numbers, found))
    for group in reading.shared if reading is not None else ():
        if not said & set(group):
            yield Finding("tied", tuple(group), f"{' and '.join(dict.fromkeys(group))} are one tensor")


def _tied_message(names: list[str], keyed: list[Item]) -> str:
    if len(names) > 1:
        return f"{' and '.join(names)} are one tensor"
    return f"{names[0]} is one tensor for {' and '.join(str(item.key and item.key.module) for item in keyed)}"


def _shared_message(layers: tuple[int, ...], groups: list[list[str]]) -> str:
    count = "one tensor" if len(groups) == 1 else f"{len(groups)} tensors"
    such = f"{count}, such as {' = '.join(groups[0][:2])}"
    if len(layers) < 2:
        return f"{such}, in several places of one layer: one draw, and one gradient, for all"
    return (
        f"layers {runs(layers)} share weights ({such}): named_parameters() shows them once, and their "
        "gradients add up. nn.ModuleList([layer] * n) does that; deep copies, drawn anew, do not"
    )
