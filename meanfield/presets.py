"""Named architectures: each preset is a function of sizes that returns a `Transformer` value.

A placement is one function from sub-layers to a block (`PLACEMENTS`); a new one is an addition there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.initialization import Initialization, Sizes, initialization
from meanfield.ops import (
    Attention,
    AttentionKind,
    Draw,
    Embedding,
    EncoderDecoder,
    FeedForward,
    Head,
    Linear,
    Norm,
    NormKind,
    Op,
    Repeat,
    Residual,
    Sequential,
    Transformer,
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the norms of a layer sit.

    Args:
        block: Turns the layer's sub-layers and a norm constructor into the layer.
        final_norm: Whether one more norm follows the last layer.
        source: bibkey of the definition.
    """

    block: Callable[[tuple[Op, ...], Callable[[str], Norm]], Sequential]
    final_norm: bool
    source: str


def _post_ln(sublayers: tuple[Op, ...], norm: Callable[[str], Norm]) -> Sequential:
    ops: list[Op] = []
    for k, sublayer in enumerate(sublayers, start=1):
        ops += [Residual(f"residual{k}", sublayer), norm(f"norm{k}")]
    return Sequential(tuple(ops))


def _pre_ln(sublayers: tuple[Op, ...], norm: Callable[[str], Norm]) -> Sequential:
    return Sequential(
        tuple(
            Residual(f"residual{k}", Sequential((norm(f"norm{k}"), sublayer)))
            for k, sublayer in enumerate(sublayers, start=1)
        )
    )


PLACEMENTS: dict[str, Placement] = {
    "post_ln": Placement(_post_ln, final_norm=False, source="vaswani2017"),
    "pre_ln": Placement(_pre_ln, final_norm=True, source="xiong2020"),
}


OPTIONS = (
    "heads",
    "kv_heads",
    "d_ff",
    "activation",
    "norm",
    "norm_eps",
    "attention",
    "causal",
    "init",
    "bias",
    "vocab",
    "embedding_scale",
)


def _known(options: dict[str, Any], accepted: tuple[str, ...] = OPTIONS) -> dict[str, Any]:
    for option in options:
        if option not in accepted:
            raise UnknownNameError("option", option, accepted)
    return options


def _attention(
    name: str,
    kind: AttentionKind,
    sizes: Sizes,
    law: Initialization,
    heads: int,
    kv_heads: int,
    bias: bool,
    causal: bool = False,
    cross: bool = False,
) -> Attention:
    b = law.attention_bias if bias else None
    to_kv = (sizes.width, sizes.kv_width)
    value = Linear(*to_kv, law.v, b)
    output = Linear(sizes.width, sizes.width, law.o, b)
    if kind == "uniform":
        return Attention(name, kind, heads, kv_heads, value, output=output, causal=causal, cross=cross)
    return Attention(
        name,
        kind,
        heads,
        kv_heads,
        value,
        query=Linear(sizes.width, sizes.width, law.q, b),
        key=Linear(*to_kv, law.k, b),
        output=output,
        score_scale=float(sizes.width // heads) ** -0.5,
        causal=causal,
        cross=cross,
    )


def _sizes(width: int, depth: int, heads: int, kv_heads: int | None, d_ff: int | None) -> tuple[Sizes, int]:
    width, depth, heads = (
        positive_integer("width", width),
        positive_integer("depth", depth),
        positive_integer("heads", heads),
    )
    if width % heads:
        divisors = [h for h in range(1, width + 1) if width % h == 0]
        nearest = sorted(sorted(divisors, key=lambda h: abs(h - heads))[:3])
        raise InputError(
            f"width={width} is not divisible by heads={heads}: give a divisor of the width, for example "
            + ", ".join(map(str, nearest))
        )
    kv = heads if kv_heads is None else positive_integer("kv_heads", kv_heads)
    if heads % kv:
        raise InputError(f"heads={heads} is not divisible by kv_heads={kv}: give a divisor of the heads")
    ff = 4 * width if d_ff is None else positive_integer("d_ff", d_ff)
    return Sizes(width, kv * (width // heads), ff, depth), kv


def _stack(
    placement: str,
    *,
    name: str,
    width: int,
    depth: int,
    heads: int = 8,
    kv_heads: int | None = None,
    d_ff: int | None = None,
    activation: str = "relu",
    norm: NormKind = "layernorm",
    norm_eps: float = 1e-5,
    attention: AttentionKind = "softmax",
    causal: bool = False,
    cross: bool = False,
    init: str | Initialization = "xavier_uniform",
    bias: bool = True,
    vocab: int | None = None,
    head: bool = True,
    embedding_scale: float = 1,
) -> Transformer:
    sizes, kv = _sizes(width, depth, heads, kv_heads, d_ff)
    law = initialization(init, sizes)
    sublayers: list[Op] = [_attention("attention", attention, sizes, law, heads, kv, bias, causal=causal)]
    if cross:
        sublayers.append(_attention("cross_attention", attention, sizes, law, heads, kv, bias, cross=True))
    up = Linear(sizes.width, sizes.d_ff, law.up, law.up_bias if bias else None)
    down = Linear(sizes.d_ff, sizes.width, law.down, law.down_bias if bias else None)
    sublayers.append(FeedForward("ffn", up, activation, down))

    def make_norm(norm_name: str) -> Norm:
        return Norm(norm_name, sizes.width, norm, norm_eps)

    where = PLACEMENTS[placement]
    return Transformer(
        name=name,
        placement=placement,
        init=law.name,
        layers=(Repeat(where.block(tuple(sublayers), make_norm), depth),),
        final_norm=make_norm("final_norm") if where.final_norm else None,
        embedding=None
        if vocab is None
        else Embedding("embedding", vocab, sizes.width, law.embedding, embedding_scale),
        head=Head("head", Linear(sizes.width, vocab, law.head)) if vocab is not None and head else None,
    )


def post_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the original Transformer encoder: the norm follows each residual sum.

        x <- N(x + A(x));  x <- N(x + F(x))

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: heads (8), kv_heads (= heads), d_ff (4 width), activation ("relu"), norm ("layernorm"),
            norm_eps (1e-5), attention ("softmax"), causal (False), init ("xavier_uniform"), bias (True),
            vocab (None: the input is vectors, and there is no output head), embedding_scale (1).

    Returns:
        The architecture.

    Raises:
        UnknownNameError: If an option has another name.

    Source:
        vaswani2017, Sec. 3.1; xiong2020, Table 1.

    Example:
        >>> arch = post_ln(width=64, depth=2, heads=4)
        >>> arch.depth, arch.width, arch.feed_forward.up.d_out
        (2, 64, 256)
    """
    return _stack("post_ln", name="post_ln", width=width, depth=depth, **_known(options))


def pre_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the Transformer with the norm inside each residual branch and one norm at the end.

        x <- x + A(N(x));  x <- x + F(N(x));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        xiong2020, Table 1.

    Example:
        >>> pre_ln(width=64, depth=2, heads=4).final_norm.name
        'final_norm'
    """
    return _stack("pre_ln", name="pre_ln", width=width, depth=depth, **_known(options))


def _paper(placement: str, width: int, depth: int) -> Transformer:
    arch = _stack(
        placement,
        name=f"paper_{placement}",
        width=width,
        depth=depth,
        heads=1,
        d_ff=width,
        attention="uniform",
        init="xavier_normal",
        norm_eps=0.0,
    )
    # The paper's attention is the mean of x W_V: one matrix, without output projection and biases.
    bare = Linear(arch.width, arch.width, Draw(arch.attention.value.weight.variance))
    attention = Attention("attention", "uniform", 1, 1, bare)
    sublayers: tuple[Op, ...] = (attention, arch.feed_forward)
    block = PLACEMENTS[placement].block(sublayers, lambda name: Norm(name, arch.width, eps=0.0))
    return Transformer(
        name=arch.name,
        placement=placement,
        init=arch.init,
        layers=(Repeat(block, arch.depth),),
        final_norm=arch.final_norm,
    )


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
        placement: ``"post_ln"`` or ``"pre_ln"``.
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
    if placement not in PLACEMENTS:
        raise UnknownNameError("placement", placement, PLACEMENTS)
    own = ("causal", "heads", "d_ff", "vocab")
    _known(options, tuple(option for option in OPTIONS if option not in own))
    shared: dict[str, Any] = {
        "width": positive_integer("width", width),
        "depth": depth,
        "heads": heads,
        "d_ff": d_ff,
        "vocab": positive_integer("vocab", vocab),
        "init": "xavier_normal",
        "embedding_scale": float(width) ** 0.5,
        **options,
    }
    return EncoderDecoder(
        name=f"paper_encoder_decoder_{placement}",
        encoder=_stack(placement, name=f"{placement}_encoder", head=False, **shared),
        decoder=_stack(placement, name=f"{placement}_decoder", causal=True, cross=True, **shared),
    )


PRESETS: dict[str, Callable[..., Transformer]] = {
    "post_ln": post_ln,
    "pre_ln": pre_ln,
    "paper_post_ln": paper_post_ln,
    "paper_pre_ln": paper_pre_ln,
}
