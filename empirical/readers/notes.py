"""What is worth saying about a module that has been read."""

from __future__ import annotations

import torch
from torch import nn

from empirical.readers.reading import Slot
from empirical.readers.trace import Graph


def notes(
    module: nn.Module, graph: Graph, slots: tuple[Slot, ...], shared: tuple[tuple[str, ...], ...]
) -> tuple[str, ...]:
    """Say which layers are copies, which tensors are shared, dead or unused.

    Args:
        module: The module.
        graph: Its pass.
        slots: Its parameters that were read.
        shared: Groups of labels that are one tensor.

    Returns:
        One sentence each.
    """
    found = [f"{group[0]} is used in {len(group)} places" for group in shared]
    tensors = dict(module.named_parameters())
    used = {slot.name for slot in slots}
    unused = [name for name in tensors if name not in used]
    if unused:
        found.append(f"not used by the output: {', '.join(unused)}")
    dead = [s.label for s in slots if s.index.dim() == 2 and not s.take(tensors[s.name]).any()]
    if dead:
        found.append(f"dead, all zero: {', '.join(dead)}")
    found += [
        f"layers {a} and {b} have equal weights: copies are not independent" for a, b in clones(module, slots)
    ]
    return tuple(found)


def clones(module: nn.Module, slots: tuple[Slot, ...]) -> list[tuple[int, int]]:
    """Find pairs of neighbouring layers whose matrices are equal.

    Args:
        module: The module.
        slots: Its parameters.

    Returns:
        Pairs of layer numbers.
    """
    tensors = dict(module.named_parameters())
    layers: dict[tuple[str, int], list[torch.Tensor]] = {}
    for slot in slots:
        if slot.index.dim() == 2 and slot.key.layer > 0 and slot.key.parameter == "weight":
            stack = (
                slot.key.module.split(".")[0] if slot.key.module.startswith(("encoder.", "decoder.")) else ""
            )
            values = slot.take(tensors[slot.name])
            if values.any():
                layers.setdefault((stack, slot.key.layer), []).append(values)
    found = []
    for (stack, layer), matrices in layers.items():
        others = layers.get((stack, layer + 1), [])
        if len(matrices) == len(others) and all(
            torch.equal(a, b) for a, b in zip(matrices, others, strict=True)
        ):
            found.append((layer, layer + 1))
    return found
