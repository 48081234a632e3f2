"""The stacks of a reading, with the last layer's norm where its name says that it belongs."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from empirical.readers.reading import Reading, Slot
from meanfield.ops import EncoderDecoder, Norm, ParameterKey, Repeat, Sequential, Transformer, walk


def stacks_of(reading: Reading) -> list[tuple[str, Transformer]]:
    """List the stacks of a reading with the prefix of their names.

    Args:
        reading: What was read.

    Returns:
        One, or encoder and decoder.
    """
    arch = reading.arch
    if isinstance(arch, EncoderDecoder):
        return [("encoder.", arch.encoder), ("decoder.", arch.decoder)]
    return [("", arch)]


def layer_name(reading: Reading, prefix: str, layer: int) -> str:
    """Find the module's own name of a layer.

    Args:
        reading: What was read.
        prefix: Prefix of the stack.
        layer: The layer, from 1.

    Returns:
        What the names of its tensors have in common, ``"h.2"``; empty if that is nothing.
    """
    names = [
        slot.name.split(".")
        for slot in reading.slots
        if slot.key.layer == layer and slot.key.module.startswith(prefix)
    ]
    common = []
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def with_own_norm(reading: Reading) -> Reading:
    """Give the last layer back a norm that was read as the one after all layers.

    A graph alone cannot tell the two apart where the layer before lacks a norm. Names can: the norm lies in
    the last layer. One without parameters is the layer's if most other layers end in a norm.

    Args:
        reading: What was read.

    Returns:
        The reading, changed where this is so.
    """
    arch, slots = reading.arch, reading.slots
    parts = []
    for prefix, stack in stacks_of(reading):
        final = [slot for slot in slots if slot.key.module == f"{prefix}final_norm"]
        if not (isinstance(stack.final_norm, Norm) and _belongs(reading, prefix, stack, final)):
            parts.append(stack)
            continue
        *before, (depth, block) = stack.blocks()
        count = sum(isinstance(op, Norm) and op.name[:-1] == "norm" for op in walk(block))
        norm = replace(stack.final_norm, name=f"norm{count + 1}")
        blocks = [*(own for _, own in before), Sequential((*block.ops, norm))]
        runs = tuple(Repeat(own, len(list(same))) for own, same in groupby(blocks))
        parts.append(replace(stack, layers=runs, final_norm=None))
        slots = tuple(
            replace(slot, key=ParameterKey(depth, prefix + norm.name, slot.key.parameter))
            if slot in final
            else slot
            for slot in slots
        )
    if isinstance(arch, EncoderDecoder):
        return replace(reading, arch=replace(arch, encoder=parts[0], decoder=parts[1]), slots=slots)
    return replace(reading, arch=parts[0], slots=slots)


def _belongs(reading: Reading, prefix: str, stack: Transformer, final: list[Slot]) -> bool:
    blocks = [block for _, block in stack.blocks()]
    if not final:
        ends = [isinstance(block.ops[-1], Norm) for block in blocks]
        return not ends[-1] and 2 * sum(ends) > len(ends) - 1 > 0
    own = layer_name(reading, prefix, len(blocks))
    other = layer_name(reading, prefix, len(blocks) - 1)  # equal where layers have no names of their own
    counted = any(part.isdecimal() for part in own.split("."))
    return counted and own != other and final[0].name.startswith(f"{own}.")
