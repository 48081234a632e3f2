"""Architectures that Hugging Face has too, with the names of their parameters there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from empirical.build import Architecture
from meanfield import ops
from meanfield.ops import Attention, Draw, FeedForward, Norm, RelativeBias, Residual, Rotary, Sequential

hf = pytest.importorskip("transformers")

D, HEADS, HEAD, FF, VOCAB, DEPTH = 24, 4, 6, 20, 17, 2
BATCH, TOKENS = 3, 9
RMS = 1e-6  # eps
LAW = Draw(0.1)
Views = dict[tuple[int, str, str], Tensor]
Get = Callable[[str], Tensor]


@dataclass(frozen=True)
class Case:
    """An architecture, the module that it describes, and which parameter of which is which.

    ``views`` gives every parameter of ours as a view of the other's tensors, which it asks for by name.
    """

    arch: Architecture
    module: Callable[[], nn.Module]
    views: Callable[[Get], Views]
    wrong: Architecture
    lengths: tuple[int, ...] = (TOKENS, 5, 7)  # of the sequences, the rest is padding
    offset: float = 0.0  # of gains, where a norm multiplies by 1 + weight

    @property
    def real(self) -> Tensor:
        return torch.arange(TOKENS) < torch.tensor(self.lengths)[:, None]  # (batch, tokens)


def linear(d_in: int, d_out: int, bias: bool = False) -> ops.Linear:
    return ops.Linear(d_in, d_out, LAW, LAW if bias else None)


def attention(
    name: str = "attention", *, kv_heads: int = HEADS, bias: bool = False, **options: Any
) -> Attention:
    kv = linear(D, kv_heads * HEAD, bias)
    q, o = linear(D, HEADS * HEAD, bias), linear(HEADS * HEAD, D, bias)
    options = {"score_scale": HEAD**-0.5, **options}
    return Attention(name, "softmax", HEADS, kv_heads, kv, q, kv, o, **options)


def ffn(activation: str, *, gated: bool = False, bias: bool = False) -> FeedForward:
    up = linear(D, FF, bias)
    return FeedForward("ffn", up, activation, linear(FF, D, bias), up if gated else None)


def pre_ln(*sublayers: ops.Op, kind: Any = "rmsnorm", eps: float = RMS) -> Sequential:
    return Sequential(
        tuple(
            Residual(f"residual{k}", Sequential((Norm(f"norm{k}", D, kind, eps), sublayer)))
            for k, sublayer in enumerate(sublayers, start=1)
        )
    )


def decoder(block: Sequential, *, tied: bool = False, **options: Any) -> ops.Transformer:
    final_norm = options.pop("final_norm", Norm("final_norm", D, "rmsnorm", RMS))
    head = ops.Head("head", linear(D, VOCAB), tied, options.pop("scale", 1), options.pop("softcap", None))
    scale = options.pop("embedding_scale", 1)
    runs = options.pop("layers", (ops.Repeat(block, DEPTH),))
    table = ops.Embedding("embedding", VOCAB, D, LAW, scale)
    return ops.Transformer("x", "x", "x", runs, final_norm, table, head, **options)


def weights(get: Get, layer: int, names: dict[str, str], kinds: tuple[str, ...] = ("weight",)) -> Views:
    """Views of modules by name; matrices are stored (out, in) there."""
    return {
        (layer, ours, kind): get(f"{theirs}.{kind}").T if get(f"{theirs}.{kind}").dim() == 2
        else get(f"{theirs}.{kind}")
        for ours, theirs in names.items() for kind in kinds
    }  # fmt: skip


LLAMA = {
    **{f"attention.{part}": f"self_attn.{part}_proj" for part in "qkvo"},
    **{f"ffn.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def llama_views(norms: dict[str, str], tied: bool = False) -> Callable[[Get], Views]:
    def views(get: Get) -> Views:
        found: Views = {(0, "embedding", "weight"): get("model.embed_tokens.weight")}
        for layer in range(DEPTH):
            names = {ours: f"model.layers.{layer}.{theirs}" for ours, theirs in {**LLAMA, **norms}.items()}
            found |= weights(get, layer + 1, names)
        found |= weights(get, DEPTH + 1, {"final_norm": "model.norm"})
        return found if tied else found | weights(get, DEPTH + 1, {"head": "lm_head"})

    return views


def llama_options(**options: Any) -> dict[str, Any]:
    return {
        "hidden_size": D, "intermediate_size": FF, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "num_key_value_heads": 2, "head_dim": HEAD, "vocab_size": VOCAB, "rms_norm_eps": RMS,
        "attn_implementation": "eager", "pad_token_id": 0, **options,
    }  # fmt: skip


NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
HALF = {"rope_type": "default", "rope_theta": 100.0}


def llama() -> Case:
    def arch(rotary: Rotary) -> ops.Transformer:
        return decoder(pre_ln(attention(kv_heads=2, causal=True, rotary=rotary), ffn("silu", gated=True)))

    config = hf.LlamaConfig(**llama_options(rope_parameters=HALF))
    module = lambda: hf.LlamaForCausalLM(config)  # noqa: E731  (a definition of one use)
    return Case(arch(Rotary(base=100)), module, llama_views(NORMS), arch(Rotary(base=120)))


def qwen3() -> Case:
    def arch(width: int) -> ops.Transformer:
        norms: dict[str, Any] = {
            f"{part}_norm": Norm(f"attention.{part[0]}_norm", width, "rmsnorm", RMS)
            for part in ("query", "key")
        }
        return decoder(
            pre_ln(
                attention(kv_heads=2, causal=True, rotary=Rotary(base=100), **norms), ffn("silu", gated=True)
            )
        )

    config = hf.Qwen3Config(**llama_options(rope_parameters=HALF))
    views = llama_views(NORMS | {f"attention.{part}_norm": f"self_attn.{part}_norm" for part in "qk"})
    right = arch(HEAD)
    no_rotary = decoder(pre_ln(replace(right.attention, rotary=None), right.feed_forward))
    return Case(right, lambda: hf.Qwen3ForCausalLM(config), views, no_rotary)


def olmo2() -> Case:
    norms: dict[str, Any] = {
        "query_norm": Norm("attention.q_norm", HEADS * HEAD, "rmsnorm", RMS),
        "key_norm": Norm("attention.k_norm", 2 * HEAD, "rmsnorm", RMS),
    }

    def arch(base: float) -> ops.Transformer:
        attend = attention(kv_heads=2, causal=True, rotary=Rotary(base=base), **norms)
        after = tuple(
            Residual(f"residual{k}", Sequential((sublayer, Norm(f"norm{k}", D, "rmsnorm", RMS))))
            for k, sublayer in enumerate((attend, ffn("silu", gated=True)), start=1)
        )
        return decoder(Sequential(after))

    config = hf.Olmo2Config(**llama_options(rope_parameters=HALF))
    names = {"norm1": "post_attention_layernorm", "norm2": "post_feedforward_layernorm"}
    views = llama_views(names | {f"attention.{part}_norm": f"self_attn.{part}_norm" for part in "qk"})
    return Case(arch(100), lambda: hf.Olmo2ForCausalLM(config), views, arch(120))


def gemma2() -> Case:
    def arch(cap: float) -> ops.Transformer:
        def block(window: int | None) -> Sequential:
            options: dict[str, Any] = {
                "score_scale": 5**-0.5,
                "softcap": cap,
                "window": window,
                "rotary": Rotary(base=100),
            }
            attend = attention(kv_heads=2, causal=True, **options)
            return Sequential(
                tuple(
                    Residual(
                        f"residual{k}",
                        Sequential((
                            Norm(f"norm{k}", D, "rmsnorm", RMS),
                            sublayer,
                            Norm(f"post_norm{k}", D, "rmsnorm", RMS),
                        )),
                    )
                    for k, sublayer in enumerate((attend, ffn("gelu_tanh", gated=True)), start=1)
                )
            )

        runs = (ops.Repeat(block(4), 1), ops.Repeat(block(None), 1))
        return decoder(block(None), layers=runs, tied=True, softcap=2, embedding_scale=D**0.5)

    config = hf.Gemma2Config(
        **llama_options(
            rope_parameters=HALF, query_pre_attn_scalar=5, attn_logit_softcapping=3.0, sliding_window=4,
            final_logit_softcapping=2.0, hidden_activation="gelu_pytorch_tanh",
        )
    )  # fmt: skip
    norms = {
        "norm1": "input_layernorm", "post_norm1": "post_attention_layernorm",
        "norm2": "pre_feedforward_layernorm", "post_norm2": "post_feedforward_layernorm",
    }  # fmt: skip
    views = llama_views(norms, tied=True)
    # Padded tokens beyond the window see nothing, which its softmax in float32 makes a NaN for everyone.
    lengths = (TOKENS,) * BATCH
    return Case(arch(3), lambda: hf.Gemma2ForCausalLM(config), views, arch(3.3), lengths, offset=1.0)


BOTH = ("weight", "bias")


def gpt_neox() -> Case:
    def arch(fraction: float) -> ops.Transformer:
        attend = attention(bias=True, causal=True, rotary=Rotary(fraction, 100))
        branches = (
            Sequential((Norm(f"norm{k}", D, eps=1e-5), sublayer))
            for k, sublayer in enumerate((attend, ffn("gelu", bias=True)), start=1)
        )
        block = Sequential((Residual("residual1", ops.Parallel(tuple(branches))),))
        return decoder(block, final_norm=Norm("final_norm", D, eps=1e-5))

    config = hf.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        intermediate_size=FF, layer_norm_eps=1e-5, use_parallel_residual=True, attn_implementation="eager",
        rope_parameters={**HALF, "partial_rotary_factor": 2 / 3}, pad_token_id=0,
    )  # fmt: skip

    def views(get: Get) -> Views:
        found: Views = {(0, "embedding", "weight"): get("gpt_neox.embed_in.weight")}
        for layer in range(DEPTH):
            names = {
                "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
                "attention.o": "attention.dense",
                "ffn.up": "mlp.dense_h_to_4h", "ffn.down": "mlp.dense_4h_to_h",
            }  # fmt: skip
            own = {ours: f"gpt_neox.layers.{layer}.{theirs}" for ours, theirs in names.items()}
            found |= weights(get, layer + 1, own, BOTH)
            packed = f"gpt_neox.layers.{layer}.attention.query_key_value"
            for i, part in enumerate("qkv"):
                weight = get(f"{packed}.weight").view(HEADS, 3, HEAD, D)[:, i]  # (heads, head size, width)
                bias = get(f"{packed}.bias").view(HEADS, 3, HEAD)[:, i]
                found[layer + 1, f"attention.{part}", "weight"] = weight.permute(2, 0, 1)
                found[layer + 1, f"attention.{part}", "bias"] = bias
        found |= weights(get, DEPTH + 1, {"final_norm": "gpt_neox.final_layer_norm"}, BOTH)
        return found | weights(get, DEPTH + 1, {"head": "lm_head"})

    return Case(arch(2 / 3), lambda: hf.GPTNeoXForCausalLM(config), views, arch(1))


def gpt2() -> Case:
    def arch(activation: str) -> ops.Transformer:
        block = pre_ln(
            attention(bias=True, causal=True), ffn(activation, bias=True), kind="layernorm", eps=1e-5
        )
        position = ops.Embedding("position", 12, D, LAW)
        return decoder(block, tied=True, position=position, final_norm=Norm("final_norm", D, eps=1e-5))

    config = hf.GPT2Config(
        vocab_size=VOCAB, n_positions=12, n_embd=D, n_layer=DEPTH, n_head=HEADS, n_inner=FF, resid_pdrop=0,
        embd_pdrop=0, attn_pdrop=0, attn_implementation="eager", pad_token_id=0,
    )  # fmt: skip

    def views(get: Get) -> Views:
        found: Views = {
            (0, "embedding", "weight"): get("transformer.wte.weight"),
            (0, "position", "weight"): get("transformer.wpe.weight"),
        }
        for layer in range(DEPTH):
            at = f"transformer.h.{layer}"
            for kind in BOTH:  # stored (in, out) here
                for i, part in enumerate("qkv"):
                    packed = get(f"{at}.attn.c_attn.{kind}")
                    found[layer + 1, f"attention.{part}", kind] = packed[..., i * D : (i + 1) * D]
                found[layer + 1, "attention.o", kind] = get(f"{at}.attn.c_proj.{kind}")
                found[layer + 1, "ffn.up", kind] = get(f"{at}.mlp.c_fc.{kind}")
                found[layer + 1, "ffn.down", kind] = get(f"{at}.mlp.c_proj.{kind}")
            found |= weights(get, layer + 1, {"norm1": f"{at}.ln_1", "norm2": f"{at}.ln_2"}, BOTH)
        return found | weights(get, DEPTH + 1, {"final_norm": "transformer.ln_f"}, BOTH)

    return Case(arch("gelu_tanh"), lambda: hf.GPT2LMHeadModel(config), views, arch("gelu"))


def bert() -> Case:
    def arch(segments: bool) -> ops.Transformer:
        sublayers = attention(bias=True), ffn("gelu", bias=True)
        parts: list[ops.Op] = []
        for k, sublayer in enumerate(sublayers, start=1):
            parts += [Residual(f"residual{k}", sublayer), Norm(f"norm{k}", D, eps=1e-12)]
        return ops.Transformer(
            "bert", "post_ln", "x", (ops.Repeat(Sequential(tuple(parts)), DEPTH),),
            embedding=ops.Embedding("embedding", VOCAB, D, LAW),
            position=ops.Embedding("position", 12, D, LAW),
            segment=ops.Embedding("segment", 2, D, LAW) if segments else None,
            entry=Norm("embedding_norm", D, eps=1e-12),
        )  # fmt: skip

    config = hf.BertConfig(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        intermediate_size=FF, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        max_position_embeddings=12, attn_implementation="eager",
    )  # fmt: skip

    def views(get: Get) -> Views:
        tables = {"embedding": "word", "position": "position", "segment": "token_type"}
        found: Views = {
            (0, ours, "weight"): get(f"embeddings.{theirs}_embeddings.weight")
            for ours, theirs in tables.items()
        }
        found |= weights(get, 0, {"embedding_norm": "embeddings.LayerNorm"}, BOTH)
        parts = {"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"}
        names = {
            **{f"attention.{ours}": f"attention.{theirs}" for ours, theirs in parts.items()},
            "norm1": "attention.output.LayerNorm", "ffn.up": "intermediate.dense", "ffn.down": "output.dense",
            "norm2": "output.LayerNorm",
        }  # fmt: skip
        for layer in range(DEPTH):
            own = {ours: f"encoder.layer.{layer}.{theirs}" for ours, theirs in names.items()}
            found |= weights(get, layer + 1, own, BOTH)
        return found

    return Case(arch(True), lambda: hf.BertModel(config, add_pooling_layer=False), views, arch(False))


def t5_stack(decodes: bool, far: int, shared: bool = True) -> ops.Transformer:
    def block(first: bool) -> Sequential:
        bias = RelativeBias(
            "attention.relative_bias", LAW, 8, far, bidirectional=not decodes, shared=shared and not first
        )
        sublayers: list[ops.Op] = [attention(score_scale=1, causal=decodes, relative_bias=bias)]
        sublayers += [attention("cross_attention", score_scale=1, cross=True)] if decodes else []
        return pre_ln(*sublayers, ffn("gelu_tanh", gated=True))

    runs = (ops.Repeat(block(True), 1), ops.Repeat(block(False), DEPTH - 1))
    stack = decoder(block(True), layers=runs, tied=True, scale=D**-0.5)
    return stack if decodes else replace(stack, head=None)


def t5_views(prefix: str, decodes: bool) -> Callable[[Get], Views]:
    stack = prefix.rstrip(".") or "encoder"

    def views(get: Get) -> Views:
        def named(names: dict[str, str], layer: int) -> Views:
            return weights(get, layer, {prefix + ours: f"{stack}.{theirs}" for ours, theirs in names.items()})

        found: Views = {
            (0, f"{prefix}embedding", "weight"): get(
                f"{stack}.embed_tokens.weight" if prefix else "shared.weight"
            ),
            (1, f"{prefix}attention.relative_bias", "weight"): get(
                f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            ),
        }
        kinds = ["attention", "cross_attention"] if decodes else ["attention"]
        for layer in range(DEPTH):
            names: dict[str, str] = {}
            for k, kind in enumerate(kinds):
                theirs = "SelfAttention" if kind == "attention" else "EncDecAttention"
                names |= {f"{kind}.{part}": f"block.{layer}.layer.{k}.{theirs}.{part}" for part in "qkvo"}
                names[f"norm{k + 1}"] = f"block.{layer}.layer.{k}.layer_norm"
            last = f"block.{layer}.layer.{len(kinds)}"
            names[f"norm{len(kinds) + 1}"] = f"{last}.layer_norm"
            parts = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
            names |= {f"ffn.{ours}": f"{last}.DenseReluDense.{theirs}" for ours, theirs in parts.items()}
            found |= named(names, layer + 1)
        return found | named({"final_norm": "final_layer_norm"}, DEPTH + 1)

    return views


T5 = {
    "vocab_size": VOCAB, "d_model": D, "d_kv": HEAD, "d_ff": FF, "num_layers": DEPTH, "num_heads": HEADS,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": RMS, "attn_implementation": "eager",
    "decoder_start_token_id": 0,
}  # fmt: skip


def t5_encoder() -> Case:
    right, wrong = t5_stack(False, far=6), t5_stack(False, far=9)
    return Case(right, lambda: hf.T5EncoderModel(hf.T5Config(**T5)), t5_views("", False), wrong)


def t5_model() -> Case:
    def module() -> nn.Module:
        model = hf.T5ForConditionalGeneration(hf.T5Config(**T5))
        for stack in (model.encoder, model.decoder):  # ours embed their own tokens
            stack.set_input_embeddings(nn.Embedding(VOCAB, D))
        model.lm_head.weight = model.decoder.embed_tokens.weight
        return model

    def views(get: Get) -> Views:
        return t5_views("encoder.", False)(get) | t5_views("decoder.", True)(get)

    encoder = t5_stack(False, far=6)
    right = ops.EncoderDecoder("t5", encoder, t5_stack(True, far=6))
    return Case(right, module, views, replace(right, decoder=t5_stack(True, far=9)))


CASES = {
    "llama": llama, "qwen3": qwen3, "olmo2": olmo2, "gemma2": gemma2, "gpt_neox": gpt_neox, "gpt2": gpt2,
    "bert": bert, "t5_encoder": t5_encoder, "t5": t5_model,
}  # fmt: skip
