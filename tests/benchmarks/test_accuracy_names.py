"""Every parameter of the measured models has its key."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.accuracy import names
from benchmarks.accuracy.names import keyed
from benchmarks.accuracy.store import MEASURED, load_measured
from meanfield.ops import ParameterKey


def _table(*entries: tuple[str, tuple[int, ...]]) -> nn.Module:
    """A module with parameters of these dotted names; gradients count 0, 1, 2, ... along the long axis."""
    root = nn.Module()
    for path, shape in entries:
        *parents, leaf = path.split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        parameter = nn.Parameter(torch.zeros(shape))
        longest = shape.index(max(shape))
        ramp = torch.arange(float(max(shape))).reshape([-1 if k == longest else 1 for k in range(len(shape))])
        parameter.grad = ramp.expand(shape).clone()
        module.register_parameter(leaf, parameter)
    return root


def test_gpt2_packs_along_columns_and_counts_layers_from_one() -> None:
    model = _table(("wpe.weight", (3, 2)), ("h.1.attn.c_attn.weight", (2, 6)), ("ln_f.bias", (2,)))
    found = dict(keyed(model, names.GPT2, depth=2))
    assert list(found) == [
        ParameterKey(0, "position", "weight"),
        *(ParameterKey(2, f"attention.{part}", "weight") for part in "qkv"),
        ParameterKey(3, "final_norm", "bias"),
    ]
    assert found[ParameterKey(2, "attention.k", "weight")].tolist() == [[2.0, 3.0], [2.0, 3.0]]


def test_torch_packs_along_rows() -> None:
    model = _table(("layers.0.self_attn.in_proj_weight", (6, 2)), ("layers.0.self_attn.in_proj_bias", (6,)))
    found = dict(keyed(model, names.TORCH, depth=1))
    assert found[ParameterKey(1, "attention.v", "weight")].tolist() == [[4.0, 4.0], [5.0, 5.0]]
    assert found[ParameterKey(1, "attention.v", "bias")].tolist() == [4.0, 5.0]


def test_only_the_first_number_of_a_name_is_the_layer() -> None:
    model = _table(("encoder.block.4.layer.1.DenseReluDense.wo.weight", (2, 3)))
    assert [key for key, _ in keyed(model, names.T5, depth=6)] == [ParameterKey(5, "ffn.down", "weight")]


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(KeyError, match="lm_head"):
        list(keyed(_table(("lm_head.weight", (2, 3))), names.GPT2, depth=1))


def test_every_measured_model_has_all_its_tensors() -> None:
    """Each kept file: whole layers, no key twice."""
    files = sorted(MEASURED.glob("*.npz"))
    assert files
    for file in files:
        measured = load_measured(file)
        keys = measured.keys
        assert len(set(keys)) == len(keys), file.name
        layers = [{key[1:] for key in keys if key.layer == layer} for layer in range(1, 7)]
        bias = {("attention.relative_bias", "weight")}  # T5's one table is the first layer's
        assert all(layer == layers[1] for layer in [layers[0] - bias, *layers[1:]]), file.name
        assert {"attention.q", "attention.o", "ffn.up", "ffn.down", "norm1"} <= {key.module for key in keys}
