"""Families of Hugging Face transformers, built offline from configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.audit.family import Family, Model, Sizes, generator, ids

Options = Callable[[Sizes], dict[str, Any]]
Batch = Callable[[Sizes], Callable[[], dict[str, Tensor]]]
NO_SPECIAL_IDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


@dataclass(frozen=True)
class Spec:
    """How one family is built.

    Args:
        config: Name of the configuration class, without ``Config``.
        base: Name of the class whose output is hidden states, without the configuration's name.
        head: That of the class whose output is logits, or None; in full where it starts otherwise.
        options: What the configuration is given, in the family's own words.
        more: Options that are constants.
        batch: The input.
        ties: Which heads there are.
    """

    config: str
    base: str
    head: str | None
    options: Options
    more: Mapping[str, Any]
    batch: Batch
    ties: tuple[bool, ...] = (True, False)

    def make(self, kind: str, sizes: Sizes, **more: Any) -> nn.Module:
        """Build a module of a class from its configuration."""
        config = getattr(transformers, f"{self.config}Config")(**{**self.options(sizes), **self.more, **more})
        name = kind if hasattr(transformers, kind) else self.config + kind
        return getattr(transformers, name)(config)

    def family(self, name: str, sizes: Sizes) -> Family:
        """Return the family at given sizes."""
        batch = self.batch(sizes)
        variants = {"linear": Model(partial(self.make, self.base, sizes), batch)}
        if self.head is not None:
            for tied in self.ties:
                make = partial(self.make, self.head, sizes, tie_word_embeddings=tied)
                variants["tied" if tied else "untied"] = Model(make, batch)
        return Family(name, "transformers", variants)


def common(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words that most configurations use."""
    return {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.d_ff,
    }


def llama_like(sizes: Sizes) -> dict[str, Any]:
    """Return the same for gated decoders with fewer key heads, d_ff rounded as Llama's."""
    return common(sizes) | {
        "num_key_value_heads": sizes.heads // 2,
        "head_dim": sizes.width // sizes.heads,
        "intermediate_size": sizes.d_ff * 2 // 3 // 32 * 32,
    }


def n_embd(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words of GPT-2 and its kin."""
    return {
        "vocab_size": sizes.vocab,
        "n_embd": sizes.width,
        "n_layer": sizes.depth,
        "n_head": sizes.heads,
    }


def two_stacks(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words of BART and its kin."""
    per_stack = {
        f"{stack}_{key}": value
        for stack in ("encoder", "decoder")
        for key, value in (
            ("layers", sizes.depth),
            ("attention_heads", sizes.heads),
            ("ffn_dim", sizes.d_ff),
        )
    }
    return {"vocab_size": sizes.vocab, "d_model": sizes.width, **per_stack}


def t5_like(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words of T5."""
    return {
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        "d_kv": sizes.width // sizes.heads,
        "d_ff": sizes.d_ff,
        "num_layers": sizes.depth,
        "num_heads": sizes.heads,
    }


def vision(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes of a stack over patches of an image."""
    found = common(sizes) | {"image_size": sizes.image, "patch_size": 8}
    del found["vocab_size"]
    return found


def distilbert(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words of DistilBERT."""
    return {
        "vocab_size": sizes.vocab,
        "dim": sizes.width,
        "n_layers": sizes.depth,
        "n_heads": sizes.heads,
        "hidden_dim": sizes.d_ff,
    }


def opt(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words of OPT."""
    found = common(sizes) | {"ffn_dim": sizes.d_ff, "word_embed_proj_dim": sizes.width}
    del found["intermediate_size"]
    return found


def falcon(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes in the words of Falcon."""
    found = common(sizes) | {"ffn_hidden_size": sizes.d_ff, "num_kv_heads": sizes.heads // 2}
    del found["intermediate_size"]
    return found


def text(sizes: Sizes) -> Callable[[], dict[str, Tensor]]:
    """Return the batch of a model that reads one text."""
    return ids(sizes, "input_ids")


def texts(sizes: Sizes) -> Callable[[], dict[str, Tensor]]:
    """Return the batch of a model that reads a source and a target."""
    return ids(sizes, "input_ids", "decoder_input_ids")


def _pixels(sizes: Sizes) -> dict[str, Tensor]:
    shape = (sizes.batch, 3, sizes.image, sizes.image)
    return {"pixel_values": torch.randn(shape, generator=generator())}


def images(sizes: Sizes) -> Callable[[], dict[str, Tensor]]:
    """Return the batch of a model that reads images: pixels N(0, 1)."""
    return partial(_pixels, sizes)


def encoder(config: str, options: Options = common, head: str | None = "ForMaskedLM", **more: Any) -> Spec:
    """Return the recipe of an encoder of text."""
    return Spec(config, "Model", head, options, more, text)


def causal(config: str, options: Options = llama_like, head: str = "ForCausalLM", **more: Any) -> Spec:
    """Return the recipe of a decoder of text without pad, begin and end."""
    return Spec(config, "Model", head, options, {**NO_SPECIAL_IDS, **more}, text)


def conditional(
    config: str, options: Options = two_stacks, head: str = "ForConditionalGeneration", **more: Any
) -> Spec:
    """Return the recipe of an encoder-decoder of text."""
    return Spec(config, "Model", head, options, more, texts)


def picture(config: str, options: Options = vision, **more: Any) -> Spec:
    """Return the recipe of an encoder of images."""
    return Spec(config, "Model", None, options, more, images)


SPECS: dict[str, Spec] = {
    "bert": encoder("Bert"),
    "roberta": encoder("Roberta"),
    "distilbert": encoder("DistilBert", distilbert),
    "electra": encoder("Electra", lambda s: common(s) | {"embedding_size": s.width}),
    "electra_projected": encoder("Electra", lambda s: common(s) | {"embedding_size": s.width // 2}),
    "deberta": encoder("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta_v2": encoder("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "gpt2": causal("GPT2", n_embd, "LMHeadModel"),
    "gptj": causal("GPTJ", lambda s: n_embd(s) | {"rotary_dim": s.width // s.heads // 4}),
    "gpt_neox": causal("GPTNeoX", common),
    "gpt_neox_sequential": causal("GPTNeoX", common, use_parallel_residual=False),
    "opt": causal("OPT", opt, pad_token_id=1),
    "opt_350m": causal(
        "OPT",
        lambda s: opt(s) | {"word_embed_proj_dim": s.width // 2},
        do_layer_norm_before=False,
        pad_token_id=1,
    ),
    "llama": causal("Llama"),
    "llama3_rope": causal(
        "Llama",
        max_position_embeddings=512,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": causal("Mistral"),
    "mistral_window": causal("Mistral", sliding_window=5),
    "qwen2": causal("Qwen2"),
    "qwen3": causal("Qwen3"),
    "phi": causal("Phi", common),
    "phi3": causal("Phi3"),
    "gemma": causal("Gemma"),
    "gemma2": causal("Gemma2"),
    "gemma3": Spec("Gemma3Text", "Gemma3TextModel", "Gemma3ForCausalLM", llama_like, NO_SPECIAL_IDS, text),
    "olmo2": causal("Olmo2"),
    "falcon_old": causal("Falcon", falcon),
    "falcon_new": causal("Falcon", falcon, new_decoder_architecture=True),
    "cohere": causal("Cohere"),
    "stablelm": causal("StableLm"),
    "t5": conditional("T5", t5_like),
    "t5_gated": conditional("T5", t5_like, feed_forward_proj="gated-gelu"),
    "t5_encoder": Spec("T5", "T5EncoderModel", None, t5_like, {}, text),
    "bart": conditional("Bart"),
    "vit": picture("ViT"),
    "deit": picture("DeiT"),
    "dinov2": picture("Dinov2"),
}


def families(sizes: Sizes) -> list[Family]:
    """List the families that the reader was written for, at given sizes."""
    return [spec.family(name, sizes) for name, spec in SPECS.items()]
