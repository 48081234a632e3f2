"""The builder behind every preset: a stack of layers from a placement, sizes and options."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

from meanfield.errors import InputError, positive_integer
from meanfield.initialization import Initialization, Sizes, initialization
from meanfield.ops import (
    Dropout,
    Embedding,
    Fork,
    Head,
    Linear,
    Merge,
    Norm,
    Op,
    Parallel,
    Repeat,
    Residual,
    Sequential,
    Transformer,
    walk,
)
from meanfield.presets.layer import Layer, attention, feed_forward
from meanfield.presets.options import Options, options_from
from meanfield.presets.placements import PLACEMENTS, Placement


def stack(
    placement: Placement,
    *,
    name: str,
    width: int,
    depth: int,
    options: Options,
    head: bool = True,
    part: Literal["alone", "encoder", "decoder"] = "alone",
    other_depth: int | None = None,
) -> Transformer:
    """Build a stack of layers.

    Args:
        placement: Where the norms sit.
        name: Goes into the ``arch`` column.
        width: Size of a token.
        depth: Number of layers.
        options: What can be chosen.
        head: Whether a stack with a vocabulary has an output head.
        part: A decoder has cross-attention; some constants depend on it.
        other_depth: Number of layers of the other stack of the pair.

    Returns:
        The architecture.

    Raises:
        InputError: If sizes do not fit together, or an option has nothing to act on.

    Example:
        >>> arch = stack(PLACEMENTS["pre_ln"], name="mine", width=8, depth=3, options=Options(heads=2))
        >>> len(arch.layers), arch.depth
        (1, 3)
    """
    sizes = replace(_sizes(width, depth, options), stack=part, other_depth=other_depth)
    law = initialization(options.init, sizes)
    windows, bias = options.window, options.relative_bias
    varies = placement.varies or isinstance(windows, tuple) or (bias is not None and bias.shared)
    blocks = [
        _block(Layer(index, sizes, options), placement, law, cross=part == "decoder")
        for index in range(1, (sizes.depth if varies else 1) + 1)
    ]
    runs = [Repeat(block, len(list(same))) for block, same in groupby(blocks)]
    layers = tuple(runs) if varies else (Repeat(blocks[0], sizes.depth),)
    scaled = options.skip_scale is not None or options.branch_scale is not None
    if scaled and not any(isinstance(op, Residual) for op in walk(layers[0])):
        raise InputError(
            f"placement={placement.name!r} has no residual sum: leave out skip_scale and branch_scale"
        )
    return Transformer(
        name=name,
        placement=placement.name,
        init=law.name,
        layers=layers,
        final_norm=_final_norm(placement, Layer(0, sizes, options)),
        entry=_entry(placement, Layer(0, sizes, options)),
        **_tokens(sizes, options, law, head),
    )


def _sizes(width: int, depth: int, options: Options) -> Sizes:
    width, depth, heads = (
        positive_integer("width", width),
        positive_integer("depth", depth),
        positive_integer("heads", options.heads),
    )
    if options.head_size is None and width % heads:
        divisors = [h for h in range(1, min(width, 8 * heads) + 1) if width % h == 0]
        nearest = sorted(sorted(divisors, key=lambda h: abs(h - heads))[:3])
        raise InputError(
            f"width={width} is not divisible by heads={heads}: give a divisor of the width, for example "
            + ", ".join(map(str, nearest))
        )
    head_size = (
        width // heads if options.head_size is None else positive_integer("head_size", options.head_size)
    )
    kv = heads if options.kv_heads is None else positive_integer("kv_heads", options.kv_heads)
    if heads % kv:
        raise InputError(f"heads={heads} is not divisible by kv_heads={kv}: give a divisor of the heads")
    d_ff = 4 * width if options.d_ff is None else positive_integer("d_ff", options.d_ff)
    return Sizes(width, kv * head_size, d_ff, depth, heads, head_size)


def _block(layer: Layer, placement: Placement, law: Initialization, cross: bool) -> Sequential:
    options = layer.options

    def with_dropout(op: Op) -> Op:
        op = placement.inside(op, layer)
        return Sequential((op, Dropout(options.dropout))) if options.dropout else op

    sublayers = [attention(layer, law), *([attention(layer, law, cross=True)] if cross else [])]
    branches = tuple(map(with_dropout, (*sublayers, feed_forward(layer, law))))
    if not options.parallel:
        return placement.block(replace(layer, sublayers=branches))
    if options.parallel is True:
        return placement.block(replace(layer, sublayers=(Parallel(branches),)))
    if placement.name != "pre_ln":
        raise InputError(f"parallel='two_norms' with placement={placement.name!r}: only pre_ln has this form")
    normed = (Sequential((layer.norm(f"norm{k}"), branch)) for k, branch in enumerate(branches, start=1))
    return Sequential((layer.residual(1, Parallel(tuple(normed))),))


def _final_norm(placement: Placement, layer: Layer) -> Norm | Merge | None:
    wanted = placement.final_norm if layer.options.final_norm is None else layer.options.final_norm
    norm = layer.norm("final_norm")
    if placement.two_streams:
        if not wanted:
            raise InputError(f"placement={placement.name!r} ends in a norm: leave out final_norm=False")
        return Merge(norm)
    return norm if wanted else None


def _entry(placement: Placement, layer: Layer) -> Op | None:
    options = layer.options
    ops: list[Op] = [layer.norm("embedding_norm")] if options.embedding_norm else []
    general = options.dropout if options.vocab is not None else 0
    rate = general if options.embedding_dropout is None else options.embedding_dropout
    ops += [Dropout(rate)] if rate else []
    ops += [Fork()] if placement.two_streams else []
    return Sequential(tuple(ops)) if len(ops) > 1 else ops[0] if ops else None


def _tokens(sizes: Sizes, options: Options, law: Initialization, head: bool) -> dict[str, Any]:
    """What a stack with a vocabulary has more: tables and head."""
    if options.vocab is None:
        return {}
    width, vocab = sizes.width, options.vocab
    made: dict[str, Any] = {
        "embedding": Embedding("embedding", vocab, width, law.embedding, options.embedding_scale)
    }
    for name, rows, own in (
        ("position", options.positions, law.position),
        ("segment", options.segments, law.segment),
    ):
        if rows is not None:
            made[name] = Embedding(name, rows, width, law.embedding if own is None else own)
    if head:
        weight = law.embedding if options.tied else law.head
        linear = Linear(width, vocab, weight, law.head_bias if options.head_bias else None)
        made["head"] = Head("head", linear, options.tied, options.logit_scale, options.logit_softcap)
    return made


def placed(
    placement: str | Placement, width: int, depth: int, given: dict[str, Any], name: str | None = None
) -> Transformer:
    """Build the stack of a placement from keyword options.

    Args:
        placement: The placement, or its name.
        width: Size of a token.
        depth: Number of layers.
        given: Options by name.
        name: Goes into the ``arch`` column; None for that of the placement.

    Returns:
        The architecture.
    """
    where = PLACEMENTS[placement] if isinstance(placement, str) else placement
    options = options_from(given, init=where.init)
    return stack(where, name=name or where.name, width=width, depth=depth, options=options)
