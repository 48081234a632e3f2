"""Against a scheme: each passes on its own models, and each known mistake is named when it is planted."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import empirical
import meanfield as mf
from empirical.initialization import check_initialization
from empirical.initialization.causes import UNEXPLAINED
from empirical.names import named_parameters
from meanfield.initialization import SCHEMES, Sizes, deepnorm_constants
from tests.empirical.initialization_models import WIDTH, check_own, encoder, found, message, own_reading

DEPTH = 6
PLACEMENT = {"deepnorm": "deepnorm", "sub_ln": "sub_ln", "t_fixup": "t_fixup"}
GAINED = ("attention.v", "attention.o", "ffn.up", "ffn.down", "cross_attention.v", "cross_attention.o")
BETA_SQ = (8 * DEPTH) ** -0.5


def arch(scheme: str, **options: Any) -> Any:
    """A model with everything that a scheme draws, in the placement that it belongs to."""
    preset = getattr(mf, PLACEMENT.get(scheme, "pre_ln"))
    given = {"heads": 4, "init": scheme, "vocab": 96, "positions": 32, "embedding_scale": 8.0, **options}
    return preset(width=WIDTH, depth=DEPTH, **given)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_of_a_scheme_passes(scheme: str) -> None:
    check = check_own(arch(scheme), scheme)
    assert check.ok
    assert not check.notes
    expected = check.df[check.df.parameter == "weight"].variance
    assert expected.notna().all()


@pytest.mark.parametrize("placement", ["post_ln", "pre_ln", "deepnorm", "sub_ln", "t_fixup"])
def test_both_stacks_of_a_pair_have_constants_of_their_own(placement: str) -> None:
    pair = mf.encoder_decoder(
        width=WIDTH, depth=3, decoder_depth=5, vocab=64, placement=placement, heads=4, embedding_scale=8.0
    )
    scheme = PLACEMENT.get(placement, "xavier_uniform")
    assert check_own(pair, scheme).ok
    if placement == "deepnorm":
        assert_gains_of_single_stacks_are_named(pair)


def assert_gains_of_single_stacks_are_named(pair: Any) -> None:
    model = empirical.build(pair)
    for parameter in named_parameters(model):
        stack, _, module = parameter.key.module.partition(".")
        if module in GAINED and parameter.key.parameter == "weight":
            depth, other = (3, 5) if stack == "encoder" else (5, 3)
            alone = Sizes(WIDTH, WIDTH, 4 * WIDTH, depth)
            own = replace(alone, stack="encoder" if stack == "encoder" else "decoder", other_depth=other)
            parameter.tensor.detach().mul_(deepnorm_constants(alone)[1] / deepnorm_constants(own)[1])
    check = check_initialization(model, "deepnorm", reading=own_reading(pair, model))
    assert set(found(check)) == {"variance"}
    assert "the gain is that of a stack alone" in message(check, "variance")


def both(factor: float) -> dict[str, float]:
    return {"attention.o": factor, "ffn.down": factor}


def gained(factor: float) -> dict[str, float]:
    return dict.fromkeys(GAINED, factor)


WRONG_SIGN = "its exponent has the wrong sign, (8N)^(+1/4) where DeepNet has (8N)^(-1/4)"

# Scheme, factors on variances, and what is named: every module with a factor, and no other.
MISTAKES: list[tuple[str, dict[str, float], str]] = [
    ("deepnorm", gained(BETA_SQ**-2), WRONG_SIGN),
    ("deepnorm", gained(1 / BETA_SQ), "the gain beta is missing"),
    ("deepnorm", gained(BETA_SQ), "the gain beta is applied twice"),
    ("deepnorm", gained(BETA_SQ**-0.5), "put into the variance"),
    ("deepnorm", gained(math.sqrt(DEPTH / 32)), "the gain is right for 32 layers, here are 6"),
    ("deepnorm", {"attention.q": BETA_SQ, "attention.k": BETA_SQ}, "q and k have the gain beta too"),
    ("sub_ln", gained(1 / math.log(2 * DEPTH)), "the gain is missing"),
    ("t_fixup", gained(0.67**-4 * DEPTH), "its exponent has the wrong sign"),
    ("gpt2", both(2 * DEPTH), "depth scaling 1/sqrt(2L) of o and down is missing"),
    ("gpt2", {"attention.o": 0.5 / DEPTH}, "1/sqrt(2L) is applied twice"),
    ("gpt2", both(2), "1/sqrt(L) in place of 1/sqrt(2L)"),
    ("gpt2", {"ffn.up": 0.5 / DEPTH}, "belongs to o and down alone"),
    ("gpt2", both(DEPTH / 24), "right for 24 layers, not 6"),
    ("xavier_normal", {"ffn.up": 5 / 2}, "drawn with 1/fan_in"),
    ("xavier_normal", {"ffn.up": 5 / 8}, "drawn with 1/fan_out"),
    ("xavier_normal", {"ffn.up": 5}, "drawn with He's 2/fan_in"),
    ("xavier_normal", {"ffn.down": 5 / 24}, "torch.nn.Linear's default, 1/(3 fan_in)"),
    ("xavier_uniform", {"attention.o": 1 / 3}, "torch.nn.Linear's default"),
    ("lecun_normal", {"ffn.up": 1 / 4}, "drawn with 1/fan_out"),
    ("lecun_normal", {"ffn.down": 8 / 5}, "drawn with Xavier's 2/(fan_in + fan_out)"),
    ("bert", {"ffn.up": 1 / 2500}, "the variance was given as standard deviation"),
    ("bert", {"ffn.up": 50}, "the standard deviation was given as variance"),
    ("bert", {"attention.v": 2}, "the variance is doubled"),
    ("bert", {"attention.v": 4}, "the standard deviation is doubled"),
    ("bert", {"attention.v": 1 / 3}, "given as the bound of a uniform law"),
    ("torch", {"embedding": 1 / WIDTH}, "as for a forward pass that multiplies by sqrt(d)"),
    ("small_init", {"attention.v": 1.37}, UNEXPLAINED),
]


@pytest.mark.parametrize(
    ("scheme", "factors", "cause"), MISTAKES, ids=[f"{m[0]}-{m[2][:30]}" for m in MISTAKES]
)
def test_a_known_mistake_is_named(scheme: str, factors: dict[str, float], cause: str) -> None:
    check = check_own(arch(scheme), scheme, factors=factors)
    assert [finding.kind for finding in check.findings] == ["variance"]
    assert cause in message(check, "variance")
    table = check.df[check.df.finding.str.contains("variance")]
    assert set(table.module) == set(factors) & set(check.df.module)
    assert len(table) == len(factors.keys() & set(table.module)) * (1 if "embedding" in factors else DEPTH)


def test_packed_qkv_has_half_the_variance_and_torchs_other_defaults_are_named() -> None:
    check = check_initialization(encoder(), "xavier_uniform")
    text = message(check, "variance")
    assert "packed QKV drawn as one matrix: half the variance (pytorch issue 166378)" in text
    assert "torch.nn.Linear's default, 1/(3 fan_in)" in text
    assert "torch.nn.Linear's default for biases" in message(check, "value")
    table = check.df.set_index("name")
    assert table.ratio["layers.0.self_attn.in_proj_weight[k]"] == pytest.approx(0.5, rel=0.05)
    separate: Any = encoder()
    for layer in separate.layers:
        for part in layer.self_attn.in_proj_weight.chunk(3):
            nn.init.xavier_uniform_(part)
        for weight in (layer.self_attn.out_proj.weight, layer.linear1.weight, layer.linear2.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(layer.linear1.bias)
        nn.init.zeros_(layer.linear2.bias)
    assert check_initialization(separate, "xavier_uniform").ok


def test_alpha_that_is_right_for_another_depth_is_named() -> None:
    check = check_own(arch("deepnorm", skip_scale=2.828), "deepnorm")
    assert set(found(check)) == {"skip_scale"}
    text = message(check, "skip_scale")
    assert "alpha = 2.828 is right for N = 32 layers alone, here are 6" in text
    assert "around attention" in text
    assert "around ffn" in text


@pytest.mark.parametrize(
    ("alpha", "cause"),
    [
        (1.0, "alpha is missing"),
        ((2 * DEPTH) ** -0.25, "the exponent has the wrong sign"),
        ((8 * DEPTH) ** -0.25, "that is beta"),
        (1.7, "factor 1.7, deepnorm has 1.861"),
    ],
)
def test_a_wrong_alpha_is_explained(alpha: float, cause: str) -> None:
    assert cause in message(check_own(arch("deepnorm", skip_scale=alpha), "deepnorm"), "skip_scale")


def test_only_the_ratio_of_skip_and_branch_counts() -> None:
    alpha = (2 * DEPTH) ** 0.25
    assert check_own(arch("deepnorm", skip_scale=1.0, branch_scale=1 / alpha), "deepnorm").ok


def test_law_of_the_right_variance_is_a_note() -> None:
    check = check_own(arch("xavier_normal"), "xavier_uniform")
    assert check.ok
    assert "normal, where xavier_uniform is uniform" in message(check, "law")
    module: Any = encoder()
    for layer in module.layers:
        nn.init.orthogonal_(layer.self_attn.out_proj.weight, gain=3**-0.5)
    check = check_initialization(module, "torch")
    assert check.ok
    assert "orthogonal, where torch is uniform" in message(check, "law")


def test_a_cut_off_normal_law_is_named() -> None:
    module: Any = encoder()
    for name, tensor in module.named_parameters():
        if tensor.ndim == 2:
            nn.init.trunc_normal_(tensor, std=0.02, a=-0.04, b=0.04)
        elif "norm" not in name:
            nn.init.zeros_(tensor)
    check = check_initialization(module, "bert")
    assert set(found(check)) == {"variance"}
    assert "cut off at two standard deviations" in message(check, "variance")
    assert "other, kurtosis 2.3" in message(check, "law")


def test_constants_are_compared_exactly() -> None:
    reading_of = arch("bert")
    model = empirical.build(reading_of)
    by_key = {
        (p.key.layer, p.key.module, p.key.parameter): p.tensor.detach() for p in named_parameters(model)
    }
    by_key[2, "attention.q", "bias"][5] = 1e-7
    by_key[3, "norm1", "weight"].fill_(1.0001)
    by_key[DEPTH + 1, "final_norm", "bias"].fill_(-0.5)
    check = check_initialization(model, "bert", reading=own_reading(reading_of, model))
    assert set(found(check)) == {"value"}
    assert len(found(check)["value"]) == 3
    text = message(check, "value")
    assert "not constant, where bert has 0" in text
    assert "constant 1, where bert has 1" in text
    assert "constant -0.5, where bert has 0" in text


def test_a_bias_that_a_scheme_draws_is_tested() -> None:
    check = check_own(arch("torch"), "torch")
    biases = check.df[(check.df.module == "ffn.up") & (check.df.parameter == "bias")]
    assert biases.p_value.notna().all()
    given = arch("torch")
    model = empirical.build(given)
    for parameter in named_parameters(model):
        if parameter.key[1:] == ("ffn.up", "bias"):
            parameter.tensor.detach().zero_()
    kinds = found(check_initialization(model, "torch", reading=own_reading(given, model)))
    assert {key: len(names) for key, names in kinds.items()} == {"value": DEPTH}


class LanguageModel(nn.Module):
    """Tokens times a factor, learned positions, an encoder."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(100, WIDTH), nn.Embedding(10, WIDTH)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, 0, WIDTH**-0.5)
        self.factor, self.encoder = factor, encoder(2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.factor * self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.encoder(x)


def test_embeddings_that_nothing_scales_are_found() -> None:
    ids = torch.arange(16).reshape(2, 8)
    for factor, wrong in ((WIDTH**0.5, False), (1.0, True), (WIDTH, True)):
        torch.manual_seed(0)
        kinds = found(check_initialization(LanguageModel(factor), "fairseq", batch=ids))
        assert ("embedding_scale" in kinds) == wrong
    torch.manual_seed(0)
    model = LanguageModel(1.0)
    nn.init.normal_(model.positions.weight)
    check = check_initialization(model, batch=ids)
    assert found(check) == {"embedding_scale": ("tokens.weight",)}
    assert "a factor sqrt(d) = 8 on the tokens is missing" in message(check, "embedding_scale")


def test_a_layer_that_differs_is_named_beside_a_scheme_that_all_miss() -> None:
    module: Any = encoder()
    with torch.no_grad():
        module.layers[2].self_attn.in_proj_weight[:WIDTH] *= 2**0.5  # now what the scheme says, by chance
        module.layers[1].linear1.weight *= 2
    q = "layers.2.self_attn.in_proj_weight[q]"
    against = check_initialization(module, "xavier_uniform")
    assert set(found(against)["peers"]) == {q, "layers.1.linear1.weight"}
    right = found(check_initialization(module, "torch"))
    assert right == {"variance": (q, "layers.1.linear1.weight")}


def test_an_identity_matrix_is_no_draw() -> None:
    module: Any = encoder()
    nn.init.eye_(module.layers[1].self_attn.out_proj.weight)
    check = check_initialization(module, "torch")
    assert found(check) == {"value": ("layers.1.self_attn.out_proj.weight",)}
    assert "a pattern that nobody draws, where torch draws its entries" in message(check, "value")
