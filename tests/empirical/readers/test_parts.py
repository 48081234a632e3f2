"""The reader's parts, each with a control that it must reject."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from empirical.layers.attention import Rotary
from empirical.readers import UnsupportedModuleError, read, read_module, verify
from empirical.readers.laws import Sample, pooled, sample
from empirical.readers.masks import read_mask
from empirical.readers.trace import trace
from meanfield import ops
from meanfield.ops import ParameterKey
from tests.empirical.readers import modules
from tests.empirical.readers.modules import HEAD, HEADS, WIDTH


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_a_recorded_pass_computes_anew_what_the_module_computes() -> None:
    model = modules.Model().eval()
    graph = trace(model, {"ids": modules.ids()}, [])
    out = graph.of[id(graph.output)]
    other = modules.Model().double().eval()
    named = dict(other.named_parameters())
    given = {node: named[node.name].detach() for node in graph.nodes if node.leaf == "parameter"}
    with torch.no_grad():
        (found,) = graph.run(given, [out])
        expected = other(modules.ids())
    assert torch.allclose(found, expected, rtol=1e-6)  # constants of the pass are float32
    assert not torch.allclose(found, 1.05 * expected, rtol=1e-6)


WRONG: list[Callable[[ops.Attention], dict[str, Any]]] = [
    lambda a: {"score_scale": 1.05 * a.score_scale},
    lambda a: {"causal": False},
    lambda a: {"softcap": 1.05 * (a.softcap or 1)},
    lambda a: {"window": 3},
    lambda a: {"rotary": ops.Rotary()},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_reading_that_is_wrong_in_one_thing_is_refused(
    wrong: Callable[[ops.Attention], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = verify.check

    def planted(graph: Any, output: Any, arch: ops.Transformer, *rest: Any) -> None:
        checked(graph, output, arch, *rest)  # the right one passes
        (run,) = arch.layers
        first, second = run.block.ops
        assert isinstance(first, ops.Residual)
        assert isinstance(first.branch, ops.Sequential)
        norm, attention = first.branch.ops
        assert isinstance(attention, ops.Attention)
        branch = ops.Sequential((norm, replace(attention, **wrong(attention))))
        block = ops.Sequential((replace(first, branch=branch), second))
        checked(graph, output, replace(arch, layers=(replace(run, block=block),)), *rest)

    monkeypatch.setattr("empirical.readers.reader.check", planted)
    with pytest.raises(UnsupportedModuleError, match="computes something else"):
        read(modules.Model(), modules.ids())


class Turned(nn.Module):
    """Multi-head attention whose queries and keys a function turns."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fused, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = self.fused(x).view(batch, tokens, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q, k, v = self.turn(parts[0]), self.turn(parts[1]), parts[2]
        weights = (q @ k.transpose(-1, -2) / math.sqrt(HEAD)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, WIDTH))


def neighbours(x: Tensor, base: float = 500.0, step: float = 1.0, turning: int = HEAD) -> Tensor:
    """Rotary positions of neighbouring coordinates, as GPT-J has them."""
    rest, x = x[..., turning:], x[..., :turning]
    frequency = base ** (-torch.arange(0, turning, 2) / turning)
    angle = step * torch.arange(x.shape[-2])[:, None] * frequency
    a, b = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)
    return torch.cat((turned.flatten(-2), rest), -1)


@pytest.mark.parametrize("turning", [HEAD, HEAD // 2])
def test_rotary_positions_in_either_order(turning: int) -> None:
    half = Rotary(ops.Rotary(turning / HEAD, 500.0), HEAD)
    for turn in (half, lambda x: neighbours(x, turning=turning)):
        arch = read(modules.Model([modules.Block(Turned(turn))]), modules.ids())
        assert isinstance(arch, ops.Transformer)
        rotary = arch.attention.rotary
        assert rotary is not None
        assert rotary.fraction == turning / HEAD
        assert rotary.base == pytest.approx(500, rel=1e-3)


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (lambda x: neighbours(x, step=0.5), "rotary angles"),  # scaled positions
        (
            lambda x: x * torch.arange(1, x.shape[-2] + 1)[:, None],
            "turn|something else",
        ),  # stretched, not turned
        (lambda x: x.relu(), "no linear function"),
    ],
)
def test_other_functions_of_the_position_are_refused(turn: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(UnsupportedModuleError, match=why):
        read(modules.Model([modules.Block(Turned(turn))]), modules.ids())


def test_masks() -> None:
    distance = torch.arange(6)[:, None] - torch.arange(6)
    real = torch.arange(6) < torch.tensor([6, 4])[:, None]
    causal = (distance >= 0) & real[:, None, :]
    mask = read_mask(causal & (distance < 3), cross=False, module="")
    assert (mask.causal, mask.window) == (True, 3)
    assert torch.equal(mask.real, real)
    assert read_mask(causal, cross=False, module="").window is None
    assert not read_mask(real[:, None, :].expand(2, 6, 6), cross=False, module="").causal
    with pytest.raises(UnsupportedModuleError, match="neither causal"):
        read_mask((distance % 2 == 0).expand(2, 6, 6), cross=False, module="")
    with pytest.raises(UnsupportedModuleError, match="source and target"):
        read_mask((distance >= 0).expand(2, 6, 6), cross=True, module="")


def test_padding_of_a_foreign_model_reaches_the_stream() -> None:
    hf = pytest.importorskip("transformers")
    config = hf.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=61
    )
    real = torch.arange(7) < torch.tensor([7, 4])[:, None]
    batch = {"input_ids": modules.ids(), "attention_mask": real.long()}
    (stream,) = read_module(hf.BertModel(config, add_pooling_layer=False), batch).streams
    assert np.array_equal(stream.padding, real.numpy())  # type: ignore[arg-type]
    assert np.array_equal(stream.ids, modules.ids().numpy())  # type: ignore[arg-type]


def test_kernels_of_what_makes_the_vectors() -> None:
    hf = pytest.importorskip("transformers")
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
    )
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reading = read_module(hf.ViTModel(config, add_pooling_layer=False), {"pixel_values": pixels})
    (stream,) = reading.streams
    assert (stream.batch, stream.tokens) == (2, 5)
    weight = "embeddings.patch_embeddings.projection.weight"
    patches = nn.functional.unfold(pixels, 8, stride=8).transpose(1, 2).double()  # (2, 4, 192)
    whole = torch.cat((torch.zeros(2, 1, 192), patches), 1).reshape(10, 192)  # the class token has none
    assert np.allclose(stream.features[weight], (whole @ whole.T).numpy())
    own = np.zeros(10)
    own[[0, 5]] = 1  # the class tokens
    assert np.array_equal(stream.features["embeddings.cls_token"], np.outer(own, own))
    places = np.tile(np.eye(5), (2, 2))
    assert np.array_equal(stream.features["embeddings.position_embeddings"], places)


def test_laws_of_tensors() -> None:
    normal = sample(0.02 * torch.randn(400, 500))
    assert normal.draw().variance == pytest.approx(4e-4, rel=5 * (2 / 2e5) ** 0.5)
    assert (normal.law, sample(torch.rand(500, 500) - 0.5).law) == ("normal", "uniform")
    assert sample(torch.full((9,), 3.0)).draw() == ops.Draw(0, mean=3.0)
    assert sample(torch.zeros(9)).draw() == ops.ZEROS
    shifted = sample(1 + 0.1 * torch.randn(10_000)).draw()
    assert shifted.mean == pytest.approx(1, abs=0.01)
    assert shifted.variance == pytest.approx(0.01, rel=0.1)


def test_pooling_keeps_what_chance_does_not_explain() -> None:
    def key(layer: int) -> ParameterKey:
        return ParameterKey(layer, "ffn.up", "weight")

    def drawn(scale: float) -> Sample:
        return sample(scale * torch.randn(200, 200))

    laws = pooled({key(1): drawn(1), key(2): drawn(1), key(3): drawn(1.05)})
    assert laws[key(1)] == laws[key(2)]
    assert laws[key(3)].variance == pytest.approx(1.05**2, rel=0.04)
    assert laws[key(3)] != laws[key(1)]
