"""The architectures of the paper: its theoretical setting and the model of its experiments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meanfield.errors import positive_integer
from meanfield.initialization import Sizes
from meanfield.ops import Attention, Draw, EncoderDecoder, Linear, Repeat, Transformer
from meanfield.presets.builder import stack
from meanfield.presets.encoder_decoder import assemble, placement_named
from meanfield.presets.layer import Layer
from meanfield.presets.options import OPTIONS, Options, options_from
from meanfield.presets.placements import PLACEMENTS


def _paper(placement: str, width: int, depth: int) -> Transformer:
    options = Options(heads=1, d_ff=width, attention="uniform", init="xavier_normal", norm_eps=0.0)
    where = PLACEMENTS[placement]
    arch = stack(where, name=f"paper_{placement}", width=width, depth=depth, options=options)
    # The paper's attention is the mean of x W_V: one matrix, without output projection and biases.
    bare = Linear(arch.width, arch.width, Draw(arch.attention.value.weight.variance))
    attention = Attention("attention", "uniform", 1, 1, bare)
    sizes = Sizes(arch.width, arch.width, arch.width, arch.depth)
    block = where.block(Layer(1, sizes, options, (attention, arch.feed_forward)))
    return replace(arch, layers=(Repeat(block, arch.depth),))


def paper_post_ln(*, width: int, depth: int) -> Transformer:
    """Build Post-LN in the paper's theoretical setting.

    Uniform attention with a value matrix only, d_ff = width, ReLU, every weight N(0, 1/width), biases 0, norm
    without eps.

    Args:
        width: Size of a token.
        depth: Number of layers.

    Returns:
        The architecture.

    Source:
        xiong2020, Sec. 3.2.

    Example:
        >>> paper_post_ln(width=512, depth=6).attention.kind
        'uniform'
    """
    return _paper("post_ln", width, depth)


def paper_pre_ln(*, width: int, depth: int) -> Transformer:
    """Build Pre-LN in the paper's theoretical setting; see `paper_post_ln`.

    Args:
        width: Size of a token.
        depth: Number of layers.

    Returns:
        The architecture.

    Source:
        xiong2020, Sec. 3.2.

    Example:
        >>> paper_pre_ln(width=512, depth=6).feed_forward.up.sigma_w_sq
        Fraction(1, 1)
    """
    return _paper("pre_ln", width, depth)


def paper_encoder_decoder(
    *,
    placement: str = "post_ln",
    width: int = 512,
    depth: int = 6,
    heads: int = 4,
    d_ff: int = 1024,
    vocab: int = 10_000,
    **options: Any,
) -> EncoderDecoder:
    """Build the model of the paper's experiments: encoder and decoder of ``depth`` layers each.

    Softmax attention with unpacked Xavier projections, biases 0, embeddings N(0, 1/width) times sqrt(width),
    an untied output head N(0, 1/width).

    Args:
        placement: ``"post_ln"`` or ``"pre_ln"``; any other in `PLACEMENTS` works too.
        width: Size of a token.
        depth: Number of layers of each of the two stacks.
        heads: Number of attention heads.
        d_ff: Inner size of the feed-forward op.
        vocab: Number of classes.
        options: As for `post_ln`, without causal: the decoder is, the encoder is not.

    Returns:
        The architecture.

    Raises:
        UnknownNameError: If the placement or an option is unknown.

    Source:
        xiong2020, Sec. 4.1 (IWSLT14 De-En model).

    Example:
        >>> paper_encoder_decoder(width=64, depth=2, d_ff=128, vocab=100).decoder.depth
        2
    """
    where = placement_named(placement)
    own = ("causal", "heads", "d_ff", "vocab")
    accepted = tuple(option for option in OPTIONS if option not in own)
    init = "xavier_normal" if where.init == "xavier_uniform" else where.init
    scale = float(positive_integer("width", width)) ** 0.5
    sizes = {"heads": heads, "d_ff": d_ff, "vocab": vocab}
    chosen = options_from(options, accepted, init=init, embedding_scale=scale, **sizes)
    name = f"paper_encoder_decoder_{placement}"
    return assemble(name, where, width, depth, None, vocab, chosen)
