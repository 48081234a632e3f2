"""Audits of this project's own models agree; planted faults and bad input are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meanfield as mf
from empirical.audit import Audit
from empirical.audit.audit import COLUMNS, audited
from empirical.audit.predict import predict_reading
from empirical.audit.statistics import DISAGREES, UNPREDICTED, ZERO, compare
from empirical.readers import Reading
from meanfield.errors import InputError, UnknownNameError
from meanfield.ops import Draw
from tests.empirical.own_models import Masked, builder, ids, reader, vectors

VOCAB, WIDTH = 100, 32
PRE = mf.pre_ln(width=WIDTH, depth=2, heads=2, activation="gelu", init="xavier_normal", vocab=VOCAB)
POST = mf.post_ln(width=WIDTH, depth=2, heads=2, init="xavier_normal", causal=True, vocab=VOCAB, tied=True)
SHALLOW = dataclasses.replace(PRE, layers=(dataclasses.replace(PRE.layers[0], times=1),))
ALONE = mf.pre_ln(width=WIDTH, depth=1, heads=2)
IDS = ids(2, 6, VOCAB)


def run(arch: Any, batch: Any = IDS, change: Any = None, read: Any = None, **options: Any) -> Audit:
    options = {"seeds": range(64), "samples": 128, "tolerance": 0.05, **options}
    return audited(builder(arch, change), batch, read or reader(arch), **options)


@pytest.fixture(scope="module")
def pre() -> Audit:
    return run(PRE)


@pytest.mark.statistical
def test_the_theory_agrees_with_pre_ln(pre: Audit) -> None:
    assert pre.agrees, pre.worst
    assert list(pre.df.columns) == COLUMNS
    assert pre.score.disagree == 0
    assert pre.score.within >= pre.score.tensors - 1  # 0.1 beyond 3 standard errors are expected
    assert pre.score.zeros == 2  # the key biases
    assert 0.92 < pre.score.coverage < 0.98
    assert pre.values.shape == (64, len(pre.df))
    assert pre.configuration["module"] == "Masked"
    assert pre.configuration["seeds"] == 64
    first = pre.df.iloc[0]
    assert tuple(first[["parameter", "layer", "module", "role"]]) == (
        "model.embeddings.token.weight", 0, "embedding", "weight",
    )  # fmt: skip


@pytest.mark.statistical
@pytest.mark.parametrize("loss", ["linear", "mse", "cross_entropy"])
def test_the_theory_agrees_with_a_tied_head_under_every_loss(loss: str) -> None:
    found = run(POST, loss=loss)
    assert found.agrees, found.worst
    shared = found.df[found.df.module == "embedding"]
    assert len(shared) == 1
    assert "head" not in set(found.df.module)
    assert not any("without gradient" in note for note in found.notes)


def test_a_head_without_gradient_is_named(pre: Audit) -> None:
    assert pre.notes == ("without gradient under this loss, hence not compared: model.head.linear.weight",)
    assert "model.head.linear.weight" not in set(pre.df.parameter)
    why = pre.prediction.unpredicted["model.head.linear.weight"]
    assert why == "no gradient: loss='linear' is on the hidden states below the head"


@pytest.mark.statistical
def test_padding_is_seen_by_both() -> None:
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, 3:] = False
    found = run(PRE, {"x": IDS, "real": real})
    assert found.agrees, found.worst
    whole = predict_reading(reader(PRE)(builder(PRE)(0), IDS), samples=128)
    assert (compare(whole.df, found.values, 0.05).flag == DISAGREES).any()


def other_draw(arch: mf.Transformer, factor: float) -> mf.Transformer:
    """The architecture with one variance wrong: that of the up-projection."""
    (layers,) = arch.layers
    first, second = layers.block.ops
    residual: Any = second
    norm, ffn = residual.branch.ops
    law = Draw(factor * float(ffn.up.weight.variance))
    wrong = dataclasses.replace(ffn, up=dataclasses.replace(ffn.up, weight=law))
    branch = dataclasses.replace(residual.branch, ops=(norm, wrong))
    block = dataclasses.replace(layers.block, ops=(first, dataclasses.replace(residual, branch=branch)))
    return dataclasses.replace(arch, layers=(dataclasses.replace(layers, block=block),))


@pytest.mark.statistical
@pytest.mark.parametrize("factor", [pytest.param(0.85, marks=pytest.mark.slow), 1.15])
def test_a_variance_that_is_read_fifteen_per_cent_wrong_is_rejected(factor: float) -> None:
    # A standard error of 2 %: a tensor that follows the variance is further off than chance takes the worst.
    wrong = run(SHALLOW, read=reader(other_draw(SHALLOW, factor)), seeds=range(400), samples=400)
    assert not wrong.agrees
    assert "model.layers.0.parts.1.branch.parts.1.down.weight" in set(wrong.worst.parameter)


@pytest.mark.statistical
def test_a_layer_that_is_scaled_in_the_module_is_found_by_name() -> None:
    def scale(model: Any) -> None:
        model.layers[1].parts[1].branch.parts[1].down.weight.data *= 1.5

    found = run(PRE, change=scale)
    assert not found.agrees
    assert "layers.1.parts.1.branch.parts.1.up" in found.worst.parameter.iloc[0]
    assert found.worst.ratio.iloc[0] == pytest.approx(1.5**2, rel=0.25)


@pytest.mark.statistical
def test_vectors_of_the_batch_have_one_gram_matrix_in_all_seeds() -> None:
    # Of Gaussian ones, 28 tokens of width 32, the gradients of queries and keys are 14 % larger.
    batch, seeds = vectors(2, 14, WIDTH), range(500)
    found = run(ALONE, batch, seeds=seeds, samples=1000)
    assert found.agrees, found.worst
    gaussian = predict_reading(reader(ALONE)(builder(ALONE)(0), batch), samples=1000, fixed=False)
    drawn = compare(gaussian.df, found.values, 0.05)
    assert set(drawn.module[drawn.flag == DISAGREES]) >= {"attention.q", "attention.k"}


def test_a_tensor_that_the_reader_has_not_found_is_listed_and_not_judged() -> None:
    def read(module: nn.Module, batch: Any) -> Reading:
        whole = reader(ALONE)(module, batch)
        return dataclasses.replace(whole, slots=whole.slots[1:])

    found = run(ALONE, vectors(1, 2, WIDTH), read=read, seeds=range(4), tolerance=0.9)
    row = found.df[found.df.flag == UNPREDICTED].iloc[0]
    assert row.grad_sq_hat > 0
    assert found.agrees
    assert found.notes == (
        f"{row.parameter} is measured and not predicted: the reader has not found where it acts",
    )


def test_numbers_are_the_same_again_and_the_modules_mode_and_the_generator_are_kept() -> None:
    built = []

    def build(seed: int) -> nn.Module:
        module = builder(ALONE)(seed)
        built.append(module)
        return module

    state = torch.get_rng_state()
    batch = vectors(1, 3, WIDTH)
    options: dict[str, Any] = {"seeds": (3, 1), "samples": 4, "tolerance": 0.9}
    one = audited(build, batch, reader(ALONE), **options)
    two = audited(build, batch, reader(ALONE), **options)
    assert np.array_equal(one.values, two.values)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in built)
    assert all(parameter.grad is None for module in built for parameter in module.parameters())


def test_precision_can_be_chosen() -> None:
    single, half, double = (
        run(ALONE, vectors(1, 3, WIDTH), seeds=range(3), samples=4, dtype=dtype, tolerance=0.9)
        for dtype in ("float32", "bfloat16", "float64")
    )
    assert double.configuration["dtype"] == "float64"
    assert half.values == pytest.approx(single.values, rel=0.2, abs=1e-4)
    for found in (single, half, double):
        zeros = found.df[found.df.flag == ZERO]
        assert zeros[["module", "role"]].to_numpy().tolist() == [["attention.k", "bias"]]


def test_progress_counts_seeds_and_samples() -> None:
    done: list[int] = []
    run(ALONE, vectors(1, 2, WIDTH), seeds=range(3), samples=5, tolerance=0.9, progress=done.append)
    assert sum(done) == 8


class Part(nn.Module):
    """A masked model with something wrong in its forward pass."""

    def __init__(self, seed: int, wrong: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.wrong = builder(ALONE)(seed), wrong
        self.model = self.inner.model

    def forward(self, x: Tensor) -> Tensor:
        return self.wrong(self.inner(x))


def forward_with(wrong: Callable[[Tensor], Tensor]) -> Callable[[int], nn.Module]:
    return lambda seed: Part(seed, wrong)


def frozen(seed: int) -> nn.Module:
    return builder(ALONE)(seed).requires_grad_(False)


def on_meta(seed: int) -> nn.Module:
    return builder(ALONE)(seed).to("meta")


def of_another_size(seed: int) -> nn.Module:
    return builder(mf.pre_ln(width=WIDTH, depth=1 + seed, heads=2))(seed)


def poisoned(seed: int) -> nn.Module:
    module = builder(ALONE)(seed)
    if seed == 1:
        next(module.parameters()).data[0] = float("nan")
    return module


def fails(seed: int) -> nn.Module:
    raise RuntimeError("no such file\nor folder")


SAME = builder(ALONE)(0)
BATCH = vectors(1, 3, WIDTH)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (frozen, "no parameter requires a gradient: give"),
        (on_meta, "weights on the meta device have no values"),
        (lambda seed: SAME, r"build\(seed\) gives the same module again"),
        (lambda seed: builder(ALONE)(7), r"build\(0\) and build\(1\) have the same weights"),
        (of_another_size, r"build\(1\) has other parameters than the module before"),
        (lambda seed: "a module", "str is no torch.nn.Module"),
        (lambda seed: nn.ReLU(), "ReLU has no parameters"),
        (fails, r"build\(0\) fails \(RuntimeError: no such file\)"),
        (poisoned, "the loss is nan for seed 1"),
        (forward_with(lambda y: y + torch.rand_like(y)), "Part draws random numbers in its forward pass"),
        (forward_with(lambda y: y / 0), "the loss is nan for seed 0"),
        (forward_with(lambda y: y.detach()), "the loss does not depend on any parameter"),
        (forward_with(lambda y: y[:, :2]), r"shape \(1, 2, 32\) and 1 x 3 tokens of size 32 were read"),
        (forward_with(lambda y: y @ y), r"Part cannot run on this batch \(RuntimeError: "),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_audited_are_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        audited(build, BATCH, reader(ALONE), seeds=range(3), samples=2)
    assert "\n" not in str(refusal.value)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            return gradients[0] * float("inf")

    with pytest.raises(InputError, match=r"the gradient of .* is (nan|inf) for seed 0"):
        audited(forward_with(Explodes.apply), BATCH, reader(ALONE), seeds=range(3), samples=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [0]}, r"seeds=\[0\] gives no standard error"),
        ({"seeds": [0, 0]}, "seed=0 is given more than once"),
        ({"samples": 1}, "samples=1 gives no error bars"),
        ({"tolerance": 2}, "tolerance=2 is no share"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"loss": "liner"}, "did you mean 'linear'"),
        ({"loss": "cross_entropy"}, "needs an output head"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        audited(builder(ALONE), BATCH, reader(ALONE), **{"seeds": range(2), "samples": 2, **options})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (None, "batch is NoneType: give a tensor"),
        ("text", "batch is str: give a tensor"),
        ([], "batch is list: give a tensor"),
        ([1, 2], r"batch\[0\] is int: give tensors alone"),
        ({"x": BATCH, "labels": IDS}, "the batch has 'labels'"),
        (torch.zeros(1, 3, WIDTH, device="meta"), r"batch\[0\] is on the meta device"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audited(builder(ALONE), batch, reader(ALONE), seeds=range(2), samples=2)


def test_weights_that_depend_on_each_other_are_refused_before_anything_is_measured() -> None:
    def read(module: nn.Module, batch: Any) -> Reading:
        return dataclasses.replace(
            reader(ALONE)(module, batch), dependent=("layers 1 and 2 are equal", "more")
        )

    with pytest.raises(
        InputError, match=r"the theory does not hold: layers 1 and 2 are equal \(and 1 more\)"
    ):
        run(ALONE, BATCH, read=read)


def test_a_prediction_is_a_mapping_by_the_modules_own_names() -> None:
    module = Masked(builder(PRE)(0).model)
    found = predict_reading(reader(PRE)(module, IDS), samples=8)
    names = [name for name, _ in module.named_parameters() if "head" not in name]
    assert sorted(found) == sorted(names)
    assert list(found) == list(found.df.parameter)
    assert found["model.final_norm.bias"] == found.df.grad_sq.iloc[-1] > 0
    assert {"grad_sq_se", "grad_sq_sd", "grad_sq_low", "grad_sq_high", "grad_sq_limit"} <= set(found.df)
    limit = predict_reading(reader(PRE)(module, IDS), samples=0)
    assert list(limit.df.grad_sq) == list(found.df.grad_sq_limit)
    with pytest.raises(KeyError):
        found["no such tensor"]
