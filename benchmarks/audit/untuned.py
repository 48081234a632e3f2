"""Families of Hugging Face that nobody looked at when the reader was written: right, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.audit.family import Family, Sizes, generator
from benchmarks.audit.huggingface import (
    NO_SPECIAL_IDS,
    Spec,
    causal,
    common,
    conditional,
    encoder,
    images,
    llama_like,
    n_embd,
    picture,
    text,
    two_stacks,
    vision,
)


def _mixture(sizes: Sizes) -> dict[str, Any]:
    return llama_like(sizes) | {"num_local_experts": 4, "num_experts_per_tok": 2}


def _bloom(sizes: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "n_layer": sizes.depth,
        "n_head": sizes.heads,
    }


def _mpt(sizes: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        "n_layers": sizes.depth,
        "n_heads": sizes.heads,
    }


def _xglm(sizes: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        "num_layers": sizes.depth,
        "attention_heads": sizes.heads,
        "ffn_dim": sizes.d_ff,
    }


def _funnel(sizes: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        "n_head": sizes.heads,
        "d_head": sizes.width // sizes.heads,
        "d_inner": sizes.d_ff,
        "block_sizes": [sizes.depth // 2] * 2,
    }


def _swin(sizes: Sizes) -> dict[str, Any]:
    return {
        "image_size": sizes.image,
        "patch_size": 4,
        "embed_dim": sizes.width // 4,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    }


def _gpt_neo(sizes: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_layers": sizes.depth,
        "num_heads": sizes.heads,
        "attention_types": [[["global", "local"], sizes.depth // 2]],
    }


def _sound(sizes: Sizes) -> Callable[[], dict[str, Tensor]]:
    samples = 400 * (sizes.tokens + 1)
    return lambda: {"input_values": torch.randn(sizes.batch, samples, generator=generator())}


def _spectrum(sizes: Sizes) -> Callable[[], dict[str, Tensor]]:
    def batch() -> dict[str, Tensor]:
        stream = generator()
        shape = (sizes.batch, sizes.tokens)
        return {
            "input_features": torch.randn(sizes.batch, 80, 2 * sizes.tokens, generator=stream),
            "decoder_input_ids": torch.randint(4, sizes.vocab, shape, generator=stream),
        }

    return batch


def _whisper(sizes: Sizes) -> dict[str, Any]:
    return two_stacks(sizes) | {"max_source_positions": sizes.tokens}


FIRST_IDS: dict[str, Any] = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}

SPECS: dict[str, Spec] = {
    "albert": encoder("Albert", lambda s: common(s) | {"embedding_size": s.width // 2}),
    "camembert": encoder("Camembert"),
    "mpnet": encoder("MPNet"),
    "funnel": encoder("Funnel", _funnel),
    "modernbert": encoder("ModernBert", pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "clip_text": encoder("CLIPText", head=None),
    "mpt": causal("Mpt", _mpt),
    "bloom": causal("Bloom", _bloom),
    "gpt_neo": causal("GPTNeo", _gpt_neo),
    "gpt_bigcode": causal("GPTBigCode", n_embd),
    "openai_gpt": causal("OpenAIGPT", n_embd, "LMHeadModel"),
    "ctrl": causal("CTRL", lambda s: n_embd(s) | {"dff": s.d_ff}, "LMHeadModel"),
    "biogpt": causal("BioGpt", common, pad_token_id=1),
    "xglm": causal("XGLM", _xglm, pad_token_id=1),
    "persimmon": causal("Persimmon", common),
    "starcoder2": causal("Starcoder2"),
    "granite": causal("Granite"),
    "nemotron": causal("Nemotron"),
    "glm": causal("Glm"),
    "glm4": causal("Glm4"),
    "olmo": causal("Olmo"),
    "olmo3": causal("Olmo3"),
    "smollm3": causal("SmolLM3"),
    "helium": causal("Helium"),
    "ministral": causal("Ministral"),
    "codegen": causal("CodeGen", lambda s: n_embd(s) | {"rotary_dim": s.width // s.heads // 4}),
    "mixtral": causal("Mixtral", _mixture),
    "mamba": Spec(
        "Mamba",
        "Model",
        "ForCausalLM",
        lambda s: {"vocab_size": s.vocab, "hidden_size": s.width, "num_hidden_layers": s.depth},
        NO_SPECIAL_IDS,
        text,
    ),
    "marian": Spec("Marian", "Model", "MarianMTModel", two_stacks, FIRST_IDS, conditional("Bart").batch),
    "mbart": conditional("MBart"),
    "pegasus": conditional("Pegasus"),
    "m2m100": conditional("M2M100"),
    "whisper": Spec("Whisper", "Model", "ForConditionalGeneration", _whisper, FIRST_IDS, _spectrum, (True,)),
    "wav2vec2": Spec(
        "Wav2Vec2", "Model", None, common, {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}, _sound
    ),
    "siglip_vision": picture("SiglipVision"),
    "clip_vision": picture("CLIPVision"),
    "beit": picture("Beit", vision),
    "swin": Spec("Swin", "Model", None, _swin, {}, images),
}


def families(sizes: Sizes) -> list[Family]:
    """List them at given sizes."""
    return [spec.family(name, sizes) for name, spec in SPECS.items()]
