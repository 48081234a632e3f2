"""Each scheme against the library that it is named after, or against its paper's formula."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from meanfield.initialization import SCHEMES, Initialization, Sizes, initialization
from meanfield.ops import Draw

WIDTH, D_FF, DEPTH = 256, 1024, 6
IRRATIONAL = {"deepnorm", "sub_ln", "t_fixup"}
SIZES = Sizes(width=WIDTH, kv_width=WIDTH, d_ff=D_FF, depth=DEPTH)


def _same_variance(weight: torch.Tensor, draw: Draw) -> bool:
    """Whether a tensor's mean square fits the draw's variance within 5 standard errors."""
    values = weight.detach().double().flatten()
    excess = {"normal": 2.0, "uniform": 0.8}[draw.law]
    ratio = float(values.square().mean()) / float(draw.variance)
    return abs(ratio - 1) < 5 * math.sqrt(excess / len(values))


@pytest.fixture(name="layer")
def _layer() -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(WIDTH, 4, D_FF)


def test_torch_is_what_the_encoder_layer_draws(layer: nn.TransformerEncoderLayer) -> None:
    law = initialization("torch", SIZES)
    in_proj = layer.self_attn.in_proj_weight
    assert in_proj is not None
    for part, draw in zip(in_proj.chunk(3), (law.q, law.k, law.v), strict=True):
        assert _same_variance(part, draw)
        assert not _same_variance(part * math.sqrt(1.05), draw)
    assert _same_variance(layer.self_attn.out_proj.weight, law.o)
    assert _same_variance(layer.linear1.weight, law.up)
    assert _same_variance(layer.linear2.weight, law.down)
    assert _same_variance(layer.linear1.bias, law.up_bias)
    assert _same_variance(layer.linear2.bias, law.down_bias)
    assert float(layer.self_attn.out_proj.bias.detach().abs().max()) == 0 == law.attention_bias.variance


def test_torch_transformer_is_what_nn_transformer_draws() -> None:
    torch.manual_seed(0)
    layer = nn.Transformer(WIDTH, 4, 1, 1, D_FF, batch_first=True).encoder.layers[0]
    assert isinstance(layer, nn.TransformerEncoderLayer)
    law = initialization("torch_transformer", SIZES)
    in_proj = layer.self_attn.in_proj_weight
    assert in_proj is not None
    assert _same_variance(in_proj, law.q)
    assert _same_variance(layer.self_attn.out_proj.weight, law.o)
    assert _same_variance(layer.linear1.weight, law.up)
    assert _same_variance(layer.linear2.weight, law.down)


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_xavier_is_what_torch_calls_xavier(law: str) -> None:
    torch.manual_seed(0)
    weight = torch.empty(WIDTH, D_FF)
    getattr(nn.init, f"xavier_{law}_")(weight)
    assert _same_variance(weight, initialization(f"xavier_{law}", SIZES).up)


def test_gpt2_divides_the_projections_by_the_number_of_sublayers() -> None:
    law = initialization("gpt2", SIZES)
    assert law.q.variance == Fraction(1, 2500)
    assert law.o.variance == law.down.variance == Fraction(1, 2500 * 2 * DEPTH)


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_names_itself_and_is_exact_where_it_is_rational(name: str) -> None:
    law = initialization(name, SIZES)
    assert law.name == name
    assert name in IRRATIONAL or all(
        isinstance(getattr(law, field).variance, (Fraction, int))
        for field in ("q", "k", "v", "o", "up", "down", "embedding", "head")
    )


def test_a_ready_value_passes_through() -> None:
    one = Draw(Fraction(1, WIDTH))
    law = Initialization("mine", one, one, one, one, one, one, one, one)
    assert initialization(law, SIZES) is law
