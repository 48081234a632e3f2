"""What a scheme says of each tensor of a reading."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from empirical.build import Architecture
from empirical.initialization.items import Item
from empirical.readers.reading import Reading
from meanfield.initialization import Initialization, Sizes, initialization
from meanfield.ops import ONES, ZEROS, Attention, Draw, FeedForward, Transformer, walk

_WEIGHTS = re.compile(
    r"(?:cross_)?attention\d*\.([qkvo])|ffn\d*\.(up|gate|down)|(embedding|position|segment|head)"
)
_BIASES = {"q": "attention", "k": "attention", "v": "attention", "o": "output", "gate": "up"}


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack of layers with its sizes and the scheme's law of its parameters.

    Args:
        prefix: ``"encoder."`` or ``"decoder."`` of a pair, else ``""``.
        arch: The stack.
        sizes: Its sizes.
        law: The scheme for these sizes.
    """

    prefix: str
    arch: Transformer
    sizes: Sizes
    law: Initialization


def stacks(arch: Architecture) -> list[tuple[str, Transformer, Sizes]]:
    """List the stacks of an architecture with the sizes on which schemes depend.

    Args:
        arch: The architecture.

    Returns:
        Prefix of names, stack and sizes; one or two.
    """
    if isinstance(arch, Transformer):
        return [("", arch, sizes_of(arch))]
    other: list[tuple[Literal["encoder", "decoder"], Transformer, int]] = [
        ("encoder", arch.encoder, arch.decoder.depth),
        ("decoder", arch.decoder, arch.encoder.depth),
    ]
    return [
        (f"{name}.", stack, replace(sizes_of(stack), stack=name, other_depth=depth))
        for name, stack, depth in other
    ]


def sizes_of(stack: Transformer) -> Sizes:
    """Read the sizes of a stack off its first layer.

    Args:
        stack: The stack.

    Returns:
        The sizes; a layer without feed-forward op, or without attention, takes the other's width.

    Example:
        >>> import meanfield as mf
        >>> sizes_of(mf.pre_ln(width=8, depth=3, heads=2)).d_ff
        32
    """
    ops = list(walk(stack.layers[0]))
    attention = next((op for op in ops if isinstance(op, Attention)), None)
    ffn = next((op for op in ops if isinstance(op, FeedForward)), None)
    width = ffn.up.d_in if ffn else attention.value.d_in if attention else 1
    d_ff = ffn.up.d_out if ffn else width
    if attention is None:
        return Sizes(width, width, d_ff, stack.depth)
    return Sizes(width, attention.value.d_out, d_ff, stack.depth, attention.heads, attention.head_size)


def laws(reading: Reading, scheme: str | Initialization) -> list[Stack]:
    """Evaluate a scheme for each stack of a reading.

    Args:
        reading: What was read.
        scheme: Name of a scheme, or one as a value.

    Returns:
        The stacks.
    """
    return [
        Stack(prefix, arch, sizes, initialization(scheme, sizes))
        for prefix, arch, sizes in stacks(reading.arch)
    ]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a scheme says of one tensor.

    Args:
        field: Field of `Initialization`, or ``"gain"`` and ``"shift"`` of a norm.
        draw: The law of its entries.
        stack: The stack that it is in.
    """

    field: str
    draw: Draw
    stack: Stack


def expected(item: Item, found: list[Stack]) -> Expected | None:
    """Look up what a scheme says of a tensor.

    Args:
        item: The tensor.
        found: The stacks of its module with their laws.

    Returns:
        Field and law; None for what the scheme does not name: learned factors, relative positions, and what
        is no parameter of the architecture.
    """
    if item.key is None:
        return None
    stack = next((s for s in found if item.key.module.startswith(s.prefix)), found[0])
    if item.kind in ("gain", "shift"):
        return Expected(item.kind, ONES if item.kind == "gain" else ZEROS, stack)
    match = _WEIGHTS.fullmatch(item.key.module.removeprefix(stack.prefix))
    if match is None:
        return None
    part = next(group for group in match.groups() if group)
    if item.key.parameter == "bias":
        field = f"{_BIASES.get(part, part)}_bias"
        law = stack.law.attention_bias if field == "output_bias" and stack.law.output_bias is None else None
    else:
        field = part
        law = {"gate": stack.law.up, "position": stack.law.embedding, "segment": stack.law.embedding}.get(
            part
        )
    own: Draw | None = getattr(stack.law, field, None)
    draw = law if own is None else own
    return None if draw is None else Expected(field, draw, stack)
