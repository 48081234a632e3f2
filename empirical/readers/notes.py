"""What is worth saying about a module that has been read."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.readers.reading import Slot
from empirical.readers.terms import Root
from meanfield import ops


def notes(module: nn.Module, slots: tuple[Slot, ...], shared: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Say which layers are copies, which tensors are shared, dead or unused.

    Args:
        module: The module.
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
    return tuple(found)


def dependent(module: nn.Module, slots: tuple[Slot, ...]) -> tuple[str, ...]:
    """Say why weights are not independent of each other, where they are not.

    Args:
        module: The module.
        slots: Its parameters that were read.

    Returns:
        One sentence for each pair of equal layers and each tensor that layers share.
    """
    found = [
        f"layers {a} and {b} have equal weights, as copies have: draw each layer's anew"
        for a, b in clones(module, slots)
    ]
    places: dict[str, list[str]] = {}
    for slot in slots:
        kind = slot.key.module.rsplit(".", 1)[-1]
        if kind not in TABLES and slot.key.layer > 0:
            places.setdefault(slot.label, []).append(f"{slot.key.module} of layer {slot.key.layer}")
    found += [f"{name} is {' and '.join(used)}" for name, used in places.items() if len(used) > 1]
    return tuple(found)


def lopsided(
    root: Root, order: Tensor, gram: NDArray[np.float64] | None, stack: ops.Transformer
) -> str | None:
    """Say when constant vectors have a mean over coordinates, which the first LayerNorm takes out.

        share = mean over tokens of (mean over coordinates of x_i)^2 / (|x_i|^2 / d), 1/d by chance

    Args:
        root: What enters a stack.
        order: Row numbers (batch, tokens) of its tokens.
        gram: Second moments of the vectors that enter.
        stack: The stack.

    Returns:
        One sentence, or None where the share is no more than 1 % beyond chance, or no norm takes means out.
    """
    centres = any(
        isinstance(op, ops.Norm) and op.kind == "layernorm" for run in stack.layers for op in ops.walk(run)
    )
    if root.made.constant is None or gram is None or not centres:
        return None
    means = root.made.constant.reshape(-1, root.width)[order.reshape(-1)].mean(-1).numpy()
    sizes = np.diagonal(gram)
    share = float(np.mean(means[sizes > 0] ** 2 / sizes[sizes > 0]))
    if share <= 0.01 + 3 / root.width:
        return None
    return (
        f"the vectors that enter have a mean over their coordinates that carries {share:.0%} of their size, "
        "as sine positions have; the theory takes directions for alike"
    )


TABLES = ("embedding", "position", "segment", "head", "relative_bias")
"""What may be one tensor in several places: the theory has rules for it."""


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
