"""Losses: which parameters have a gradient, and gradients of known value."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import meanfield as mf
from empirical import build, measure
from empirical.inputs import Inputs
from meanfield.ops import ZEROS, Draw, Head, Linear, Transformer
from meanfield.random import stream
from tests.empirical import every_op

WITH_HEAD = mf.post_ln(width=4, depth=1, heads=2, d_ff=3, activation="gelu", init="torch", vocab=3)
TIED = every_op.one_stream()


@pytest.mark.parametrize("loss", ["linear", "mse"])
def test_losses_on_hidden_states_leave_the_head_out(loss: str) -> None:
    with_head = measure(WITH_HEAD, tokens=2, seeds=[0], loss=loss).samples
    assert "head" not in set(with_head["module"])
    headless = dataclasses.replace(WITH_HEAD, head=None)
    pd.testing.assert_frame_equal(with_head, measure(headless, tokens=2, seeds=[0], loss=loss).samples)
    parameters = measure(TIED, tokens=2, seeds=[0], loss=loss).df
    assert (parameters["module"] == "embedding").sum() == 1
    untied = measure(dataclasses.replace(TIED, head=None), tokens=2, seeds=[0], loss=loss).df
    pd.testing.assert_frame_equal(parameters, untied)
    through_head = measure(TIED, tokens=2, seeds=[0], loss="cross_entropy").df
    assert not np.allclose(through_head["grad_sq_hat"], parameters["grad_sq_hat"], rtol=0.01)


def test_mean_square_error_behind_a_norm_is_a_linear_probe() -> None:
    """||y||^2 = d makes it a constant less 2 <y, t> / (T d): r = t / sqrt(d), and squares times 4 / d."""
    options: dict[str, Any] = {"tokens": 3, "batch": 2, "seeds": range(2), "dtype": "float64"}
    for arch in (mf.paper_pre_ln(width=8, depth=2), mf.paper_post_ln(width=8, depth=2)):
        mse, probe = (measure(arch, loss=loss, **options).df for loss in ("mse", "linear"))
        last = mse["module"].isin(["final_norm", "norm2"]) & (mse["layer"] == mse["layer"].max())
        assert np.allclose(mse["grad_sq_hat"][~last], 4 / 8 * probe["grad_sq_hat"][~last], rtol=1e-9)
        assert not np.allclose(mse["grad_sq_hat"][last], 4 / 8 * probe["grad_sq_hat"][last], rtol=0.05)


def test_mean_square_error_is_about_unit_gaussian_targets() -> None:
    """L = mean (y - t)^2 has the gradient 2 (y - t) / (T d), of mean square norm 8 / (T^2 d) for a unit y."""
    tokens, width = 4, 256
    table = measure(
        mf.paper_post_ln(width=width, depth=1), tokens=tokens, seeds=range(30), loss="mse"
    ).activations
    last = table[table.module == "norm2"].iloc[0]
    expected = 8 / (tokens**2 * width)
    assert abs(last.q_grad_hat - expected) < 4 * last.q_grad_hat_se
    assert abs(1.05 * last.q_grad_hat - expected) > 4 * last.q_grad_hat_se


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gradient_at_the_head_bias_is_softmax_minus_target(smoothing: float) -> None:
    base = mf.pre_ln(width=6, depth=1, heads=2, vocab=4)
    head = Head("head", Linear(6, 4, Draw(1), ZEROS))
    arch = Transformer("biased", "pre_ln", base.init, base.layers, base.final_norm, base.embedding, head)
    options: dict[str, Any] = {"loss": "cross_entropy", "label_smoothing": smoothing, "dtype": "float64"}
    table = measure(arch, tokens=3, batch=2, seeds=[5], **options).df
    measured = table[(table.module == "head") & (table.parameter == "bias")]["grad_sq_hat"].item()
    model = build(arch, seed=5, dtype="float64")
    logits = model(*Inputs(arch, 5, next(model.parameters())).draw(2, 3)).flatten(0, 1).detach()
    one_hot = torch.eye(4, dtype=torch.float64)[torch.from_numpy(stream(5, "target").integers(4, size=6))]
    gradient = logits.softmax(-1) - (1 - smoothing) * one_hot - smoothing / 4
    assert measured == pytest.approx(float(gradient.mean(0).square().sum()), rel=1e-9)
