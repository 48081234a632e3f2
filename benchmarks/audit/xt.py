"""Families of x-transformers: its encoder and decoder, one flag at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from benchmarks.audit.family import Family, Model, Sizes, ids, vectors

with warnings.catch_warnings():  # it compiles with torch.jit, which torch deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    x_transformers: Any = import_module("x_transformers")  # it has no types

FLAGS: dict[str, dict[str, Any]] = {
    "pre": {},
    "post": {"pre_norm": False},
    "no_final_norm": {"pre_norm_has_final_norm": False},
    "pre_and_post": {"pre_and_post_norm": True},
    "sandwich": {"sandwich_norm": True},
    "norm_gain": {"norm_add_unit_offset": False},
    "rmsnorm": {"use_rmsnorm": True},
    "simple_rmsnorm": {"use_simple_rmsnorm": True},
    "scalenorm": {"use_scalenorm": True},
    "dynamic_tanh": {"use_dynamic_tanh": True},
    "ff_glu": {"ff_glu": True},
    "ff_swiglu": {"ff_glu": True, "ff_swish": True},
    "ff_glu_mult_bias": {"ff_glu": True, "ff_glu_mult_bias": True},
    "ff_relu_squared": {"ff_relu_squared": True},
    "ff_no_bias": {"ff_no_bias": True},
    "ff_post_act_ln": {"ff_post_act_ln": True},
    "ff_mult": {"ff_mult": 2},
    "macaron": {"macaron": True},
    "only_attn": {"only_attn": True},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True},
    "rel_pos_bias": {"rel_pos_bias": True},
    "dynamic_pos_bias": {"dynamic_pos_bias": True},
    "kv_heads": {"attn_kv_heads": 2},
    "one_kv_head": {"attn_one_kv_head": True},
    "qk_norm": {"attn_qk_norm": True},
    "qk_norm_dim_scale": {"attn_qk_norm": True, "attn_qk_norm_dim_scale": True},
    "qk_rmsnorm": {"attn_qk_rmsnorm": True},
    "value_rmsnorm": {"attn_value_rmsnorm": True},
    "head_scale": {"attn_head_scale": True},
    "talking_heads": {"attn_pre_talking_heads": True},
    "gate_values": {"attn_gate_values": True},
    "on_attn": {"attn_on_attn": True},
    "mem_kv": {"attn_num_mem_kv": 2},
    "value_residual": {"add_value_residual": True},
    "residual_attn": {"residual_attn": True},
    "gate_residual": {"gate_residual": True},
    "scale_residual": {"scale_residual": True},
    "scale_residual_constant": {"scale_residual_constant": 1.5},
    "depth_scale_init": {"depth_scale_residual": True},
    "depth_scale": {"depth_scale_residual": 0.5},
    "layerscale": {"use_layerscale": True, "layerscale_init_value": 0.1},
    "zero_init_branch": {"zero_init_branch_output": True},
    "weight_tie_layers": {"weight_tie_layers": True},
    "shift_tokens": {"shift_tokens": 1},
    "unet_skips": {"unet_skips": True},
    "hyper_connections": {"num_residual_streams": 2},
    "softclamp_output": {"softclamp_output": True},
    "softclamp_logits": {"attn_softclamp_logits": True},
}
"""Every flag that the encoder has, with the options that turn it on."""

LLAMA_LIKE = {
    "use_rmsnorm": True,
    "ff_glu": True,
    "ff_swish": True,
    "ff_no_bias": True,
    "rotary_pos_emb": True,
}


def layers(kind: Any, sizes: Sizes, **options: Any) -> nn.Module:
    """Return an encoder or a decoder of x-transformers."""
    return kind(
        dim=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        attn_dim_head=sizes.width // sizes.heads,
        verbose=False,
        **options,
    )


def _wrapped(kind: Any, sizes: Sizes, options: dict[str, Any], wrapper: dict[str, Any]) -> nn.Module:
    return x_transformers.TransformerWrapper(
        num_tokens=sizes.vocab,
        max_seq_len=2 * sizes.tokens,
        attn_layers=layers(kind, sizes, **options),
        **wrapper,
    )


def _with_heads(name: str, kind: Any, sizes: Sizes, options: dict[str, Any]) -> Family:
    variants = {"linear": {"return_only_embed": True}, "tied": {"tie_embedding": True}, "untied": {}}
    return Family(
        name,
        "x-transformers",
        {
            variant: Model(partial(_wrapped, kind, sizes, options, wrapper), ids(sizes, "x"))
            for variant, wrapper in variants.items()
        },
    )


def _encoder_decoder(sizes: Sizes) -> nn.Module:
    stacks = {
        f"{stack}_{key}": value
        for stack in ("enc", "dec")
        for key, value in (
            ("num_tokens", sizes.vocab),
            ("max_seq_len", 2 * sizes.tokens),
            ("depth", sizes.depth),
            ("heads", sizes.heads),
            ("attn_dim_head", sizes.width // sizes.heads),
        )
    }
    return x_transformers.XTransformer(dim=sizes.width, **stacks)


def families(sizes: Sizes) -> list[Family]:
    """List the families of x-transformers at given sizes."""
    encoder, decoder = x_transformers.Encoder, x_transformers.Decoder

    def bare(name: str, kind: Any, batch: Callable[[], dict[str, Tensor]], **options: Any) -> Family:
        return Family(
            name, "x-transformers", {"linear": Model(partial(layers, kind, sizes, **options), batch)}
        )

    found = [bare(f"xt_{flag}", encoder, vectors(sizes, "x"), **options) for flag, options in FLAGS.items()]
    found += [
        bare("xt_decoder", decoder, vectors(sizes, "x")),
        bare("xt_decoder_rotary_xpos", decoder, vectors(sizes, "x"), rotary_xpos=True),
        bare("xt_decoder_alibi", decoder, vectors(sizes, "x"), alibi_pos_bias=True),
        bare("xt_decoder_rel_pos_bias", decoder, vectors(sizes, "x"), rel_pos_bias=True),
        bare("xt_decoder_post", decoder, vectors(sizes, "x"), pre_norm=False),
        bare("xt_cross_attend", decoder, vectors(sizes, "x", "context"), cross_attend=True),
        _with_heads("xt_wrapped_encoder", encoder, sizes, {}),
        _with_heads("xt_wrapped_decoder", decoder, sizes, {}),
        _with_heads("xt_wrapped_llama", decoder, sizes, LLAMA_LIKE),
        Family(
            "xt_encoder_decoder",
            "x-transformers",
            {"linear": Model(partial(_encoder_decoder, sizes), ids(sizes, "src", "tgt"))},
        ),
    ]
    return found
