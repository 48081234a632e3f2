"""Round trip: every preset, built as a module and read back, is what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import empirical
import meanfield as mf
from empirical.names import named_parameters
from empirical.readers import UnsupportedModuleError, read_module
from meanfield import ops
from meanfield.presets import PRESETS

REFUSED = {
    "residual": "two streams",  # two sums of the same branches
    "paper_post_ln": "softmax",  # weights that are the same constant everywhere
    "paper_pre_ln": "softmax",
}
VECTORS = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))


def preset(name: str) -> ops.Transformer:
    options: dict[str, Any] = {} if name.startswith("paper") else {"heads": 4}
    found = PRESETS[name](width=32, depth=2, **options)
    assert isinstance(found, ops.Transformer)
    return found


# NormFormer calls a norm behind the attention op attention.norm; read, it is the next norm of its layer.
@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(REFUSED) - {"normformer"}))
def test_every_parameter_has_its_name_again(name: str) -> None:
    model = empirical.build(preset(name), seed=0)
    reading = read_module(model, VECTORS)
    keys = {id(p.tensor): p.key for p in named_parameters(model)}
    tensors = dict(model.named_parameters())
    assert {slot.name: slot.key for slot in reading.slots} == {
        name: keys[id(tensor)] for name, tensor in tensors.items()
    }
    assert all(slot.part is None for slot in reading.slots)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(REFUSED)))
def test_gradients_are_predicted_from_the_module_as_from_the_preset(name: str) -> None:
    arch = preset(name)
    model = empirical.build(arch, seed=0)
    with torch.no_grad():  # weights with exactly the preset's variances
        for parameter in named_parameters(model):
            if parameter.law.variance:
                x = parameter.tensor - parameter.tensor.mean()
                parameter.tensor.copy_(x * (float(parameter.law.variance) / x.square().mean()) ** 0.5)
    predicted = empirical.predict(model, VECTORS, samples=0)
    rows = VECTORS.reshape(12, 32).double()
    direct = mf.predict(arch, tokens=6, batch=2, gram=(rows @ rows.T / 32).numpy()).df
    names = {id(tensor): path for path, tensor in model.named_parameters()}
    paths = {p.key: names[id(p.tensor)] for p in named_parameters(model)}
    nothing = 1e-6 * direct.grad_sq.max()
    for row in direct.to_dict("records"):
        path = paths[ops.ParameterKey(row["layer"], row["module"], row["parameter"])]
        assert predicted[path] == pytest.approx(row["grad_sq"], rel=0.02, abs=nothing), path


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_counterpart_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModuleError, match=REFUSED[name]):
        read_module(empirical.build(preset(name), seed=0), VECTORS)


def test_the_control_is_rejected() -> None:
    model = empirical.build(preset("pre_ln"), seed=0)
    direct = mf.predict(preset("post_ln"), tokens=6, batch=2).df
    predicted = empirical.predict(model, VECTORS, samples=0)
    down = direct[(direct.module == "ffn.down") & (direct.parameter == "weight")].grad_sq.iloc[0]
    label = next(s.label for s in predicted.reading.slots if s.key == (1, "ffn.down", "weight"))
    assert predicted[label] != pytest.approx(down, rel=0.05)
