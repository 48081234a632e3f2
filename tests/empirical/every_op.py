"""Small architectures in which every op and every field of one stands somewhere."""

from __future__ import annotations

from typing import Any

from meanfield import ops
from meanfield.ops import (
    Attention,
    Draw,
    Dropout,
    FeedForward,
    Gain,
    Norm,
    RelativeBias,
    Repeat,
    Residual,
    Scale,
    Sequential,
)

WIDTH, HEADS, D_FF, VOCAB = 4, 2, 3, 5
SMOOTH = 0.1  # eps of norms of few coordinates or behind dropout, which are nearly steps without


def linear(d_in: int, d_out: int, bias: bool = True) -> ops.Linear:
    return ops.Linear(d_in, d_out, Draw(1 / d_in), Draw(0.01) if bias else None)


def attention(kv_heads: int = HEADS, **options: Any) -> Attention:
    kv = linear(WIDTH, kv_heads * WIDTH // HEADS)
    square = linear(WIDTH, WIDTH)
    return Attention(
        "attention", "softmax", HEADS, kv_heads, kv, square, kv, square, score_scale=0.7, **options
    )


def ffn(activation: str, gated: bool = False, inner: ops.Op | None = None) -> FeedForward:
    up = linear(WIDTH, D_FF)
    return FeedForward("ffn", up, activation, linear(D_FF, WIDTH), up if gated else None, inner)


BIAS = RelativeBias("attention.relative_bias", Draw(0.3), buckets=4, max_distance=3)


def one_stream(dropout: float = 0.2) -> ops.Transformer:
    """Every op and field of a single stream."""
    first = attention(
        kv_heads=1,
        causal=True,
        window=2,
        query_norm=Norm("attention.q_norm", WIDTH // HEADS, "rmsnorm"),
        key_norm=Norm("attention.k_norm", WIDTH // HEADS, "rmsnorm", affine=False),
        value_norm=Norm("attention.v_norm", WIDTH // HEADS, eps=SMOOTH),
        rotary=ops.Rotary(base=50),
        relative_bias=BIAS,
        softcap=2,
        dropout=dropout,
        inner=Sequential((Norm("attention.norm", WIDTH, eps=SMOOTH), Gain("attention.gain", HEADS, 1.5))),
    )
    gated = ffn("silu", gated=True, inner=Sequential((Norm("ffn.norm", D_FF, eps=SMOOTH), Dropout(dropout))))
    block = Sequential((
        Residual(
            "residual1",
            Sequential((Norm("norm1", WIDTH, "rmsnorm"), first, Gain("gain1", WIDTH, 0.5), Dropout(dropout))),
            skip_scale=0.9,
        ),
        Residual(
            "residual2",
            ops.Parallel((
                Sequential((Norm("norm2", WIDTH, affine=False), gated)),
                Scale(0.5),
                Sequential((linear(WIDTH, WIDTH), Gain("gain2", 1, 0))),
            )),
        ),
    ))
    last = Sequential((
        Residual(
            "residual1",
            attention(
                query_norm=Norm("attention.q_norm", WIDTH),
                relative_bias=RelativeBias(
                    BIAS.name, BIAS.weight, BIAS.buckets, BIAS.max_distance, shared=True
                ),
            ),
        ),
        Norm("norm1", WIDTH),
        Residual("residual2", ffn("gelu")),
        Norm("norm2", WIDTH),
    ))
    return ops.Transformer(
        "one_stream",
        "mixed",
        "mixed",
        (Repeat(block, 1), Repeat(last, 1)),
        Norm("final_norm", WIDTH),
        ops.Embedding("embedding", VOCAB, WIDTH, Draw(1), scale=1.3),
        ops.Head("head", linear(WIDTH, VOCAB, bias=False), tied=True, scale=0.7, softcap=2),
        position=ops.Embedding("position", 7, WIDTH, Draw(0.5)),
        segment=ops.Embedding("segment", 2, WIDTH, Draw(0.5)),
        entry=Sequential((Norm("embedding_norm", WIDTH), Dropout(dropout))),
    )


def two_streams(vocab: int | None = None) -> ops.Transformer:
    """A stack of dual residuals, on vectors or with an untied head."""
    block = Sequential((
        ops.DualResidual("residual1", attention(), Norm("norm1", WIDTH)),
        ops.DualResidual("residual2", ffn("tanh"), Norm("norm2", WIDTH)),
    ))
    return ops.Transformer(
        "two_streams",
        "dual",
        "mixed",
        (Repeat(block, 2),),
        ops.Merge(Norm("final_norm", WIDTH)),
        None if vocab is None else ops.Embedding("embedding", vocab, WIDTH, Draw(1)),
        None if vocab is None else ops.Head("head", linear(WIDTH, vocab), softcap=3),
        entry=ops.Fork(),
    )
