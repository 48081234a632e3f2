"""The check of a whole module: right models pass at the stated rate, and planted faults are found by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import empirical
import meanfield as mf
from empirical.draws import draw
from empirical.initialization import FAULTS, NOTES, check_initialization
from empirical.initialization.family import LEVEL
from empirical.names import named_parameters
from empirical.readers.reading import UnsupportedModuleError
from meanfield.errors import InputError, UnknownNameError
from meanfield.initialization import Sizes, initialization
from tests.empirical.initialization_models import WIDTH, check_own, encoder, found, message, own_reading


def false_alarms(init: str, scheme: str | None, seeds: range, width: int = 16) -> int:
    """Right models of which any test fails."""
    arch = mf.pre_ln(width=width, depth=3, heads=2, init=init, vocab=40)
    model = empirical.build(arch)
    reading, parameters = own_reading(arch, model), named_parameters(model)
    count = 0
    for seed in seeds:
        draw(parameters, seed)
        check = check_initialization(model, scheme, reading=reading)
        count += any(kind in found(check) for kind in ("variance", "mean", "peers", "not_independent"))
    return count


def at_the_level(count: int, models: int) -> bool:
    """Whether a number of false alarms may come from a rate of at most the stated one, with 99.9 %."""
    return count <= stats.binom.ppf(0.999, models, LEVEL)


CASES = [("torch", None), ("xavier_normal", "xavier_normal"), ("torch", "torch")]


@pytest.mark.statistical
@pytest.mark.parametrize(("init", "scheme"), CASES)
def test_right_models_fail_at_the_stated_rate(init: str, scheme: str | None) -> None:
    assert at_the_level(false_alarms(init, scheme, range(60)), 60)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("init", "scheme"), CASES)
def test_right_models_fail_at_the_stated_rate_and_not_more_rarely(init: str, scheme: str | None) -> None:
    count = false_alarms(init, scheme, range(1000, 4000), width=32)
    assert at_the_level(count, 3000)
    assert count >= stats.binom.ppf(0.001, 3000, LEVEL / 2)  # a level that is not used up finds less


def test_the_control_of_the_rate_can_fail() -> None:
    assert not at_the_level(8, 100)
    assert not at_the_level(false_alarms("xavier_normal", "lecun_normal", range(8)), 8)


@pytest.mark.statistical
@pytest.mark.parametrize(("scheme", "power"), [("xavier_normal", 0.8), ("xavier_uniform", 0.999)])
def test_five_per_cent_too_much_variance_in_one_matrix_are_found(scheme: str, power: float) -> None:
    arch = mf.pre_ln(width=128, depth=1, heads=2, d_ff=128, init=scheme)
    model = empirical.build(arch)
    reading, parameters = own_reading(arch, model), named_parameters(model)
    query = next(p for p in parameters if p.key.module == "attention.q" and p.key.parameter == "weight")
    hits, ratio = 0, 0.0
    for seed in range(50):
        draw(parameters, seed)
        query.tensor.detach().mul_(1.05**0.5)
        check = check_initialization(model, scheme, reading=reading)
        names = found(check).get("variance", ())
        assert set(names) <= {"layers.0.parts.0.branch.parts.1.q.weight"}
        hits += bool(names)
        ratio = float(check.df.detectable[check.df.module == "attention.q"].max())
    # 5 % are 4.4 standard errors of the variance of 128 x 128 normal entries, 7 of uniform ones, and the
    # bound of the smallest of all tests is at 3.5.
    assert hits >= stats.binom.ppf(0.001, 50, power)
    assert (ratio < 1.05) == (power > 0.95)  # what the table says is found with 95 %


def test_five_per_cent_in_every_layer_are_found_by_pooling() -> None:
    check = check_own(
        mf.pre_ln(width=64, depth=6, heads=2, init="xavier_normal"), "xavier_normal", factors={"ffn.up": 1.05}
    )
    assert len(found(check)["variance"]) == 6
    assert check.df.set_index("module").detectable["ffn.up"].min() > 1.05


def doubled_q(module: Any) -> None:
    module.layers[2].self_attn.in_proj_weight[:WIDTH] *= 2**0.5


def no_norm(module: Any) -> None:
    module.layers[3].norm2 = nn.Identity()


def two_norms(module: Any) -> None:
    module.layers[1].norm1 = nn.Sequential(nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))


def no_last_norm(module: Any) -> None:
    module.norm = None


def one_layer_twice(module: Any) -> None:
    module.layers[3] = module.layers[1]


def bias(module: Any) -> None:
    module.layers[0].self_attn.in_proj_bias[WIDTH + 3] = 0.1


def half(module: Any) -> None:
    module.layers[1].half()


def nan(module: Any) -> None:
    module.layers[1].linear1.weight[3, 5] = float("nan")


def infinite(module: Any) -> None:
    module.norm.bias[0] = float("inf")


def dead(module: Any) -> None:
    module.layers[2].linear2.weight.zero_()


def constant(module: Any) -> None:
    module.layers[2].linear2.weight.fill_(0.01)


def bias_missing(module: Any) -> None:
    module.layers[2].linear1.bias.zero_()


def copied_matrix(module: Any) -> None:
    module.layers[2].linear1.weight.copy_(module.layers[0].linear1.weight)


def key_is_query(module: Any) -> None:
    packed = module.layers[2].self_attn.in_proj_weight
    packed[WIDTH : 2 * WIDTH] = packed[:WIDTH]


def mean(module: Any) -> None:
    module.layers[0].linear1.weight += 0.01


def low_rank(module: Any) -> None:
    weight = module.layers[1].linear1.weight
    product = torch.randn(4 * WIDTH, 16) @ torch.randn(16, WIDTH)
    weight.copy_(product * weight.std() / product.std())


Q = "self_attn.in_proj_weight[q]"
PLANTED: list[tuple[Callable[[Any], None], str, tuple[str, ...]]] = [
    (doubled_q, "peers", (f"layers.2.{Q}",)),
    (no_norm, "norm_missing", ("layers.3.norm2",)),
    (two_norms, "norm_doubled", ("layers.1",)),
    (no_last_norm, "norm_missing", ("layers.3",)),
    (one_layer_twice, "shared", ("layers.1.linear1.weight", "layers.3.linear1.weight")),
    (bias, "value", ("layers.0.self_attn.in_proj_bias[k]",)),
    (half, "dtype", ("layers.1.linear1.weight", f"layers.1.{Q}")),
    (nan, "not_finite", ("layers.1.linear1.weight",)),
    (infinite, "not_finite", ("norm.bias",)),
    (dead, "dead", ("layers.2.linear2.weight",)),
    (constant, "constant", ("layers.2.linear2.weight",)),
    (bias_missing, "value", ("layers.2.linear1.bias",)),
    (copied_matrix, "equal_tensors", ("layers.0.linear1.weight", "layers.2.linear1.weight")),
    (key_is_query, "equal_tensors", (f"layers.2.{Q}", "layers.2.self_attn.in_proj_weight[k]")),
    (mean, "mean", ("layers.0.linear1.weight",)),
    (low_rank, "not_independent", ("layers.1.linear1.weight",)),
]


@pytest.mark.parametrize(
    ("plant", "kind", "names"), PLANTED, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_planted_fault_is_found_by_name(
    plant: Callable[[Any], None], kind: str, names: tuple[str, ...]
) -> None:
    module = encoder()
    with torch.no_grad():
        plant(module)
    kinds = found(check_initialization(module))
    assert set(kinds) == {kind} | ({"unread"} if kind == "not_finite" else set())
    assert set(names) <= set(kinds[kind])
    assert kind in ("shared", "dtype") or set(kinds[kind]) == set(names)


@pytest.mark.parametrize("pre", [True, False])
def test_an_encoder_drawn_layer_by_layer_has_no_fault(pre: bool) -> None:
    check = check_initialization(encoder(pre=pre))
    assert check.ok
    assert not check.notes
    assert check_initialization(encoder(pre=pre, seed=1), "torch").ok
    assert check_initialization(encoder(pre=pre).bfloat16(), "torch").ok


def test_every_layer_that_torch_clones_is_named_and_drawing_anew_repairs_it() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True)
    module: Any = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    check = check_initialization(module, "torch")
    assert set(found(check)) == {"cloned_layers"}
    assert "layers 1-3 are equal bit for bit: torch.nn.TransformerEncoder" in message(check, "cloned_layers")
    for part in module.layers[1:]:
        part.self_attn._reset_parameters()
        for linear in (part.self_attn.out_proj, part.linear1, part.linear2):
            linear.reset_parameters()
            if linear is part.self_attn.out_proj:
                nn.init.zeros_(linear.bias)
    assert check_initialization(module, "torch").ok


def test_copies_count_as_one_draw_and_share_the_blame() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True)
    module = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    once = check_initialization(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), "xavier_uniform")
    check = check_initialization(module, "xavier_uniform")
    assert check.tests == once.tests
    assert len(found(check)["variance"]) == 3 * len(found(once)["variance"])


def test_biases_that_torch_transformer_leaves_copied_are_named() -> None:
    torch.manual_seed(0)
    module = nn.Transformer(WIDTH, 4, 2, 3, 4 * WIDTH, batch_first=True)
    kinds = found(check_initialization(module, "torch_transformer"))
    assert set(kinds) == {"equal_tensors"}
    assert all(name.endswith(("linear1.bias", "linear2.bias")) for name in kinds["equal_tensors"])
    assert len(kinds["equal_tensors"]) == 2 * 2 + 2 * 3


@pytest.mark.parametrize("odd", [0, 3])
def test_one_doubled_layer_at_either_end_is_no_schedule(odd: int) -> None:
    module = encoder()
    with torch.no_grad():
        module.layers[odd].linear1.weight *= 2**0.5
    check = check_initialization(module)
    assert found(check) == {"peers": (f"layers.{odd}.linear1.weight",)}
    assert "times that of the other 3 layers" in message(check, "peers")


@pytest.mark.parametrize("schedule", [lambda k: 1 / (2 * k), lambda k: 0.7**k, lambda k: 1 + 0.3 * k])
def test_a_smooth_schedule_is_a_note(schedule: Callable[[int], float]) -> None:
    module = encoder(6)
    with torch.no_grad():
        for number, layer in enumerate(module.layers, start=1):
            layer.linear2.weight *= schedule(number) ** 0.5
    check = check_initialization(module)
    assert check.ok
    assert [note.kind for note in check.notes] == ["depth_scaled"]
    against = check_initialization(module, "torch")
    assert len(found(against)["variance"]) == 6
    assert "smoothly with the layer" in message(against, "variance")


def test_what_is_neither_a_schedule_nor_a_majority_names_all() -> None:
    module, pair = encoder(6), encoder(2)
    with torch.no_grad():
        for layer in module.layers[3:]:
            layer.linear2.weight *= 2
        pair.layers[1].linear2.weight *= 2
    assert len(found(check_initialization(module))["peers"]) == 6
    check = check_initialization(pair)
    assert len(found(check)["peers"]) == 2
    assert "of two layers nobody can say which one is right" in message(check, "peers")


def test_tied_tables_are_a_note() -> None:
    model = nn.Sequential(nn.Embedding(50, WIDTH), encoder(2), nn.Linear(WIDTH, 50, bias=False))
    model[2].weight = model[0].weight
    check = check_initialization(model, batch=torch.arange(8)[None])
    assert check.ok
    assert message(check, "tied") == "0.weight and 2.weight are one tensor"


def test_tensors_without_numbers_are_named_before_anything_is_read() -> None:
    module = encoder()
    module.layers[0].linear1.to("meta")
    kinds = found(check_initialization(module, "torch"))
    assert kinds["meta"] == ("layers.0.linear1.weight", "layers.0.linear1.bias")
    with torch.no_grad():
        module.layers[2].linear1.weight[0, 0] = float("nan")
        module.layers[1].linear2.weight *= 3
    check = check_initialization(module, "torch")
    assert set(found(check)) == {"meta", "not_finite", "peers", "unread"}
    assert found(check)["peers"] == ("layers.1.linear2.weight",)
    assert "nothing was compared with torch" in message(check, "unread")


class Odd(nn.Module):
    """Layers that no reader understands."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).cumsum(1).sort(-1).values
        return x


def test_what_is_not_understood_is_checked_by_the_names_of_its_tensors() -> None:
    torch.manual_seed(0)
    module = Odd()
    x = torch.randn(2, 3, WIDTH)
    assert set(found(check_initialization(module, batch=x))) == {"unread"}
    with torch.no_grad():
        module.get_parameter("layers.2.weight").mul_(2)
    check = check_initialization(module, "torch", batch=x)
    assert found(check)["peers"] == ("layers.2.weight",)
    assert check.df.set_index("name").layer["layers.2.weight"] == 3


def test_bad_input_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'deepnorm'"):
        check_initialization(encoder(1), "deepnrom")
    module = encoder(1)

    def refuses(error: Exception) -> None:
        def read(*_: object) -> None:
            raise error

        monkeypatch.setattr("empirical.readers.read_module", read)

    refuses(InputError("batch has 3 axes"))
    with pytest.raises(InputError, match="3 axes"):
        check_initialization(module, batch=torch.ones(1))
    refuses(RuntimeError("in somebody's forward pass"))
    with pytest.raises(RuntimeError):
        check_initialization(module)
    refuses(UnsupportedModuleError("layers.0", "unheard of"))
    assert check_initialization(module).findings[0].names == ("layers.0",)


def test_a_scheme_may_be_a_value() -> None:
    arch = mf.pre_ln(width=WIDTH, depth=2, heads=2, init="mup")
    law = initialization("mup", Sizes(WIDTH, WIDTH, 4 * WIDTH, 2, 2))
    assert check_own(arch, law).ok
    assert not check_own(mf.pre_ln(width=WIDTH, depth=2, heads=2, init="bert"), law).ok


def test_every_kind_is_described() -> None:
    assert not set(FAULTS) & set(NOTES)
    assert {kind for _, kind, _ in PLANTED} <= set(FAULTS)


def test_checking_changes_nothing() -> None:
    module = encoder(2).train()
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    state = torch.get_rng_state()
    check_initialization(module, "torch")
    assert torch.equal(state, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.named_parameters())
    assert all(np.isfinite(check_initialization(module, "torch").df.variance_hat))


def test_a_table_of_zeros_that_is_added_is_a_note_and_one_of_tokens_a_fault() -> None:
    arch = mf.pre_ln(width=32, depth=2, heads=2, vocab=30, positions=8)
    for module, kind in (("position", "zero_table"), ("embedding", "dead")):
        model = empirical.build(arch)
        next(p.tensor for p in named_parameters(model) if p.key.module == module).detach().zero_()
        check = check_initialization(model, reading=own_reading(arch, model))
        assert [said.kind for said in (*check.findings, *check.notes)] == [kind]


def test_what_the_output_does_not_depend_on_is_a_note() -> None:
    module = encoder(2)
    module.layers[1].spare = nn.Linear(4, 4)
    check = check_initialization(module)
    assert check.ok
    assert [(note.kind, note.names[0]) for note in check.notes] == [("unused", "layers.1.spare.weight")]


def test_quantised_tensors_are_left_out_and_named() -> None:
    module = encoder(2)
    module.register_parameter("packed", nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False))
    assert "skipped" in {note.kind for note in check_initialization(module).notes}
