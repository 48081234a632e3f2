"""What one tensor shows by itself: numbers that are none, dead and constant matrices, types."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import torch
from torch import nn

from empirical.initialization.finding import Finding, labels, layers_of, named
from empirical.initialization.items import Item, named_tensors
from empirical.initialization.sample import Sample


def broken(items: list[Item]) -> tuple[list[Finding], list[Item]]:
    """Find tensors without usable numbers.

    Args:
        items: All items.

    Returns:
        The findings, and the items that have numbers.
    """
    meta = [item for item in items if item.source.device.type == "meta"]
    findings = []
    if meta:
        which = "all" if len(meta) == len(items) else f"{len(meta)} of {len(items)}"
        message = f"{which} tensors are on the meta device and have no numbers: initialise the module first"
        findings.append(Finding("meta", labels(meta), message))
    usable = []
    for item in items:
        if item.source.device.type == "meta":
            continue
        values = item.entries()
        finite = torch.isfinite(values)
        if bool(finite.all()):
            usable.append(item)
            continue
        nan, count = int(torch.isnan(values).sum()), int((~finite).sum())
        parts = [f"{n} {word}" for n, word in ((nan, "NaN"), (count - nan, "infinite")) if n]
        message = f"{item.label} has {' and '.join(parts)} of {values.numel()} entries"
        findings.append(Finding("not_finite", (item.label,), message))
    return findings, usable


def left_out(module: nn.Module, items: list[Item], read: bool) -> Iterator[Finding]:
    """Name parameters that are no floating-point numbers, and those that a reading does not cover.

    Args:
        module: Any module.
        items: Its items.
        read: Whether there is a reading.

    Yields:
        Notes: ``skipped``, as a quantised tensor has no law, and ``unused``.
    """
    names = [name for name, tensor in named_tensors(module).items() if not tensor.is_floating_point()]
    if names:
        message = f"no floating-point numbers, left out: {_few(names)}"
        yield Finding("skipped", tuple(names), message)
    unused = [item.label for item in items if item.key is None]
    if read and unused:
        yield Finding("unused", tuple(unused), f"the output does not depend on them: {_few(unused)}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def constants(samples: dict[Item, Sample]) -> Iterator[Finding]:
    """Find matrices that are 0 or constant, and tables with rows that are 0.

    What no reading covers may be a factor of any shape: there only matrices of zeros are named.

    Args:
        samples: The items with their samples.

    Yields:
        ``dead`` and ``constant``; ``padding`` and ``zero_table``, which are notes.
    """
    groups: dict[tuple[str, float], list[Item]] = defaultdict(list)
    padded: dict[str, int] = {}
    for item, sample in samples.items():
        matrix = item.matrix and (item.key is not None or (len(item.shape) == 2 and sample.mean == 0))
        if sample.law == "constant" and matrix:
            groups[item.role, sample.mean].append(item)
        elif sample.zero_rows:
            padded[item.label] = sample.zero_rows
    for (_, value), group in groups.items():
        if value == 0 and _added(group[0]):
            yield Finding("zero_table", labels(group), f"{named(group)}: all entries are 0")
        elif value == 0:
            message = "all entries are 0"
            if group[0].key is not None:
                message += ": nothing passes forward through it, and no gradient behind it"
            yield Finding("dead", labels(group), f"{named(group)}: {message}")
        else:
            message = f"all entries are {value:.6g}: every output is the same"
            yield Finding("constant", labels(group), f"{named(group)}: {message}")
    for label, rows in padded.items():
        many = "one row" if rows == 1 else f"{rows} rows"
        yield Finding("padding", (label,), f"{label} has {many} of zeros, left out of the tests")


def _added(item: Item) -> bool:
    """Whether a tensor is added to something that is there without it: positions, segments, relative bias."""
    if item.key is None:
        return False
    table = item.kind == "table" and not item.key.module.endswith("embedding")
    return table or item.key.module == item.label


def types(items: list[Item]) -> Iterator[Finding]:
    """Find tensors whose type is not that of their peers in other layers.

    Norms in float32 beside matrices in bfloat16 are no fault: only equal roles are compared.

    Args:
        items: All items.

    Yields:
        One finding for each type and set of layers.
    """
    roles: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        roles[item.role].append(item)
    odd: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for group in roles.values():
        counts = Counter(item.dtype for item in group)
        usual = counts.most_common(1)[0][0]
        for item in group:
            if item.dtype != usual:
                odd[item.dtype, usual, layers_of([item])].append(item)
    for (dtype, usual, where), group in odd.items():
        message = f"{where} has {len(group)} tensors in {dtype} where the other layers have {usual}"
        message += f": {group[0].label}" + (", ..." if len(group) > 1 else "")
        yield Finding("dtype", labels(group), message)
