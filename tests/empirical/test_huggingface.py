"""Built models with the weights of Hugging Face's: equal outputs and equal gradients of every parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from empirical import build
from empirical.build import Architecture
from empirical.layers import Context
from empirical.layers.attention import relative_buckets
from empirical.names import named_parameters
from meanfield import ops
from meanfield.ops import RelativeBias
from tests.empirical.huggingface import BATCH, CASES, LAW, TOKENS, VOCAB, Case, Views

t5 = pytest.importorskip("transformers.models.t5.modeling_t5")


def ids(seed: int) -> Tensor:
    return torch.randint(1, VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(seed))


def numbers(arch: Architecture) -> Views:
    """Values for all parameters, away from those at initialisation."""
    generator = torch.Generator().manual_seed(3)
    values: Views = {}
    for key, tensor, _ in named_parameters(build(arch)):
        gain = tensor.dim() == 1 and key.parameter == "weight"
        noise = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        values[key] = 0.3 * noise + gain
    return values


def ours(case: Case, arch: Architecture, values: Views) -> tuple[Tensor, Views]:
    model = build(arch, dtype="float64")
    parameters: Views = {p.key: p.tensor for p in named_parameters(model)}
    for key, tensor in parameters.items():
        tensor.data = values[key]
    inputs = [ids(0), ids(1)] if isinstance(arch, ops.EncoderDecoder) else [ids(0)]
    y = model(*inputs, context=Context(case.real, memory_padding=case.real))
    gradients = torch.autograd.grad(probe(y, case.real), list(parameters.values()))
    return y, dict(zip(parameters, gradients, strict=True))


def theirs(case: Case, values: Views) -> tuple[Tensor, Views]:
    module = case.module().double().eval()
    parameters = dict(module.named_parameters())
    for key, view in case.views(lambda name: parameters[name].data).items():
        gain = values[key].dim() == 1 and key[2] == "weight"
        view.copy_((values[key] - case.offset * gain).view(view.shape))
    arguments: dict[str, Any] = {"input_ids": ids(0), "attention_mask": case.real.long(), "use_cache": False}
    if isinstance(case.arch, ops.EncoderDecoder):
        arguments |= {"decoder_input_ids": ids(1), "decoder_attention_mask": case.real.long()}
    output = module(**arguments)
    y = output.logits if "logits" in output else output.last_hidden_state
    probe(y, case.real).backward()  # type: ignore[no-untyped-call]  # torch's annotations leave it out
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return y, case.views(lambda name: gradients[name])


def probe(y: Tensor, real: Tensor) -> Tensor:
    r = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    return (r * y)[real].sum()


def close(a: Tensor, b: Tensor) -> bool:
    # Their norms, rotations and softmax compute in float32.
    return bool((a.reshape(b.shape) - b).norm() <= 1e-5 * b.norm())


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_library(name: str) -> None:
    case = CASES[name]()
    values = numbers(case.arch)
    expected, expected_gradients = theirs(case, values)
    y, gradients = ours(case, case.arch, values)
    assert close(y[case.real], expected[case.real])
    assert set(gradients) == set(expected_gradients)
    for key, gradient in gradients.items():
        if gradient.norm() > 1e-9:  # the softmax does not see a key's bias
            assert close(gradient, expected_gradients[key]), key
            assert not close(1.05 * gradient, expected_gradients[key])
    other, _ = ours(case, case.wrong, values)
    assert not close(other[case.real], expected[case.real])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 6), (6, 200)])
def test_relative_buckets_are_those_of_the_library(bidirectional: bool, buckets: int, far: int) -> None:
    offset = torch.arange(-300, 301)
    expected = t5.T5Attention._relative_position_bucket(offset, bidirectional, buckets, far)
    assert torch.equal(
        relative_buckets(offset, RelativeBias("bias", LAW, buckets, far, bidirectional)), expected
    )
    other = relative_buckets(offset, RelativeBias("bias", LAW, buckets, 2 * far, bidirectional))
    assert not torch.equal(other, expected)
