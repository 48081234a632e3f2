"""Llama, Mistral, Gemma 2, OLMo 2 and Qwen 3: decoders with RMSNorm, rotary positions and gated networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.huggingface.encoders import one_law
from meanfield.huggingface.reader import Reader
from meanfield.ops import Transformer
from meanfield.presets.builder import stack
from meanfield.presets.options import GATED, Options, QkNorm
from meanfield.presets.placements import PLACEMENTS

_NETWORK = {activation: name for name, activation in GATED.items()}


@dataclass(frozen=True, slots=True)
class Family:
    """In what these families differ where the file is silent or has no say.

    Args:
        placement: Where norms sit.
        head_dim: Coordinates of a head; None for width over heads.
        kv_heads: Key and value heads; None for as many as query heads.
        activation: Key and default of the gate's activation.
        eps: Of the norms.
        tied: Whether the head is the embedding.
        qk_norm: Norm on queries and keys.
        biases: Whether the file may ask for biases, and on what.
    """

    placement: str = "pre_ln"
    head_dim: int | None = None
    kv_heads: int | None = None
    activation: tuple[str, str] = ("hidden_act", "silu")
    eps: float = 1e-6
    tied: bool = False
    qk_norm: QkNorm | None = None
    biases: tuple[str, ...] = ("attention_bias",)


FAMILIES = {
    "llama": Family(biases=("attention_bias", "mlp_bias")),
    "mistral": Family(kv_heads=8, biases=()),
    "gemma2": Family(
        "sandwich_ln",
        head_dim=256,
        kv_heads=4,
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        tied=True,
    ),
    "olmo2": Family("branch_norm", eps=1e-5, qk_norm="all"),
    "qwen3": Family(head_dim=128, kv_heads=32, qk_norm="head"),
}


def gated_decoder(config: Reader, head: bool) -> Transformer:
    """Read one of these families."""
    name = config("model_type")
    family = FAMILIES[name]
    width, depth = config("hidden_size"), positive_integer("num_hidden_layers", config("num_hidden_layers"))
    activation = config.activation(*family.activation)
    if activation not in _NETWORK:
        raise UnknownNameError("activation of a gate", activation, _NETWORK)
    config.irrelevant("max_position_embeddings", "is_encoder_decoder", "is_decoder", "pretraining_tp")
    options = Options(
        heads=config("num_attention_heads"),
        kv_heads=config("num_key_value_heads", family.kv_heads),
        head_size=config("head_dim", family.head_dim),
        d_ff=config("intermediate_size"),
        activation=_NETWORK[activation],
        norm="rmsnorm",
        norm_eps=config("rms_norm_eps", family.eps),
        causal=True,
        window=_windows(config, name, depth),
        rotary=config.rotary(),
        qk_norm=family.qk_norm,
        init=one_law(config.normal("initializer_range")),
        bias=False,
        attention_bias="attention_bias" in family.biases and config("attention_bias", False),
        ffn_bias="mlp_bias" in family.biases and config("mlp_bias", False),
        attention_dropout=config.rate("attention_dropout", 0.0),
        vocab=config("vocab_size"),
        tied=config("tie_word_embeddings", family.tied),
    )
    if name == "gemma2":
        options = _gemma2(config, options, width)
    return stack(
        PLACEMENTS[family.placement], name=name, width=width, depth=depth, options=options, head=head
    )


def _gemma2(config: Reader, options: Options, width: int) -> Options:
    config.only(
        "hidden_act", config("hidden_activation", "gelu_pytorch_tanh"), because="hidden_activation rules"
    )
    config.only("use_bidirectional_attention", False)
    config.only("sliding_window_size", config("sliding_window", None), because="sliding_window rules")
    return replace(
        options,
        softcap=_cap(config, "attn_logit_softcapping", 50.0),
        logit_softcap=_cap(config, "final_logit_softcapping", 30.0),
        score_scale=float(positive_integer("query_pre_attn_scalar", config("query_pre_attn_scalar", 256)))
        ** -0.5,
        embedding_scale=float(positive_integer("hidden_size", width)) ** 0.5,
    )


def _cap(config: Reader, key: str, default: float) -> Any:
    """Read a cap: null means none, absent means the default."""
    return config(key, None if config.given(key) else default)


def _windows(config: Reader, name: str, depth: int) -> int | tuple[int | None, ...] | None:
    """Read which layers see a window only: all for Mistral, some for Gemma 2 and Qwen 3."""
    if name not in ("mistral", "gemma2", "qwen3"):
        return None
    window = config("sliding_window", None if config.given("sliding_window") else 4096)
    if name == "mistral":
        return window
    if name == "qwen3":
        full = config("max_window_layers", 28)
        if not config("use_sliding_window", False):
            window = None
        usual = [
            "sliding_attention" if window and layer >= full else "full_attention" for layer in range(depth)
        ]
    else:
        usual = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(depth)]
    kinds = config("layer_types", usual)
    if len(kinds) != depth:
        raise InputError(
            f"layer_types has {len(kinds)} entries and num_hidden_layers is {depth}: make them equal"
        )
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise UnknownNameError("entry of layer_types", kind, ("full_attention", "sliding_attention"))
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else None
