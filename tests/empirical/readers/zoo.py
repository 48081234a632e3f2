"""What a reader must find in each family of foreign models, or that it must refuse it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from meanfield import ops

HEAD = 16  # size of a head in the small families: width 64, 4 heads


@dataclass(frozen=True)
class Expected:
    """Structure of a family's first layer.

    Args:
        block: The block in the notation of `pattern`.
        norm: Kind of the norms, with their eps.
        eps: Added under the root of the norms.
        activation: Of the feed-forward op; None where there is none.
        gated: Whether it has a gate.
        d_ff: Its inner size.
        kv_heads: Key and value heads, of 4.
        causal: Whether tokens see only earlier ones.
        rotary: Share of a head's coordinates that turn, or None.
            score_scale: Factor on the scores.
        qk_norm: Width of the norms on queries, or None.
        qkv_bias: Whether queries have a bias.
        softcap: Cap of the scores, or None.
        window: Number of tokens that are seen, or None.
        final_norm: Whether a norm follows the last layer.
        entry_norm: Whether a norm follows the embedding.
        embedding: Factor on the embedding, None without one.
        position: Whether positions are learned.
        segment: Whether there are segments.
        alibi: Whether distances are subtracted from the scores.
    """

    block: str = "+(N A) +(N F)"
    norm: str = "layernorm"
    eps: float = 1e-5
    activation: str | None = "gelu"
    gated: bool = False
    d_ff: int = 256
    kv_heads: int = 4
    causal: bool = False
    rotary: float | None = None
    score_scale: float = HEAD**-0.5
    qk_norm: int | None = None
    qkv_bias: bool = True
    softcap: float | None = None
    window: int | None = None
    final_norm: bool = True
    entry_norm: bool = False
    embedding: float | None = 1.0
    position: bool = False
    segment: bool = False
    alibi: bool = False


POST, PRE, SANDWICH = "+(A) N +(F) N", "+(N A) +(N F)", "+(N A N) +(N F N)"
TORCH = Expected(embedding=None, activation="relu")
TORCH_POST = replace(TORCH, block=POST, final_norm=False)
BERT = Expected(POST, eps=1e-12, final_norm=False, entry_norm=True, position=True, segment=True)
GPT2 = Expected(activation="gelu_tanh", causal=True, position=True)
LLAMA = Expected(
    norm="rmsnorm", eps=1e-6, activation="silu", gated=True, d_ff=160, kv_heads=2, causal=True, rotary=1.0,
    qkv_bias=False,
)  # fmt: skip
GEMMA = replace(LLAMA, activation="gelu_tanh", embedding=8.0)
NEOX = Expected("+([N A|N F])", causal=True, rotary=0.25)
VIT = Expected(eps=1e-12, embedding=None)
XT = Expected(embedding=None, qkv_bias=False)

READ: dict[str, Expected] = {
    "torch_encoder_post": TORCH_POST,
    "torch_encoder_pre": TORCH,
    "torch_encoder_gelu": replace(TORCH, activation="gelu", qkv_bias=False),
    "torch_encoder_causal": replace(TORCH, causal=True),
    "torch_attention_packed": replace(TORCH, activation="gelu"),
    "torch_attention_sequence_first": replace(TORCH_POST, qkv_bias=False),
    "bert": BERT,
    "roberta": BERT,
    "distilbert": replace(BERT, segment=False),
    "electra": BERT,
    "gpt2": GPT2,
    "gptj": replace(GPT2, block="+(N [A|F])", rotary=0.25, position=False, qkv_bias=False),
    "gpt_neox": NEOX,
    "gpt_neox_sequential": replace(NEOX, block=PRE),
    "opt": Expected(activation="relu", causal=True, position=True),
    "llama": LLAMA,
    "mistral": LLAMA,
    "mistral_window": replace(LLAMA, window=5),
    "qwen2": replace(LLAMA, qkv_bias=True),
    "qwen3": replace(LLAMA, qk_norm=HEAD),
    "phi": Expected("+(N [A|F])", activation="gelu_tanh", causal=True, rotary=0.5),
    "phi3": replace(LLAMA, eps=1e-5),
    "gemma": GEMMA,
    "gemma2": replace(GEMMA, block=SANDWICH, softcap=50.0, score_scale=1 / 16),
    "gemma3": replace(GEMMA, block=SANDWICH, qk_norm=HEAD, score_scale=1 / 16),
    "olmo2": replace(LLAMA, block="+(A N) +(F N)", eps=1e-5, qk_norm=64),
    "falcon_old": Expected("+(N [A|F])", causal=True, rotary=1.0, kv_heads=1, qkv_bias=False),
    "falcon_new": Expected("+([N A|N F])", causal=True, rotary=1.0, kv_heads=2, qkv_bias=False),
    "cohere": replace(LLAMA, block="+(N [A|F])", norm="layernorm", eps=1e-5),
    "stablelm": replace(LLAMA, norm="layernorm", eps=1e-5, rotary=0.25),
    "t5_encoder": Expected(norm="rmsnorm", eps=1e-6, activation="relu", score_scale=1.0, qkv_bias=False),
    "vit": VIT,
    "deit": VIT,
    "dinov2": replace(VIT, block="+(N A g) +(N F g)", eps=1e-6),
    "xt_pre": XT,
    "xt_post": replace(XT, block=POST, final_norm=False),
    "xt_no_final_norm": replace(XT, final_norm=False),
    "xt_pre_and_post": replace(XT, block="+(N A) N +(N F) N", final_norm=False),
    "xt_sandwich": replace(XT, block=SANDWICH),
    "xt_norm_gain": XT,
    "xt_rmsnorm": replace(XT, norm="rmsnorm", eps=0.0),
    "xt_simple_rmsnorm": replace(XT, norm="rmsnorm", eps=0.0),
    "xt_ff_glu": replace(XT, gated=True),
    "xt_ff_swiglu": replace(XT, gated=True, activation="silu"),
    "xt_ff_relu_squared": replace(XT, activation="relu_squared"),
    "xt_ff_no_bias": XT,
    "xt_ff_post_act_ln": XT,
    "xt_ff_mult": replace(XT, d_ff=128),
    "xt_rotary": replace(XT, rotary=0.5),
    "xt_alibi": replace(XT, alibi=True),
    "xt_decoder_alibi": replace(XT, causal=True, alibi=True),
    "bloom": Expected(activation="gelu_tanh", causal=True, alibi=True, entry_norm=True),
    "mpt": Expected(causal=True, alibi=True, qkv_bias=False),
    "xt_kv_heads": replace(XT, kv_heads=2),
    "xt_one_kv_head": replace(XT, kv_heads=1),
    "xt_depth_scale_init": XT,
    "xt_layerscale": replace(XT, block="+(N A g) +(N F g)"),
    "xt_decoder": replace(XT, causal=True),
    "xt_decoder_post": replace(XT, block=POST, final_norm=False, causal=True),
    "xt_wrapped_encoder": replace(XT, embedding=1.0, position=True),
    "xt_wrapped_decoder": replace(XT, embedding=1.0, position=True, causal=True),
    "xt_wrapped_llama": replace(
        XT, norm="rmsnorm", eps=0.0, gated=True, activation="silu", rotary=0.5, embedding=1.0, causal=True
    ),
}
"""Families that must be read, and what must be found."""

REFUSED = (
    *(
        "deberta",
        "deberta_v2",
        "funnel",
        "mamba",
        "mixtral",
        "swin",
        "xt_only_attn",
        "xt_dynamic_tanh",
        "xt_talking_heads",
    ),
    *("xt_gate_values", "xt_on_attn", "xt_mem_kv", "xt_value_residual", "xt_residual_attn", "xt_unet_skips"),
    *("xt_gate_residual", "xt_shift_tokens", "xt_hyper_connections", "xt_softclamp_output"),
    *("xt_encoder_decoder", "xt_dynamic_pos_bias", "xt_decoder_rotary_xpos"),
)
"""Families for which there is no op, or no loss. All others may be read or refused."""


def pattern(op: ops.Op) -> str:
    """Write a block in short.

    N norm, A attention, C cross-attention, F feed-forward, g gain, s factor, +(...) residual sum, [...|...]
    parallel branches in order of the alphabet. A gain of ones behind a norm that has none is the norm's.
    """
    match op:
        case ops.Sequential(ops=inner):
            before: tuple[ops.Op | None, ...] = (None, *inner)
            shown = [part for part, last in zip(inner, before, strict=False) if not _is_gain_of(last, part)]
            return " ".join(map(pattern, shown))
        case ops.Residual(branch=branch):
            return f"+({pattern(branch)})"
        case ops.Parallel(branches=branches):
            return f"[{'|'.join(sorted(map(pattern, branches)))}]"
        case ops.Attention(cross=cross):
            return "C" if cross else "A"
    names = {ops.Norm: "N", ops.FeedForward: "F", ops.Gain: "g", ops.Scale: "s"}
    return names.get(type(op), type(op).__name__)


def _is_gain_of(norm: ops.Op | None, op: ops.Op) -> bool:
    bare = isinstance(norm, ops.Norm) and not norm.affine
    return bare and isinstance(op, ops.Gain) and op.value == 1 and op.width > 1
