"""Models of transformers from configurations: drawn as their libraries say, and named where they are not."""

from typing import Any

import pytest
import torch
from torch import nn

from empirical.initialization import check_initialization
from tests.empirical.initialization_models import found, message

hf = pytest.importorskip("transformers")

SIZES = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
IDS = torch.arange(4, 20).reshape(2, 8)


def bert() -> Any:
    torch.manual_seed(0)
    return hf.BertModel(hf.BertConfig(**SIZES, intermediate_size=256), add_pooling_layer=False).eval()


def gpt2(tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=96, n_positions=32, n_embd=64, n_layer=3, n_head=4, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return hf.GPT2LMHeadModel(config).eval()


def llama() -> Any:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, intermediate_size=192)).eval()


def t5() -> Any:
    torch.manual_seed(0)
    config = hf.T5Config(vocab_size=96, d_model=64, num_layers=3, num_heads=4, d_kv=16, d_ff=256)
    return hf.T5EncoderModel(config).eval()


@pytest.mark.parametrize(
    ("build", "scheme"), [(bert, "bert"), (gpt2, "gpt2"), (llama, "normal_0.02"), (t5, "t5")]
)
def test_a_model_as_its_library_draws_it_passes(build: Any, scheme: str) -> None:
    check = check_initialization(build(), scheme, batch=IDS)
    assert check.ok
    table = check.df[(check.df.parameter == "weight") & (check.df.law != "constant")]
    unnamed = table[table.variance.isna()].module.tolist()
    assert set(unnamed) <= {"attention.relative_bias"}


def test_tables_with_padding_and_ties_are_notes() -> None:
    assert message(check_initialization(bert(), "bert", batch=IDS), "padding").startswith("embeddings.word")
    check = check_initialization(gpt2(tied=True), "gpt2", batch=IDS)
    assert check.ok
    assert message(check, "tied") == "transformer.wte.weight and lm_head.weight are one tensor"


def test_depth_scaling_that_somebody_forgot_is_named() -> None:
    model = gpt2()
    for name, tensor in model.named_parameters():
        if name.endswith("c_proj.weight"):
            nn.init.normal_(tensor, std=0.02)
    check = check_initialization(model, "gpt2", batch=IDS)
    assert len(found(check)["variance"]) == 6
    assert "depth scaling 1/sqrt(2L) of o and down is missing" in message(check, "variance")


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_doubled_part_of_a_packed_matrix_is_named(part: int) -> None:
    model = gpt2()
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[:, 64 * part : 64 * (part + 1)] *= 2**0.5
    check = check_initialization(model, batch=IDS)
    assert found(check) == {"peers": (f"transformer.h.1.attn.c_attn.weight[{'qkv'[part]}]",)}


def test_a_removed_norm_and_a_bias_are_named_in_bert() -> None:
    model = bert()
    model.encoder.layer[1].output.LayerNorm = nn.Identity()
    with torch.no_grad():
        model.encoder.layer[2].attention.self.key.bias[7] = 0.5
    check = check_initialization(model, "bert", batch=IDS)
    assert found(check) == {
        "norm_missing": ("encoder.layer.1.output.LayerNorm",),
        "value": ("encoder.layer.2.attention.self.key.bias",),
    }
