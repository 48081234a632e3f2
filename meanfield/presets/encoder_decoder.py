"""Encoder and decoder from one placement, each with the constants of its own depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.ops import EncoderDecoder
from meanfield.presets.builder import stack
from meanfield.presets.options import OPTIONS, Options, options_from
from meanfield.presets.placements import PLACEMENTS, Placement


def encoder_decoder(
    *,
    width: int,
    depth: int,
    vocab: int,
    decoder_depth: int | None = None,
    placement: str = "post_ln",
    shared_embedding: bool = False,
    **options: Any,
) -> EncoderDecoder:
    """Build an encoder and a decoder that attends to it.

    The constants of DeepNorm, Sub-LN and T-Fixup are those of an encoder of N and a decoder of M layers.

    Args:
        width: Size of a token.
        depth: Number of layers of the encoder, N.
        vocab: Number of tokens of either side.
        decoder_depth: Number of layers of the decoder, M; None for N.
        placement: A name in `PLACEMENTS`.
        shared_embedding: Whether both stacks read one table of tokens.
        options: As for `post_ln`, without causal: the decoder is, the encoder is not.

    Returns:
        The architecture.

    Raises:
        UnknownNameError: If the placement or an option is unknown.
        InputError: If an option cannot be.

    Source:
        vaswani2017, Fig. 1; for the constants see `meanfield.initialization.deepnorm_constants`,
        `sub_ln_gain` and `t_fixup_gain`.

    Example:
        >>> arch = encoder_decoder(placement="deepnorm", width=64, depth=6, decoder_depth=27, vocab=100)
        >>> round(arch.decoder.layers[0].block.ops[0].skip_scale, 12)  # (3 x 27)^(1/4)
        3.0
    """
    where = placement_named(placement)
    accepted = tuple(name for name in OPTIONS if name != "causal")
    chosen = options_from({**options, "vocab": vocab}, accepted, init=where.init)
    if not isinstance(shared_embedding, bool):
        raise InputError(f"shared_embedding={shared_embedding!r} is no boolean: give True or False")
    arch = assemble(f"encoder_decoder_{placement}", where, width, depth, decoder_depth, vocab, chosen)
    return replace(arch, shared_embedding=shared_embedding)


def placement_named(name: str) -> Placement:
    """Look a placement up.

    Args:
        name: A name in `PLACEMENTS`.

    Returns:
        The placement.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in PLACEMENTS:
        raise UnknownNameError("placement", name, PLACEMENTS)
    return PLACEMENTS[name]


def assemble(
    name: str,
    where: Placement,
    width: int,
    depth: int,
    decoder_depth: int | None,
    vocab: int,
    options: Options,
) -> EncoderDecoder:
    """Build both stacks of an encoder-decoder from checked options.

    Args:
        name: Goes into the ``arch`` column.
        where: Where the norms sit.
        width: Size of a token.
        depth: Layers of the encoder.
        decoder_depth: Layers of the decoder; None for as many.
        vocab: Number of tokens.
        options: What else can be chosen.

    Returns:
        The architecture.
    """
    below = positive_integer("depth", depth)
    above = below if decoder_depth is None else positive_integer("decoder_depth", decoder_depth)
    encoder = replace(options, vocab=positive_integer("vocab", vocab))
    bias = options.relative_bias
    decoder = replace(
        encoder,
        causal=True,
        # a causal token has no later ones to tell apart
        relative_bias=None if bias is None else replace(bias, bidirectional=False),
    )
    return EncoderDecoder(
        name=name,
        encoder=stack(
            where,
            name=f"{where.name}_encoder",
            width=width,
            depth=below,
            options=encoder,
            head=False,
            part="encoder",
            other_depth=above,
        ),
        decoder=stack(
            where,
            name=f"{where.name}_decoder",
            width=width,
            depth=above,
            options=decoder,
            part="decoder",
            other_depth=below,
        ),
    )
