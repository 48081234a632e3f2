"""Measured gradients and moments against finite differences, direct sums and exact values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import meanfield as mf
from empirical import Measurement, build, draws, measure, token_norms
from empirical.build import Architecture
from empirical.inputs import Inputs
from empirical.losses import LOSSES
from empirical.names import Model, dropouts, named_parameters, open_streams
from empirical.probe import MOMENTS, one_thread, recorded
from empirical.setting import KEYS
from meanfield.errors import InputError, UnknownNameError
from meanfield.initialization import Sizes, initialization
from meanfield.ops import Draw
from meanfield.random import stream
from tests.empirical import every_op

SMALL: dict[str, Architecture] = {
    "post": mf.post_ln(width=4, depth=1, heads=2, d_ff=3, activation="gelu", init="torch", vocab=3),
    "pre": mf.pre_ln(
        width=4, depth=1, heads=2, kv_heads=1, d_ff=3, norm="rmsnorm", activation="gelu", causal=True
    ),
    "uniform": mf.post_ln(width=4, depth=1, heads=2, d_ff=3, attention="uniform", activation="gelu"),
    "seq2seq": mf.paper_encoder_decoder(width=4, depth=1, heads=2, d_ff=3, vocab=3, activation="gelu"),
    "one stream": every_op.one_stream(),
    "two streams": every_op.two_streams(),
}


def loss_at(arch: Architecture, model: Model, seed: int, loss: str) -> Callable[[], torch.Tensor]:
    """The loss that a measurement with 3 tokens and 2 sequences has at a seed, as a function."""
    inputs = Inputs(arch, seed, next(model.parameters())).draw(2, 3)

    def value() -> torch.Tensor:
        open_streams(dropouts(model), seed)
        return LOSSES[loss](model.hidden(*inputs), model.head, stream(seed, "target"), 0.0)

    return value


def by_finite_differences(arch: Architecture, seed: int, loss: str, step: float = 1e-5) -> dict[Any, float]:
    model = build(arch, seed=seed, dtype="float64")
    value = loss_at(arch, model, seed, loss)
    squares = {}
    with torch.no_grad(), one_thread():
        for parameter in named_parameters(model):
            entries, total = parameter.tensor.view(-1), 0.0
            for i, entry in enumerate(entries.tolist()):
                entries[i] = entry + step
                above = value()
                entries[i] = entry - step
                below = value()
                entries[i] = entry
                total += float((above - below) / (2 * step)) ** 2
            squares[parameter.key] = total
    return squares


def agree(measured: "pd.Series[float]", expected: "pd.Series[float]") -> bool:
    # Central differences: a truncation of step^2 and a rounding of 1e-16 / step, for gradients near 1.
    return bool(np.allclose(measured, expected, rtol=1e-6, atol=1e-14))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("post", "cross_entropy"),
        ("pre", "linear"),
        ("pre", "mse"),
        ("uniform", "linear"),
        ("seq2seq", "cross_entropy"),
        ("one stream", "cross_entropy"),
        ("two streams", "mse"),
    ],
)
def test_gradients_are_finite_differences(name: str, loss: str) -> None:
    arch = SMALL[name]
    table = measure(arch, tokens=3, batch=2, seeds=[7], loss=loss, dtype="float64").df
    measured = table.set_index(["layer", "module", "parameter"])["grad_sq_hat"]
    expected = pd.Series(by_finite_differences(arch, 7, loss)).reindex(measured.index)
    assert expected.notna().all()
    assert agree(measured, expected)
    assert not agree(1.05 * measured, expected)
    assert not agree(measured, expected[::-1])


@pytest.mark.parametrize(("name", "loss"), [("post", "cross_entropy"), ("pre", "linear")])
def test_moments_are_averages_over_pairs(name: str, loss: str) -> None:
    arch, batch, tokens, d = SMALL[name], 2, 3, 4
    table = measure(arch, tokens=tokens, batch=batch, seeds=[4], loss=loss, dtype="float64").activations
    model = build(arch, seed=4, dtype="float64")
    with recorded(model) as outputs:
        value = loss_at(arch, model, 4, loss)()
        gradients = torch.autograd.grad(value, list(outputs.values()))
    same_sequence = torch.eye(batch).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).bool()
    same_token = torch.eye(batch * tokens).bool()
    masks = {"q": same_token, "cov": same_sequence & ~same_token, "cov_across": ~same_sequence}
    assert list(outputs) == list(zip(table.layer, table.module, table.parameter, strict=True))
    for row, (x, g) in zip(
        table.to_dict("records"), zip(outputs.values(), gradients, strict=True), strict=True
    ):
        for suffix, y, per in (("", x, d), ("_grad", g, 1)):
            gram = (y.flatten(0, 1) @ y.flatten(0, 1).T / per).detach()
            for moment, mask in masks.items():
                column = moment.replace("_across", f"{suffix}_across") if "_" in moment else moment + suffix
                expected = float(gram[mask].mean())
                scale = float(gram[same_token].mean())
                assert row[f"{column}_hat"] == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale)


def test_order_of_points_is_that_of_computation() -> None:
    def modules(arch: Architecture) -> list[str]:
        return list(measure(arch, tokens=2, seeds=[0]).activations["module"])

    post = ["input", "attention", "residual1", "norm1", "ffn", "residual2", "norm2"]
    pre = ["input", "norm1", "attention", "residual1", "norm2", "ffn", "residual2", "final_norm"]
    assert modules(mf.paper_post_ln(width=8, depth=1)) == post
    assert modules(mf.paper_pre_ln(width=8, depth=1)) == pre


@pytest.mark.parametrize(
    ("name", "loss"),
    [("post", "cross_entropy"), ("pre", "linear"), ("seq2seq", "linear"), ("one stream", "mse")],
)
def test_mean_gradient_of_minibatches_is_the_gradient_of_their_union(name: str, loss: str) -> None:
    shared: dict[str, Any] = {"tokens": 3, "seeds": range(2), "loss": loss, "dtype": "float64"}
    parts = measure(SMALL[name], batch=2, minibatches=3, **shared).samples
    whole = measure(SMALL[name], batch=6, **shared).samples
    gradients = parts["parameter"] != "activation"
    mean, union = (t.loc[gradients, "mean_grad_sq_hat"] for t in (parts, whole))
    assert np.allclose(mean, union, rtol=1e-9, atol=1e-25)
    assert np.allclose(union, whole.loc[gradients, "grad_sq_hat"])
    assert not np.allclose(parts.loc[gradients, "grad_sq_hat"], union, rtol=1e-2)


def test_seeds_measure_the_same_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = mf.pre_ln(width=32, depth=3, heads=2, vocab=50)
    options: dict[str, Any] = {"tokens": 5, "batch": 2, "loss": "cross_entropy", "minibatches": 2}
    together = measure(arch, seeds=[3, 1, 2], **options).samples
    monkeypatch.setattr(draws, "THREADS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        apart = [measure(arch, seeds=[seed], **options).samples for seed in (3, 1, 2)]
    finally:
        torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(together, pd.concat(apart, ignore_index=True), check_exact=True)


def test_tables_have_every_key_and_aggregate_over_seeds() -> None:
    measurement = measure(SMALL["seq2seq"], tokens=2, seeds=range(3), loss="cross_entropy")
    samples, table, activations = measurement.samples, measurement.df, measurement.activations
    notation = [
        "arch",
        "placement",
        "init",
        "activation",
        "width",
        "depth",
        "heads",
        "d_ff",
        "tokens",
        "batch",
    ]
    assert {*notation, "loss", "layer", "module", "parameter"} <= set(KEYS)
    for frame in (samples, table, activations):
        assert set(KEYS) <= set(frame.columns)
        assert frame[KEYS].notna().all(axis=None)
    assert not samples.duplicated([*KEYS, "seed"]).any()
    assert len(samples) == 3 * (len(table) + len(activations))
    one = samples[(samples.module == "decoder.head") & (samples.parameter == "weight")].grad_sq_hat
    row = table[(table.module == "decoder.head") & (table.parameter == "weight")].iloc[0]
    assert row.grad_sq_hat == pytest.approx(one.mean())
    assert row.grad_sq_hat_sd == pytest.approx(one.std(ddof=1))
    assert row.grad_sq_hat_se == pytest.approx(one.std(ddof=1) / 3**0.5)
    assert row.grad_norm_hat == pytest.approx(one.mean() ** 0.5)
    assert row.mean_norm_hat == pytest.approx((one**0.5).mean())
    assert activations[["cov_across_hat", "cov_grad_across_hat"]].isna().all(axis=None)  # one sequence
    alone = measure(SMALL["pre"], tokens=1, batch=2, seeds=[0]).activations
    assert alone["cov_hat"].isna().all()
    assert alone["cov_across_hat"].notna().all()


def test_norm_output_has_unit_second_moment() -> None:
    table = measure(
        mf.paper_post_ln(width=64, depth=3), tokens=4, seeds=range(2), dtype="float64"
    ).activations
    norms = table[table.module.isin(["norm1", "norm2"])]
    assert np.allclose(norms["q_hat"], 1, rtol=1e-12)
    assert not np.allclose(table[table.module == "residual2"]["q_hat"], 1, rtol=0.1)


@pytest.mark.statistical
def test_last_ffn_gradient_of_a_lone_token_has_its_exact_value() -> None:
    """For n = 1 grad_sq of the last W2 is E||h||^2 E||g||^2 = (d/2)(2/3) q_grad(out), up to O(1/d)."""
    d, seeds = 256, 300
    measurement = measure(mf.paper_post_ln(width=d, depth=3), tokens=1, seeds=range(seeds))
    table, points = measurement.df, measurement.activations
    last = table[(table.layer == 3) & (table.module == "ffn.down") & (table.parameter == "weight")].iloc[0]
    out = points[(points.layer == 3) & (points.module == "norm2")].iloc[0]
    assert abs(out.q_grad_hat - 1) < 4 * out.q_grad_hat_se

    def holds(predicted: float) -> bool:
        return bool(abs(last.grad_sq_hat - predicted) <= 4 * last.grad_sq_hat_se + 7 / d * predicted)

    assert holds(d / 3)
    assert not holds(d / 2)  # the norm's factor 2/3 dropped


def test_bfloat16_follows_float32() -> None:
    arch = mf.paper_pre_ln(width=64, depth=2)
    coarse, fine = (measure(arch, tokens=4, seeds=range(2), dtype=t).df for t in ("bfloat16", "float32"))
    # bfloat16 has eight bits: 0.4 % a rounding, some tens of roundings deep
    assert np.allclose(coarse["grad_sq_hat"], fine["grad_sq_hat"], rtol=0.1)
    assert not np.allclose(coarse["grad_sq_hat"], fine["grad_sq_hat"], rtol=1e-6)


def test_progress_counts_seeds() -> None:
    counts: list[int] = []
    measure(mf.paper_post_ln(width=8, depth=1), tokens=2, seeds=range(3), progress=counts.append)
    assert sum(counts) == 3


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tokens": 0}, "tokens=0 is too small"),
    ({"batch": 1.5}, "batch=1.5 is not an integer"),
    ({"minibatches": -1}, "minibatches=-1 is too small"),
    ({"seeds": []}, "seeds is empty"),
    ({"seeds": 64}, r"seeds=64 is not a list of seeds: give several, such as range\(64\)"),
    ({"seeds": [1, 2, 1]}, "seed=1 is given more than once"),
    ({"seeds": [-1]}, "seed=-1 is not an integer of at least 0"),
    ({"seeds": [0.5]}, "seed=0.5 is not an integer"),
    ({"loss": "cross_entropy"}, "needs an output head and paper_post_ln has none"),
    ({"label_smoothing": 0.1}, "means nothing for loss='linear'"),
    ({"label_smoothing": float("nan")}, r"label_smoothing=nan is outside \[0, 1\)"),
    ({"loss": "cross_entropy", "label_smoothing": 1.0}, r"label_smoothing=1.0 is outside \[0, 1\)"),
    ({"loss": []}, r"unknown loss \[\]"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        measure(mf.paper_post_ln(width=8, depth=1), **options)
    assert "\n" not in str(error.value)


def test_unknown_loss_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        measure(mf.paper_post_ln(width=8, depth=1), loss="lineal")


@pytest.mark.parametrize("preset", [mf.paper_post_ln, mf.paper_pre_ln])
def test_layernorm_of_one_coordinate_is_refused(preset: Callable[..., Architecture]) -> None:
    for function in (measure, token_norms):
        with pytest.raises(InputError, match="width=1 is too small: LayerNorm needs at least 2 coordinates"):
            function(preset(width=1, depth=1), tokens=2, seeds=[0])
    assert measure(mf.pre_ln(width=1, depth=1, heads=1, norm="rmsnorm"), tokens=2, seeds=[0]).samples.size


def test_infinities_and_false_zeros_are_refused() -> None:
    law = initialization("lecun_normal", Sizes(8, 8, 8, 1))
    huge = mf.Initialization("huge", law.q, law.k, law.v, law.o, law.up, Draw(1e76), law.embedding, law.head)
    with pytest.raises(InputError, match=r"pre_ln at seed=3 .* not finite in float32"):
        measure(mf.pre_ln(width=8, depth=2, heads=1, d_ff=8, init=huge), tokens=2, seeds=[3])
    with pytest.raises(InputError, match=r"paper_post_ln at seed=0 .* too small for float32"):
        measure(mf.paper_post_ln(width=4, depth=600), tokens=2, seeds=[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_measures_what_the_processor_measures() -> None:
    cases = ("post", "cross_entropy"), ("pre", "linear"), ("seq2seq", "cross_entropy"), ("two streams", "mse")
    for name, loss in (*cases, ("one stream", "cross_entropy")):
        options: dict[str, Any] = {
            "tokens": 3,
            "batch": 2,
            "seeds": range(2),
            "loss": loss,
            "dtype": "float64",
        }
        host, cuda = (measure(SMALL[name], device=device, **options).samples for device in ("cpu", "cuda"))
        gradients = host["parameter"] != "activation"
        columns = ["grad_sq_hat", "mean_grad_sq_hat"]
        assert np.allclose(host.loc[gradients, columns], cuda.loc[gradients, columns], rtol=1e-8, atol=1e-20)


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        (mf.paper_pre_ln(width=16, depth=1_000), "float32"),
        pytest.param(mf.paper_pre_ln(width=16, depth=10_000), "float32", marks=pytest.mark.slow),
        pytest.param(mf.paper_post_ln(width=64, depth=10_000), "float64", marks=pytest.mark.slow),
    ],
    ids=["pre_ln of 1,000", "pre_ln of 10,000", "post_ln of 10,000"],
)
def test_very_many_layers_stay_in_range(arch: Architecture, dtype: str) -> None:
    measurement: Measurement = measure(arch, tokens=2, seeds=[0], dtype=dtype)
    assert (measurement.df["grad_sq_hat"] > 0).all()
    assert np.isfinite(measurement.activations[[m for m in MOMENTS if "across" not in m]]).all(axis=None)
