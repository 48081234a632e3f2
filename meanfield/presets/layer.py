"""The sub-layers of one layer: attention and feed-forward ops from sizes, laws and options."""

from __future__ import annotations

from dataclasses import dataclass, replace

from meanfield.initialization import Initialization, Sizes
from meanfield.ops import (
    Attention,
    Draw,
    Dropout,
    FeedForward,
    Linear,
    Norm,
    Number,
    Op,
    RelativeBias,
    Residual,
    Rotary,
)
from meanfield.presets.options import GATED, Options


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer before its placement: what `Placement.block` arranges.

    Args:
        index: Number of the layer, from 1.
        sizes: Sizes of the stack.
        options: The options of the preset.
        sublayers: Attention, cross-attention in a decoder, feed-forward op, in this order.
    """

    index: int
    sizes: Sizes
    options: Options
    sublayers: tuple[Op, ...] = ()

    def norm(self, name: str, width: int | None = None) -> Norm:
        """Make a norm of the chosen kind, over the token unless a width is given."""
        return Norm(name, width or self.sizes.width, self.options.norm, self.options.norm_eps)

    def residual(self, k: int, branch: Op, skip: Number = 1, scale: Number = 1) -> Residual:
        """Make the k-th residual sum; the options go before the placement's factors."""
        chosen = self.options
        return Residual(
            f"residual{k}",
            branch,
            skip if chosen.skip_scale is None else chosen.skip_scale,
            scale if chosen.branch_scale is None else chosen.branch_scale,
        )


def attention(layer: Layer, law: Initialization, cross: bool = False) -> Attention:
    """Make the attention op of a layer.

    Args:
        layer: The layer.
        law: Laws of the parameters.
        cross: Whether keys and values come from the encoder.

    Returns:
        The op, named ``"attention"`` or ``"cross_attention"``.
    """
    sizes, chosen = layer.sizes, layer.options
    name = "cross_attention" if cross else "attention"
    biased = chosen.bias if chosen.attention_bias is None else chosen.attention_bias
    b = law.attention_bias if biased else None
    behind = law.attention_bias if law.output_bias is None else law.output_bias
    to_kv = (sizes.width, sizes.kv_width)
    head_size = sizes.q_width // sizes.heads
    op = Attention(
        name,
        "uniform",
        sizes.heads,
        sizes.kv_width // head_size,
        Linear(*to_kv, law.v, b),
        output=Linear(sizes.q_width, sizes.width, law.o, behind if biased is True else None),
        causal=chosen.causal and not cross,
        cross=cross,
        window=None if cross else _window(layer),
        dropout=_rate(chosen.attention_dropout, chosen.dropout),
    )
    if chosen.attention == "uniform":
        return op
    normed = {"head": (head_size, head_size), "all": (sizes.q_width, sizes.kv_width)}.get(
        chosen.qk_norm or ""
    )
    return replace(
        op,
        kind=chosen.attention,
        query=Linear(sizes.width, sizes.q_width, law.q, b),
        key=Linear(*to_kv, law.k, b),
        score_scale=_score_scale(chosen.score_scale, head_size),
        query_norm=layer.norm(f"{name}.q_norm", normed[0]) if normed else None,
        key_norm=layer.norm(f"{name}.k_norm", normed[1]) if normed else None,
        rotary=None if cross or chosen.rotary is None else _rotary(chosen.rotary),
        relative_bias=None if cross else _relative_bias(layer),
        softcap=chosen.softcap,
    )


def feed_forward(layer: Layer, law: Initialization) -> FeedForward:
    """Make the feed-forward op of a layer.

    Args:
        layer: The layer.
        law: Laws of the parameters.

    Returns:
        The op, named ``"ffn"``.
    """
    sizes, chosen = layer.sizes, layer.options
    biased = chosen.bias if chosen.ffn_bias is None else chosen.ffn_bias

    def up(weight: Draw) -> Linear:
        return Linear(sizes.width, sizes.d_ff, weight, law.up_bias if biased else None)

    gate = (law.up if law.gate is None else law.gate) if chosen.activation in GATED else None
    return FeedForward(
        "ffn",
        up(law.up),
        GATED.get(chosen.activation, chosen.activation),
        Linear(sizes.d_ff, sizes.width, law.down, law.down_bias if biased else None),
        gate=None if gate is None else up(gate),
        inner=Dropout(chosen.activation_dropout) if chosen.activation_dropout else None,
    )


def _rate(own: Number | None, general: Number) -> Number:
    return general if own is None else own


def _window(layer: Layer) -> int | None:
    window = layer.options.window
    return window[(layer.index - 1) % len(window)] if isinstance(window, tuple) else window


def _score_scale(scale: Number | str | None, head_size: int) -> Number:
    if scale is None:
        return float(head_size) ** -0.5
    return 1 / head_size if isinstance(scale, str) else scale


def _rotary(rotary: Rotary | Number) -> Rotary:
    return rotary if isinstance(rotary, Rotary) else Rotary(rotary)


def _relative_bias(layer: Layer) -> RelativeBias | None:
    bias = layer.options.relative_bias
    return None if bias is None else replace(bias, shared=bias.shared and layer.index > 1)
