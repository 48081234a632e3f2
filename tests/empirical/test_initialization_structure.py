"""Layers beside each other and beside a scheme's placement: norms, factors, patterns that are no fault."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

import empirical
import meanfield as mf
from empirical.initialization import InitializationCheck, check_initialization
from empirical.initialization.features import NORM, SKIP, features
from meanfield.ops import FeedForward, Norm, Op, Repeat, Residual, Sequential, Transformer
from tests.empirical.initialization_models import WIDTH, check_own, encoder, found, message, own_reading

DEPTH = 6
SIZES: dict[str, Any] = {"width": 32, "depth": DEPTH, "heads": 2}
Change = Callable[[list[Op]], list[Op]]


def changed(arch: Transformer, changes: dict[int, Change]) -> Transformer:
    """An architecture whose layers of these numbers are others."""
    runs = []
    for layer, block in arch.blocks():
        ops = changes[layer](list(block.ops)) if layer in changes else list(block.ops)
        runs.append(Repeat(Sequential(tuple(ops)), 1))
    return replace(arch, layers=tuple(runs))


def check(arch: Transformer, scheme: str | None = None) -> InitializationCheck:
    return check_own(arch, scheme)


def without_first_norm(ops: list[Op]) -> list[Op]:
    return [op for op in ops if not (isinstance(op, Norm) and op.name == "norm1")]


def doubled_norm(ops: list[Op]) -> list[Op]:
    return [*ops, replace(next(op for op in ops if isinstance(op, Norm)), name="norm9")]


def tanh(ops: list[Op]) -> list[Op]:
    def other(op: Op) -> Op:
        if isinstance(op, FeedForward):
            return replace(op, activation="tanh")
        return replace(op, branch=other(op.branch)) if isinstance(op, Residual) else op

    return [other(op) for op in ops]


def scaled(factor: float) -> Change:
    def change(ops: list[Op]) -> list[Op]:
        return [replace(op, skip_scale=factor) if isinstance(op, Residual) else op for op in ops]

    return change


@pytest.mark.parametrize("preset", mf.presets().name)
def test_layers_of_a_preset_do_not_differ_by_fault(preset: str) -> None:
    options = SIZES if not preset.startswith("paper") else {"width": 32, "depth": DEPTH}
    arch = getattr(mf, preset)(**options)
    assert check(arch).ok


@pytest.mark.parametrize("layer", [1, 4, DEPTH])
@pytest.mark.parametrize("scheme", [None, "deepnorm"])
def test_a_norm_that_one_layer_lacks_or_has_twice_is_found(layer: int, scheme: str | None) -> None:
    right = mf.deepnorm(**SIZES)
    missing = check(changed(right, {layer: without_first_norm}), scheme)
    assert {finding.kind for finding in missing.findings} == {"norm_missing"}
    assert f"layer {layer} (layers.{layer - 1}" in message(missing, "norm_missing")
    assert "no norm behind the sum with attention" in message(missing, "norm_missing")
    doubled = check(changed(right, {layer: doubled_norm}), scheme)
    assert [finding.kind for finding in doubled.findings] == ["norm_doubled"]
    assert "2 norms in a row behind the sum with ffn" in message(doubled, "norm_doubled")


@pytest.mark.parametrize("odd", [1, 2])
def test_of_two_layers_the_one_without_the_norm_is_named(odd: int) -> None:
    arch = mf.post_ln(width=32, depth=2, heads=2)
    assert f"layer {odd} " in message(check(changed(arch, {odd: without_first_norm})), "norm_missing")
    assert f"layer {odd} " in message(check(changed(arch, {odd: doubled_norm})), "norm_doubled")


def test_a_layer_that_computes_something_else_is_found() -> None:
    arch = mf.post_ln(**SIZES)
    other = check(changed(arch, {3: tanh}))
    assert found(other) == {"layer_differs": ("layers.2.parts",)}
    assert "ffn activation is tanh, most layers have relu" in message(other, "layer_differs")
    factor = check(changed(arch, {3: scaled(1.5)}))
    assert set(found(factor)) == {"layer_differs"}
    assert "1.5 on the skip, 1 on the branch, most layers have 1 on the skip" in message(
        factor, "layer_differs"
    )


def test_a_layer_without_feed_forward_op_says_that_alone() -> None:
    arch = mf.pre_ln(**SIZES)
    lone = check(changed(arch, {2: lambda ops: ops[:1]}))
    assert len(lone.findings) == 1
    assert "ffn is absent" in message(lone, "layer_differs")


def test_runs_and_periods_are_notes() -> None:
    assert "layers 1-2 of 8 differ" in message(check(mf.mix_ln(width=32, depth=8, heads=2)), "layers_vary")
    assert check(mf.mix_ln(width=32, depth=8, heads=2)).ok
    assert "layers 1 of 6 differ" in message(check(mf.mix_ln(**SIZES)), "layers_vary")
    windows = check(mf.pre_ln(**SIZES, window=(4, None)))
    assert windows.ok
    assert "attention window" in message(windows, "layers_vary")
    assert check(mf.admin(**SIZES)).ok
    assert "skip connection" in message(check(mf.admin(**SIZES)), "layers_vary")
    # Norms that are missing in a period are a fault.
    both = changed(mf.post_ln(**SIZES), {2: without_first_norm, 5: without_first_norm})
    assert len(check(both).findings) == 2


def test_a_placement_that_is_not_the_schemes_is_named_once() -> None:
    text = check(mf.pre_ln(**SIZES, init="deepnorm"), "deepnorm")
    assert set(found(text)) == {"norm_missing", "norm_extra", "skip_scale"}
    places = "behind the sum with attention and behind the sum with ffn"
    assert message(text, "norm_missing") == f"layers 1-6, {places}: no norm, deepnorm has 1 there"
    inner = check(mf.pre_ln(**SIZES, init="sub_ln"), "sub_ln")
    assert set(found(inner)) == {"norm_missing"}
    assert "inside attention and inside ffn" in message(inner, "norm_missing")
    assert set(found(check(mf.pre_ln(**SIZES, init="t_fixup"), "t_fixup"))) == {"norm_extra"}


def test_the_norm_after_the_last_layer() -> None:
    bare = check(mf.pre_ln(**SIZES, final_norm=False))
    assert found(bare) == {"norm_missing": ("layers.5.parts",)}
    assert "norms stand inside the branches" in message(bare, "norm_missing")
    twice = check(mf.post_ln(**SIZES, final_norm=True))
    assert twice.ok
    assert twice.notes[0].names == ("final_norm.weight", "final_norm.bias")
    assert check(mf.t_fixup(**SIZES)).ok  # no norm at all is a placement of its own


def test_features_place_norms_by_what_stands_beside_them() -> None:
    def norms(preset: Callable[..., Transformer], **options: Any) -> list[str]:
        block = preset(**SIZES, **options).layers[0].block
        return [name.removeprefix(NORM) for name in features(block) if name.startswith(NORM)]

    assert norms(mf.sandwich_ln) == ["before attention", "behind attention", "before ffn", "behind ffn"]
    assert norms(mf.sub_ln) == ["before attention", "inside attention", "before ffn", "inside ffn"]
    assert norms(mf.residual) == ["behind the sum with attention", "behind the sum with ffn"]
    assert norms(mf.qk_norm)[1:3] == ["on query of attention", "on key of attention"]
    assert norms(mf.parallel) == ["before attention and ffn"]
    assert norms(mf.parallel, parallel="two_norms") == ["before attention", "before ffn"]
    block = mf.deepnorm(width=32, depth=8, heads=2).layers[0].block
    assert features(block)[f"{SKIP}ffn"] == (pytest.approx(2), 1.0)


def test_a_layer_that_a_loop_uses_again_is_found_by_its_places() -> None:
    arch = mf.post_ln(**SIZES)
    model: Any = empirical.build(arch)
    reading = own_reading(arch, model)
    first = {slot.key[1:]: slot for slot in reading.slots if slot.key.layer == 1}
    slots = tuple(
        replace(first[slot.key[1:]], key=slot.key) if slot.key.layer == 3 else slot for slot in reading.slots
    )
    model.layers[2] = nn.Identity()
    kinds = found(check_initialization(model, reading=replace(reading, slots=slots)))
    assert set(kinds) == {"shared"}
    assert set(kinds["shared"]) == {slot.name for slot in first.values()}


NORMS = [nn.Identity(), nn.Sequential(nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))]


@pytest.mark.parametrize("norm", NORMS, ids=["missing", "doubled"])
@pytest.mark.parametrize("pre", [True, False])
def test_a_fault_in_any_norm_of_a_torch_encoder_is_found_where_it_is(pre: bool, norm: nn.Module) -> None:
    kind = "norm_missing" if isinstance(norm, nn.Identity) else "norm_doubled"
    for layer in (0, 1, 2):
        for name in ("norm1", "norm2"):
            module = encoder(3, pre=pre)
            setattr(module.layers[layer], name, norm)
            exact = f"layers.{layer}.{name}" if kind == "norm_missing" else f"layers.{layer}"
            assert found(check_initialization(module)) == {kind: (exact,)}


def test_a_first_layer_behind_a_norm_needs_none_of_its_own() -> None:
    def first(ops: list[Op]) -> list[Op]:
        residual, *rest = ops
        assert isinstance(residual, Residual)
        assert isinstance(residual.branch, Sequential)
        return [replace(residual, branch=residual.branch.ops[-1]), *rest]

    bare = changed(mf.pre_ln(**SIZES, vocab=20), {1: first})
    assert set(found(check(bare))) == {"norm_missing"}
    normed = changed(mf.pre_ln(**SIZES, vocab=20, embedding_norm=True), {1: first})
    assert check(normed).ok
    assert set(found(check(changed(mf.pre_ln(**SIZES, vocab=20, embedding_norm=True), {2: first})))) == {
        "norm_missing"
    }


def test_one_layer_without_a_window_is_a_note() -> None:
    mixed = check(mf.pre_ln(**SIZES, window=(4, 4, 4, 4, 4, None)))
    assert mixed.ok
    assert "layers 6 of 6 differ from the others in: attention window" in message(mixed, "layers_vary")


def test_a_last_norm_for_another_output_is_a_note() -> None:
    module = encoder(3)
    module.norm, module.pooled = None, nn.LayerNorm(WIDTH)
    said = check_initialization(module)
    assert said.ok
    assert "pooled.weight is for another output" in message(said, "last_norm")
