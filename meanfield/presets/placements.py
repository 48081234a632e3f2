"""Where norms, gains and factors sit: one function from a layer's sub-layers to its block for each placement.

A new placement is one such function, and one line in `PLACEMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from meanfield.initialization import deepnorm_constants
from meanfield.ops import (
    Attention,
    DualResidual,
    FeedForward,
    Gain,
    Norm,
    Number,
    Op,
    Residual,
    Scale,
    Sequential,
)
from meanfield.presets.layer import Layer


def _nothing(op: Op, layer: Layer) -> Op:
    return op


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the norms of a layer sit.

    Args:
        name: Goes into the ``placement`` column.
        block: Arranges the sub-layers of a layer.
        final_norm: Whether one more norm follows the last layer.
        source: bibkey of the definition.
        inside: What is put into each sub-layer.
        varies: Whether layers differ from each other.
        two_streams: Whether the layers hold a second stream.
        init: The initialisation that belongs to it.
    """

    name: str
    block: Callable[[Layer], Sequential]
    final_norm: bool
    source: str
    inside: Callable[[Op, Layer], Op] = _nothing
    varies: bool = False
    two_streams: bool = False
    init: str = "xavier_uniform"


def post_norm(layer: Layer, skip: Number = 1, scale: Number = 1) -> Sequential:
    """Arrange N(skip * x + scale * F(x))."""
    ops: list[Op] = []
    for k, sublayer in enumerate(layer.sublayers, start=1):
        ops += [layer.residual(k, sublayer, skip, scale), layer.norm(f"norm{k}")]
    return Sequential(tuple(ops))


def pre_norm(layer: Layer, skip: Number = 1, scale: Number = 1, after: Number | None = None) -> Sequential:
    """Arrange skip * x + scale * F(after * N(x))."""
    between = () if after is None else (Scale(after),)
    return Sequential(
        tuple(
            layer.residual(k, Sequential((layer.norm(f"norm{k}"), *between, sublayer)), skip, scale)
            for k, sublayer in enumerate(layer.sublayers, start=1)
        )
    )


def sandwich(layer: Layer) -> Sequential:
    """Arrange x + N(F(N(x)))."""
    return Sequential(
        tuple(
            layer.residual(
                k,
                Sequential((layer.norm(f"norm{2 * k - 1}"), sublayer, layer.norm(f"norm{2 * k}"))),
            )
            for k, sublayer in enumerate(layer.sublayers, start=1)
        )
    )


def branch_norm(layer: Layer) -> Sequential:
    """Arrange x + N(F(x))."""
    return Sequential(
        tuple(
            layer.residual(k, Sequential((sublayer, layer.norm(f"norm{k}"))))
            for k, sublayer in enumerate(layer.sublayers, start=1)
        )
    )


def deepnorm(layer: Layer) -> Sequential:
    """Arrange N(alpha x + F(x)) with DeepNorm's alpha."""
    alpha, _ = deepnorm_constants(layer.sizes)
    return post_norm(layer, alpha)


def bare(layer: Layer) -> Sequential:
    """Arrange x + F(x), without norms."""
    return Sequential(
        tuple(layer.residual(k, sublayer) for k, sublayer in enumerate(layer.sublayers, start=1))
    )


def gated(layer: Layer, value: Number = 0) -> Sequential:
    """Arrange x + a F(x) with one learned a, without norms."""
    return Sequential(
        tuple(
            layer.residual(k, Sequential((sublayer, Gain(f"gain{k}", 1, value))))
            for k, sublayer in enumerate(layer.sublayers, start=1)
        )
    )


def layer_scale_block(layer: Layer, value: Number | None = None) -> Sequential:
    """Arrange x + diag(lambda) F(N(x)) with a learned factor for each coordinate."""
    depth = layer.sizes.depth
    lam = (0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6) if value is None else value
    return Sequential(
        tuple(
            layer.residual(
                k, Sequential((layer.norm(f"norm{k}"), sublayer, Gain(f"gain{k}", layer.sizes.width, lam)))
            )
            for k, sublayer in enumerate(layer.sublayers, start=1)
        )
    )


def residual_streams(layer: Layer) -> Sequential:
    """Arrange x <- N(x + F(x)), r <- r + F(x)."""
    return Sequential(
        tuple(
            DualResidual(f"residual{k}", sublayer, layer.norm(f"norm{k}"))
            for k, sublayer in enumerate(layer.sublayers, start=1)
        )
    )


def layernorm_scaling(layer: Layer) -> Sequential:
    """Arrange x + F(N(x) / sqrt(l)) in layer l."""
    return pre_norm(layer, after=float(layer.index) ** -0.5)


def hybrid_norm(layer: Layer) -> Sequential:
    """Arrange Y = x + A(x), N(Y) + F(N(Y)): one norm between the two residual sums."""
    ops: list[Op] = []
    for k, sublayer in enumerate(layer.sublayers, start=1):
        ops += [layer.norm(f"norm{k - 1}")] if k > 1 else []
        ops.append(layer.residual(k, sublayer))
    return Sequential(tuple(ops))


def b2t(layer: Layer) -> Sequential:
    """Arrange the post-norm layer with x added once more before its last norm."""
    *first, last = post_norm(layer).ops
    return Sequential((Residual(f"residual{len(layer.sublayers) + 1}", Sequential(tuple(first))), last))


def mix_ln(layer: Layer, share: float = 0.25) -> Sequential:
    """Arrange the first share of the layers as post-norm and the rest as pre-norm."""
    return post_norm(layer) if layer.index <= share * layer.sizes.depth else pre_norm(layer)


def keel(layer: Layer) -> Sequential:
    """Arrange N(alpha x + F(N(x))), alpha the number of sub-layers of the stack."""
    alpha = layer.sizes.depth * len(layer.sublayers)
    ops: list[Op] = []
    for k, sublayer in enumerate(layer.sublayers, start=1):
        inner = Sequential((layer.norm(f"norm{2 * k - 1}"), sublayer))
        ops += [layer.residual(k, inner, alpha), layer.norm(f"norm{2 * k}")]
    return Sequential(tuple(ops))


def inner_norms(op: Op, layer: Layer) -> Op:
    """Put a norm before the output projection of attention and before the second feed-forward map."""
    if isinstance(op, Attention):
        return replace(op, inner=_then(op.inner, layer.norm(f"{op.name}.norm", layer.sizes.q_width)))
    return norm_after_activation(op, layer)


def norm_after_activation(op: Op, layer: Layer) -> Op:
    """Put a norm between the activation and the second feed-forward map."""
    if isinstance(op, FeedForward):
        return replace(op, inner=_then(op.inner, layer.norm(f"{op.name}.norm", layer.sizes.d_ff)))
    return op


def normformer_inside(op: Op, layer: Layer) -> Op:
    """Put a factor on each head, a norm behind attention, and a norm after the activation."""
    if isinstance(op, Attention):
        scaled = replace(op, inner=_then(op.inner, Gain(f"{op.name}.head_scale", op.heads, 1)))
        return Sequential((scaled, layer.norm(f"{op.name}.norm")))
    return norm_after_activation(op, layer)


def qkv_norms(op: Op, layer: Layer) -> Op:
    """Put a norm of all heads together on queries, keys and values."""
    if not isinstance(op, Attention):
        return op

    def norm(part: str, width: int) -> Norm:
        return layer.norm(f"{op.name}.{part}_norm", width)

    sizes = layer.sizes
    scores = op.query is not None
    return replace(
        op,
        query_norm=norm("q", sizes.q_width) if scores else None,
        key_norm=norm("k", sizes.kv_width) if scores else None,
        value_norm=norm("v", sizes.kv_width),
    )


def _then(first: Op | None, second: Op) -> Op:
    return second if first is None else Sequential((first, second))


PLACEMENTS: dict[str, Placement] = {
    placement.name: placement
    for placement in (
        Placement("post_ln", post_norm, False, "vaswani2017"),
        Placement("pre_ln", pre_norm, True, "xiong2020"),
        Placement("sandwich_ln", sandwich, True, "ding2021"),
        Placement("branch_norm", branch_norm, True, "olmo2024"),
        Placement("deepnorm", deepnorm, False, "wang2022deepnet", init="deepnorm"),
        Placement("sub_ln", pre_norm, True, "wang2022magneto", inside=inner_norms, init="sub_ln"),
        Placement("residual", residual_streams, True, "xie2023", two_streams=True),
        Placement("layernorm_scaling", layernorm_scaling, True, "sun2025", varies=True),
        Placement("rezero", gated, False, "bachlechner2020"),
        Placement("skipinit", gated, False, "de2020"),
        Placement("layer_scale", layer_scale_block, True, "touvron2021"),
        Placement("t_fixup", bare, False, "huang2020", init="t_fixup"),
        Placement("hybrid_norm", hybrid_norm, True, "zhuo2025", inside=qkv_norms),
        Placement("b2t", b2t, False, "takase2023"),
        Placement("mix_ln", mix_ln, True, "li2024", varies=True),
        Placement("normformer", pre_norm, True, "shleifer2021", inside=normformer_inside),
        Placement("keel", keel, False, "chen2026"),
    )
}
