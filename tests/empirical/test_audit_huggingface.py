"""Audits of models of transformers from their configurations: they agree, by the models' own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from empirical.audit import __main__ as command
from empirical.audit import audit
from empirical.audit.subjects import Tokens, from_configuration
from meanfield.errors import InputError

pytest.importorskip("transformers")

SIZES = {"vocab_size": 96, "layer_norm_epsilon": 1e-5}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None},
    "bert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
    "t5": {"d_model": 64, "num_layers": 1, "num_heads": 4, "d_kv": 16, "d_ff": 128},
    "vit": {
        "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128,
        "image_size": 8, "patch_size": 4,
    },
}  # fmt: skip


def written(folder: Path, kind: str, **more: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": kind, **SIZES, **CONFIGS.get(kind, {}), **more}))
    return str(path)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("kind", "head", "loss"),
    [
        ("gpt2", False, "linear"),
        pytest.param("gpt2", True, "cross_entropy", marks=pytest.mark.slow),
        pytest.param("bert", False, "linear", marks=pytest.mark.slow),
        pytest.param("t5", True, "linear", marks=pytest.mark.slow),
        pytest.param("vit", False, "linear", marks=pytest.mark.slow),
    ],
)
def test_the_theory_agrees(kind: str, head: bool, loss: str, tmp_path: Path) -> None:
    subject = from_configuration(written(tmp_path, kind), head, None, Tokens(8, 2, None, 0))
    found = audit(subject.build, subject.batch, seeds=range(48), loss=loss, samples=256)
    assert found.agrees, found.worst
    assert found.score.within >= found.score.tensors - 1
    assert found.score.unpredicted == 0


def test_packed_parts_and_tied_tables_have_rows_by_their_own_names(tmp_path: Path) -> None:
    subject = from_configuration(written(tmp_path, "gpt2", n_layer=1), True, None, Tokens(4, 1, None, 0))
    found = audit(subject.build, subject.batch, seeds=range(2), samples=2, tolerance=0.9)
    names = list(found.df.parameter)
    assert [name for name in names if "c_attn.weight" in name] == [
        f"transformer.h.0.attn.c_attn.weight[{part}]" for part in "qkv"
    ]
    assert names.count("transformer.wte.weight") == 1
    assert not any("lm_head" in name for name in names)
    assert len(names) == len(set(names)) == 2 + 16 + 2


def test_random_ids_are_inside_the_vocabulary_and_never_padding(tmp_path: Path) -> None:
    path = written(tmp_path, "bert", pad_token_id=3, vocab_size=5)
    batch: Any = from_configuration(path, False, None, Tokens(64, 2, None, 0)).batch
    assert set(batch["input_ids"].unique().tolist()) == {0, 1, 2, 4}
    fewer: Any = from_configuration(path, False, None, Tokens(64, 2, 3, 0)).batch
    assert set(fewer["input_ids"].unique().tolist()) == {0, 1, 2}
    pair: Any = from_configuration(written(tmp_path, "t5"), False, None, Tokens(4, 1, None, 0)).batch
    assert list(pair) == ["input_ids", "decoder_input_ids"]
    image: Any = from_configuration(written(tmp_path, "vit"), False, None, Tokens(4, 2, None, 0)).batch
    assert image["pixel_values"].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("kind", "more", "arguments", "message"),
    [
        ("berd", {}, (), "model_type='berd' is not known to transformers"),
        ("berd", {}, (), "did you mean 'bert'?"),
        ("bert", {"num_attention_heads": 7}, (), "transformers cannot build this (ValueError"),
        ("vit", {}, ("--head",), "model_type='vit' has no language-model head: leave --head out"),
        ("gpt2", {"n_positions": 4}, (), "GPT2Model cannot run on this batch"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(
    kind: str, more: dict[str, Any], arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refusal:
        command.main(["--hf", written(tmp_path, kind, **more), "--seeds", "2", "--samples", "2", *arguments])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["", "[1]", "{", None])
def test_files_that_are_no_configuration_are_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"--hf '.*' (is no configuration|holds no JSON object)"):
        command.main(["--hf", str(tmp_path if content is not None else path)])


def test_code_that_a_configuration_names_is_not_run(tmp_path: Path) -> None:
    path = written(tmp_path, "gpt2", auto_map={"AutoModel": "somebody/else--modeling.Evil"}, n_layer=1)
    module = from_configuration(path, False, None, Tokens(4, 1, None, 0)).build(0)
    assert type(module).__module__.startswith("transformers.")
