"""Configurations of Hugging Face models against the models that `transformers` makes of them.

Every tensor of the random model has to have its counterpart: as many entries, and a sample variance that a
chi-square test does not tell from the declared one.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from meanfield import EncoderDecoder, InputError, Transformer, UnknownNameError
from meanfield.huggingface import FAMILIES, architecture
from meanfield.ops import (
    ONES,
    ZEROS,
    Attention,
    Draw,
    Dropout,
    Embedding,
    FeedForward,
    Linear,
    Norm,
    Op,
    walk,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Kind: TypeAlias = tuple[str, str]  # module (with its stack) and parameter
Sample: TypeAlias = npt.NDArray[np.float64]

LEVEL = 1e-6  # of one chi-square test; there are some 200 tests in this file

COMMON = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
GATED = {**COMMON, "vocab_size": 300, "num_key_value_heads": 2}
LLAMA_NAMES = {
    r"embed_tokens": "embedding",
    r"([qkvo])_proj": r"attention.\1",
    r"([qk])_norm": r"attention.\1_norm",
    r"(gate|up|down)_proj": r"ffn.\1",
    r"input_layernorm": "norm1",
    r"post_attention_layernorm": "norm2",
    r"(^|model\.)norm\.": "final_norm",
    r"lm_head": "head",
}


@dataclass(frozen=True)
class Family:
    """A model class, a small configuration, and what its modules are called here."""

    config: str
    model: str
    sizes: Mapping[str, Any]
    names: Mapping[str, str]
    head: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


BERT_NAMES = {
    r"word_embeddings": "embedding",
    r"position_embeddings": "position",
    r"token_type_embeddings": "segment",
    r"embeddings\.LayerNorm": "embedding_norm",
    r"self\.query": "attention.q",
    r"self\.key": "attention.k",
    r"self\.value": "attention.v",
    r"attention\.output\.dense": "attention.o",
    r"attention\.output\.LayerNorm": "norm1",
    r"intermediate\.dense": "ffn.up",
    r"\d\.output\.dense": "ffn.down",
    r"\d\.output\.LayerNorm": "norm2",
}
T5_NAMES = {
    r"shared": "encoder.embedding",
    r"(encoder|decoder).*SelfAttention\.([qkvo])": r"\1.attention.\2",
    r"(encoder|decoder).*SelfAttention\.relative_attention_bias": r"\1.attention.relative_bias",
    r"(encoder|decoder).*EncDecAttention\.([qkvo])": r"\1.cross_attention.\2",
    r"(encoder|decoder).*wi_0": r"\1.ffn.gate",
    r"(encoder|decoder).*wi(_1)?": r"\1.ffn.up",
    r"(encoder|decoder).*wo": r"\1.ffn.down",
    r"(encoder|decoder).*layer\.0\.layer_norm": r"\1.norm1",
    r"(encoder|decoder).*layer\.1\.layer_norm": r"\1.norm2",
    r"(decoder).*layer\.2\.layer_norm": r"\1.norm3",
    r"(encoder|decoder)\.final_layer_norm": r"\1.final_norm",
}
T5_SIZES = {"d_model": 64, "d_kv": 24, "d_ff": 96, "num_layers": 3, "num_heads": 4, "vocab_size": 300}
NEOX_NAMES = {
    r"embed_in": "embedding",
    r"query_key_value": "attention.qkv",
    r"attention\.dense": "attention.o",
    r"dense_h_to_4h": "ffn.up",
    r"dense_4h_to_h": "ffn.down",
    r"input_layernorm": "norm1",
    r"post_attention_layernorm": "norm2",
    r"final_layer_norm": "final_norm",
    r"lm_head|embed_out": "head",
}
OPT_NAMES = {
    r"embed_tokens": "embedding",
    r"embed_positions": "position",
    r"decoder\.final_layer_norm": "final_norm",
    r"([qkv])_proj": r"attention.\1",
    r"out_proj": "attention.o",
    r"self_attn_layer_norm": "norm1",
    r"fc1": "ffn.up",
    r"fc2": "ffn.down",
    r"\d\.final_layer_norm": "norm2",
}
CASES = {
    "bert": Family(
        "BertConfig",
        "BertModel",
        {**COMMON, "vocab_size": 300, "max_position_embeddings": 40},
        BERT_NAMES,
        arguments={"add_pooling_layer": False},
    ),
    "roberta": Family(
        "RobertaConfig",
        "RobertaModel",
        {**COMMON, "vocab_size": 300, "max_position_embeddings": 40, "initializer_range": 0.05},
        BERT_NAMES,
        arguments={"add_pooling_layer": False},
    ),
    "gpt2": Family(
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 40, "vocab_size": 300},
        {
            r"wte": "embedding",
            r"wpe": "position",
            r"ln_1": "norm1",
            r"ln_2": "norm2",
            r"ln_f": "final_norm",
            r"c_attn": "attention.qkv",
            r"attn\.c_proj": "attention.o",
            r"c_fc": "ffn.up",
            r"mlp\.c_proj": "ffn.down",
        },
        head=True,
    ),
    "llama": Family(
        "LlamaConfig", "LlamaForCausalLM", {**GATED, "attention_bias": True}, LLAMA_NAMES, head=True
    ),
    "llama, biases and free head size": Family(
        "LlamaConfig", "LlamaModel", {**GATED, "mlp_bias": True, "head_dim": 24}, LLAMA_NAMES
    ),
    "mistral": Family("MistralConfig", "MistralForCausalLM", GATED, LLAMA_NAMES, head=True),
    "t5": Family("T5Config", "T5ForConditionalGeneration", T5_SIZES, T5_NAMES, head=True),
    "t5, gated": Family(
        "T5Config",
        "T5ForConditionalGeneration",
        {**T5_SIZES, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 2},
        T5_NAMES,
        head=True,
    ),
    "opt": Family(
        "OPTConfig",
        "OPTForCausalLM",
        {
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 300,
            "max_position_embeddings": 40,
            "word_embed_proj_dim": 64,
        },
        OPT_NAMES,
        head=True,
    ),
    "vit": Family(
        "ViTConfig",
        "ViTModel",
        {**COMMON, "image_size": 32},
        {
            r"^embeddings": "",  # the input here
            r"([qkvo])_proj": r"attention.\1",
            r"layernorm_before": "norm1",
            r"layernorm_after": "norm2",
            r"fc1": "ffn.up",
            r"fc2": "ffn.down",
            r"^layernorm": "final_norm",
        },
        arguments={"add_pooling_layer": False},
    ),
    "gpt_neox": Family(
        "GPTNeoXConfig", "GPTNeoXForCausalLM", {**COMMON, "vocab_size": 300}, NEOX_NAMES, head=True
    ),
    "gpt_neox, one after the other": Family(
        "GPTNeoXConfig",
        "GPTNeoXModel",
        {**COMMON, "vocab_size": 300, "use_parallel_residual": False, "attention_bias": False},
        NEOX_NAMES,
    ),
    "gemma2": Family(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**GATED, "head_dim": 24},
        {
            r"post_attention_layernorm": "norm2",
            r"pre_feedforward_layernorm": "norm3",
            r"post_feedforward_layernorm": "norm4",
            **LLAMA_NAMES,
        },
        head=True,
    ),
    "olmo2": Family(
        "Olmo2Config",
        "Olmo2ForCausalLM",
        GATED,
        {**LLAMA_NAMES, r"post_attention_layernorm": "norm1", r"post_feedforward_layernorm": "norm2"},
        head=True,
    ),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", {**GATED, "head_dim": 24}, LLAMA_NAMES, head=True),
}


def _linear(name: str, op: Linear | None) -> Iterator[tuple[Kind, int, Draw]]:
    if op is not None:
        yield (name, "weight"), op.d_in * op.d_out, op.weight
        if op.bias is not None:
            yield (name, "bias"), op.d_out, op.bias


def _parameters(op: Op) -> Iterator[tuple[Kind, int, Draw]]:
    """Name, size and law of every parameter of an op, its children included."""
    for part in walk(op):
        match part:
            case Norm():
                yield (part.name, "weight"), part.width, ONES
                if part.kind == "layernorm":
                    yield (part.name, "bias"), part.width, ZEROS
            case Embedding():
                yield (part.name, "weight"), part.vocab * part.width, part.weight
            case Attention():
                for letter, linear in zip(
                    "qkvo", (part.query, part.key, part.value, part.output), strict=True
                ):
                    yield from _linear(f"{part.name}.{letter}", linear)
                bias = part.relative_bias
                if bias is not None and not bias.shared:
                    yield (bias.name, "weight"), bias.buckets * part.heads, bias.weight
            case FeedForward():
                for name, linear in (("gate", part.gate), ("up", part.up), ("down", part.down)):
                    yield from _linear(f"{part.name}.{name}", linear)


def _declared(arch: Transformer | EncoderDecoder) -> dict[Kind, tuple[int, Draw]]:
    """Size and law of every kind of parameter, all layers together."""
    if isinstance(arch, EncoderDecoder):
        pair = {"encoder": _declared(arch.encoder), "decoder": _declared(arch.decoder)}
        del pair["decoder"]["embedding", "weight"]  # one table for both in T5
        return {(f"{s}.{m}", p): law for s, part in pair.items() for (m, p), law in part.items()}
    found: dict[Kind, tuple[int, Draw]] = {}
    around = (arch.embedding, arch.position, arch.segment, arch.entry, arch.final_norm)
    ops = [*(op for op in around if op is not None), *(block for _, block in arch.blocks())]
    head = () if arch.head is None or arch.head.tied else _linear("head", arch.head.linear)
    for kind, size, law in [*(each for op in ops for each in _parameters(op)), *head]:
        before, known = found.get(kind, (0, law))
        assert known == law
        found[kind] = (before + size, law)
    return found


def _actual(family: Family, config: Any) -> dict[Kind, Sample]:
    """Every tensor of a random model of `transformers`, by our names; padding rows left out."""
    torch.manual_seed(20)
    model = getattr(transformers, family.model)(config, **family.arguments)
    found: dict[Kind, list[Sample]] = defaultdict(list)
    for name, tensor in model.named_parameters():
        parameter = name.rpartition(".")[2]
        matches = ((re.search(pattern, name), ours) for pattern, ours in family.names.items())
        match, ours = next((m, o) for m, o in matches if m is not None)
        module = match.expand(ours)
        if not module:
            continue
        values = tensor.detach().double().numpy()
        if module == "attention.qkv":
            width = config.hidden_size
            if config.model_type == "gpt_neox":
                blocks = np.moveaxis(values.reshape(config.num_attention_heads, 3, -1), 1, 0)
            else:
                blocks = np.stack(np.split(values, [width, 2 * width], axis=-1))
            for part, block in zip("qkv", blocks, strict=True):
                found[f"attention.{part}", parameter].append(block.ravel())
            continue
        if "gemma2" in config.model_type and "norm" in module:
            values = 1 + values  # the gain is 1 + w there
        found[module, parameter].append(values.ravel())
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def agrees(sample: Sample, law: Draw) -> bool:
    """Whether a sample may have been drawn from a normal law: chi-square test of its second moment."""
    if law.variance == 0:
        return bool(np.all(sample == float(law.mean)))
    statistic = np.sum((sample - float(law.mean)) ** 2) / float(law.variance)
    tail = min(stats.chi2.cdf(statistic, sample.size), stats.chi2.sf(statistic, sample.size))
    return bool(2 * tail > LEVEL)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_the_model_is_declared_with_its_size_and_variance(case: str) -> None:
    family = CASES[case]
    config = getattr(transformers, family.config)(**family.sizes)
    arch = architecture(config.to_dict(), head=family.head)
    declared, actual = _declared(arch), _actual(family, config)
    assert set(actual) == set(declared)
    zero_rows = {"bert": 1, "roberta": 1, "gemma2": 1, "opt": 1, "olmo2": 1}.get(config.model_type, 0)
    for kind, (size, law) in declared.items():
        sample = actual[kind]
        assert sample.size == size, kind
        if kind[0] == "embedding" or (kind[0] == "position" and config.model_type == "roberta"):
            padding = np.flatnonzero(~sample.reshape(-1, 64).any(axis=1))
            assert len(padding) == zero_rows, kind
            sample = sample[sample != 0]
        assert agrees(sample, law), (kind, sample.var(), law)


def test_the_comparison_rejects_a_variance_ten_per_cent_off() -> None:
    family = CASES["gpt2"]
    config = transformers.GPT2Config(**family.sizes)
    declared, actual = _declared(architecture(config.to_dict(), head=True)), _actual(family, config)
    drawn = [kind for kind, (_, law) in declared.items() if law.variance]
    assert len(drawn) == 8
    for kind in drawn:
        if actual[kind].size < 10_000:
            continue
        for factor in (0.9, 1.1):
            assert not agrees(actual[kind], Draw(float(declared[kind][1].variance) * factor)), kind
    assert not agrees(actual["norm1", "weight"], Draw(0, mean=1.1))


def _config(case: str, **changes: Any) -> dict[str, Any]:
    family = CASES[case]
    found: dict[str, Any] = getattr(transformers, family.config)(**family.sizes).to_dict()
    return {**found, **changes}


def test_every_family_has_a_case() -> None:
    assert {case.partition(",")[0] for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize(
    ("case", "change", "named"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"hidden_act": "relu6"}, "hidden_act"),
        ("llama", {"residual_multiplier": 0.2}, "residual_multiplier"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("vit", {"qkv_bias": False}, "qkv_bias"),
        ("t5", {"initializer_factor": 0.5}, "initializer_factor"),
        ("t5", {"feed_forward_proj": "gated-relu6"}, "feed_forward_proj"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_act": "silu"}, "hidden_act"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "layer_types"),
        ("gpt2", {"n_embd": None}, "n_embd"),
        ("gpt2", {"model_type": "mamba"}, "model_type"),
        ("gpt2", {"initializer_range": "small"}, "initializer_range"),
    ],
)
def test_keys_that_change_the_mathematics_are_refused_by_name(
    case: str, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named) as caught:
        architecture(_config(case, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("case", "keys"),
    [
        (
            "bert",
            {"gradient_checkpointing": False, "position_embedding_type": "absolute", "pooler_fc_size": 768},
        ),
        ("gpt2", {"n_ctx": 1024, "task_specific_params": {"text-generation": {"max_length": 50}}}),
        ("llama", {"torch_dtype": "float16", "pretraining_tp": 1, "rope_scaling": None, "max_length": 4096}),
        ("opt", {"activation_dropout": 0.0, "prefix": "</s>", "layerdrop": 0.0}),
        ("t5", {"output_past": True, "n_positions": 512, "decoder_start_token_id": 0}),
        ("gpt_neox", {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0}),
        (
            "gemma2",
            {
                "sliding_window_size": 4096,
                "hidden_act": "gelu_pytorch_tanh",
                "cache_implementation": "hybrid",
            },
        ),
    ],
)
def test_keys_of_published_files_without_consequence_are_accepted(case: str, keys: dict[str, Any]) -> None:
    assert architecture(_config(case, **keys)) == architecture(_config(case))


def test_head_and_encoder_only_are_refused_where_there_is_none() -> None:
    for case in ("bert", "roberta", "vit"):
        with pytest.raises(InputError, match="head"):
            architecture(_config(case), head=True)
    with pytest.raises(InputError, match="encoder_only"):
        architecture(_config("gpt2"), encoder_only=True)
    with pytest.raises(InputError, match="head"):
        architecture(_config("t5"), head=True, encoder_only=True)


def test_windows_and_caps_and_scales_are_those_of_the_file() -> None:
    gemma = architecture(_config("gemma2", sliding_window=7, query_pre_attn_scalar=144), head=True)
    assert isinstance(gemma, Transformer)
    ops = [next(op for op in walk(block) if isinstance(op, Attention)) for _, block in gemma.blocks()]
    assert [op.window for op in ops] == [7, None, 7]
    assert {(op.softcap, op.score_scale) for op in ops} == {(50.0, 1 / 12)}
    assert gemma.head is not None
    assert (gemma.head.softcap, gemma.head.tied) == (30.0, True)
    assert gemma.embedding is not None
    assert gemma.embedding.scale == 8.0
    uncapped = architecture(_config("gemma2", attn_logit_softcapping=None))
    assert isinstance(uncapped, Transformer)
    assert uncapped.attention.softcap is None

    assert _attention("mistral", sliding_window=9).window == 9
    assert _attention("mistral", sliding_window=None).window is None
    assert _attention("qwen3").window is None
    neox = _attention("gpt_neox").rotary
    assert neox is not None
    assert (neox.fraction, neox.base) == (0.25, 10_000)
    assert _attention("gpt2", scale_attn_weights=False).score_scale == 1
    assert _attention("bert", is_decoder=True).causal
    assert not _attention("bert").causal
    qwen = _attention("qwen3")
    assert qwen.query_norm is not None
    assert qwen.query_norm.width == qwen.head_size == 24
    olmo = _attention("olmo2")
    assert olmo.key_norm is not None
    assert olmo.key_norm.width == 32


def _attention(case: str, **changes: Any) -> Attention:
    arch = architecture(_config(case, **changes))
    assert isinstance(arch, Transformer)
    return arch.attention


def test_former_and_present_rotary_keys_mean_the_same() -> None:
    present = _config("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    former = {key: value for key, value in present.items() if key != "rope_parameters"}
    former |= {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "float16"}
    assert architecture(former) == architecture(present)
    neox = {key: value for key, value in _config("gpt_neox").items() if key != "rope_parameters"}
    assert architecture({**neox, "rotary_pct": 0.25, "rotary_emb_base": 10_000}) == architecture(neox)


def test_dropout_acts_in_training_only() -> None:
    config = _config("gpt2", resid_pdrop=0.2, attn_pdrop=0.3, embd_pdrop=0.4)
    still, moving = architecture(config), architecture(config, training=True)
    assert isinstance(still, Transformer)
    assert isinstance(moving, Transformer)
    assert not [op for op in walk(still.layers[0]) if isinstance(op, Dropout)]
    assert [op.rate for op in walk(moving.layers[0]) if isinstance(op, Dropout)] == [0.2, 0.2]
    assert (still.attention.dropout, moving.attention.dropout) == (0, 0.3)
    assert (still.entry, moving.entry) == (None, Dropout(0.4))
    with pytest.raises(InputError, match="training"):
        architecture(_config("t5"), training=True)
    assert architecture(_config("t5", dropout_rate=0.0), training=True) == architecture(_config("t5"))


def test_t5s_pair_shares_one_relative_bias_per_stack_and_scales_its_logits() -> None:
    pair = architecture(_config("t5"), head=True)
    assert isinstance(pair, EncoderDecoder)
    assert pair.decoder.head is not None
    assert (pair.decoder.head.tied, pair.decoder.head.scale) == (True, 1 / 8)
    for stack, both_ways in ((pair.encoder, True), (pair.decoder, False)):
        biases = [
            next(op for op in walk(b) if isinstance(op, Attention)).relative_bias for _, b in stack.blocks()
        ]
        assert [bias is not None and bias.shared for bias in biases] == [False, True, True]
        assert {bias is not None and bias.bidirectional for bias in biases} == {both_ways}
    version_1_1 = architecture(_config("t5", scale_decoder_outputs=False), head=True)
    assert isinstance(version_1_1, EncoderDecoder)
    assert version_1_1.decoder.head is not None
    assert version_1_1.decoder.head.scale == 1
    assert architecture(_config("t5"), encoder_only=True) == architecture(
        _config("t5", is_encoder_decoder=False)
    )


def test_a_file_is_read_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(_config("gpt2")), encoding="utf-8")
    assert architecture(path) == architecture(str(path)) == architecture(_config("gpt2"))
    for text, reason in (("{", "no JSON"), ("[1]", "list")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=reason):
            architecture(path)
    with pytest.raises(InputError, match=r"absent\.json"):
        architecture(tmp_path / "absent.json")
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="no text"):
        architecture(path)
    with pytest.raises(UnknownNameError, match="model_type"):
        architecture({})
