"""Fast ensembles against automatic differentiation of the same models, number by number."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import empirical
import meanfield as mf
from empirical import passes
from empirical.backend import TorchBackend
from empirical.dense import Dense
from empirical.gram import HALF_FROM, gram
from empirical.matrices import Matrices
from empirical.passes import Pass
from empirical.setting import Conditions, Setting
from meanfield import ops
from meanfield.errors import InputError
from meanfield.weight_free import stack
from meanfield.weight_free.run import Feed
from tests.meanfield.test_weight_free import CASES, SOURCE_PADDED

HOW = {"tokens": 3, "batch": 2, "seeds": [5, 0, 9]}
BY = ["seed", "layer", "module", "parameter"]


def both(arch: Any, **how: Any) -> tuple[pd.Series, pd.Series]:
    """Squared norms by the fast pass, and by automatic differentiation, of what has any gradient."""
    fast, plain = (
        measure(arch, **how).samples.query("parameter != 'activation'").set_index(BY).grad_sq_hat
        for measure in (empirical.ensemble, empirical.measure)
    )
    assert set(fast.index) == set(plain.index)
    plain = plain.reindex(fast.index)
    there = plain > 1e-12 * plain.max()  # the gradient of a key's bias is 0 but for rounding
    assert (fast[~there] < 1e-9 * plain.max()).all()
    return fast[there], plain[there]


def error(fast: pd.Series, plain: pd.Series) -> float:
    return float(np.abs(fast / plain - 1).max())


@pytest.mark.parametrize("name", CASES)
def test_every_rule_in_double_precision(name: str) -> None:
    arch, how = CASES[name]
    loss = how.get("loss", "linear")
    padding = how.get("padding")
    extra: dict[str, Any] = {"label_smoothing": how.get("smoothing", 0.0)} if loss == "cross_entropy" else {}
    lengths: dict[str, Any] = {}
    if isinstance(arch, ops.EncoderDecoder):
        lengths = {"source_tokens": 4}
        padding = None if padding is None else (SOURCE_PADDED, padding)
    fast, plain = both(arch, loss=loss, padding=padding, dtype="float64", **extra, **lengths, **HOW)
    assert error(fast, plain) < 1e-9
    assert error(1.05 * fast, plain) > 1e-2


PRESETS = {
    "pre_ln": lambda **how: mf.pre_ln(**how, activation="gelu"),
    "post_ln": lambda **how: mf.post_ln(**how, activation="silu"),
    "torch": lambda **how: mf.pre_ln(**how, activation="gelu", init="torch_transformer"),
    "gpt2": lambda **how: mf.pre_ln(**how, activation="gelu_tanh", init="gpt2", causal=True),
    "gated": lambda **how: mf.pre_ln(**how, activation="swiglu", norm="rmsnorm", init="torch", kv_heads=1),
}


@pytest.mark.parametrize("width", [32, 192])
@pytest.mark.parametrize("name", PRESETS)
def test_single_precision(name: str, width: int) -> None:
    """At width 192 and 16 tokens norms come from Gram matrices and weights are kept as integers."""
    arch = PRESETS[name](width=width, depth=3, heads=4, d_ff=2 * width)
    assert error(*both(arch, tokens=16, batch=1, seeds=range(5))) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_many_tokens(seeds: int, dtype: str) -> None:
    """Norms come from halves of Gram matrices, of one seed and of several."""
    arch = mf.pre_ln(width=256, depth=1, heads=4, d_ff=1024, activation="gelu", init="torch")
    fast, plain = both(arch, tokens=HALF_FROM + 1, batch=1, seeds=range(seeds), dtype=dtype)
    assert error(fast, plain) < (1e-5 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("tokens", [HALF_FROM - 1, HALF_FROM])
def test_inner_products_of_gram_matrices(tokens: int) -> None:
    backend = TorchBackend("float64", "cpu")
    x, g = torch.randn(2, 2, tokens, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_x, of_g = gram(x, backend), gram(g.transpose(1, 2).contiguous().transpose(1, 2), backend)
    assert of_x.half == (tokens == HALF_FROM)
    expected = (x.transpose(1, 2) @ g).square().sum((1, 2))
    torch.testing.assert_close(of_x.inner(of_g), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(of_x.total(), x.sum(1).square().sum(1), rtol=1e-11, atol=0)
    torch.testing.assert_close(of_x.trace(), x.square().sum((1, 2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tokens", [16, HALF_FROM])
def test_equal_tokens_do_not_cancel(tokens: int) -> None:
    """Tokens of correlation 0.9999, whose gradients sum to 0: Gram matrices alone would lose digits."""
    generator, size = torch.Generator().manual_seed(0), 8 * tokens
    x = torch.randn(1, 1, size, generator=generator) + 0.01 * torch.randn(
        1, tokens, size, generator=generator
    )
    g = torch.randn(1, tokens, size, generator=generator)
    g -= g.mean(1, keepdim=True)
    exact = float((x.double().transpose(1, 2) @ g.double()).square().sum())
    backend = TorchBackend("float32", "cpu")
    run = Dense(backend=backend, seeds=1, batch=1, feed=Feed(tokens), numbers=[0], matrices=Matrices(backend))
    assert abs(float(run._squares(x, {"k": g}, g)["k"]) / exact - 1) < 1e-5
    plain = float((x @ x.transpose(1, 2) * (g @ g.transpose(1, 2))).sum())
    assert abs(plain / exact - 1) > 1e-4


def test_a_model_of_torch_is_measured_alike() -> None:
    arch = mf.post_ln(width=48, depth=2, heads=4, d_ff=96, activation="gelu", init="torch_transformer")
    fast, plain = both(arch, tokens=8, batch=4, seeds=range(40), loss="mse")
    assert error(fast, plain) < 1e-5


def test_seeds_do_not_depend_on_their_company() -> None:
    arch = mf.pre_ln(width=32, depth=2, heads=2, d_ff=64, activation="gelu", init="torch_transformer")
    how: dict[str, Any] = {"tokens": 4, "dtype": "float64"}
    together = empirical.ensemble(arch, seeds=range(70), **how)
    apart = pd.concat([empirical.ensemble(arch, seeds=[seed], **how).samples for seed in (0, 33, 69)])
    expected = apart.set_index(BY).grad_sq_hat
    found = together.samples.set_index(BY).grad_sq_hat.reindex(expected.index)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-20)
    assert together.how.startswith("32 seeds at once, 1 process")


@pytest.mark.slow
def test_workers_give_the_same_bits() -> None:
    arch = mf.pre_ln(width=32, depth=2, heads=2, d_ff=64, activation="gelu")
    alone = empirical.ensemble(arch, tokens=4, seeds=range(200), workers=1)
    shared = empirical.ensemble(arch, tokens=4, seeds=range(200), workers=2)
    pd.testing.assert_frame_equal(alone.samples, shared.samples, check_exact=True)
    assert "2 processes" in shared.how


def kill(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("empirical.ensemble"), "_some", kill)
    arch = mf.pre_ln(width=16, depth=1, heads=2, d_ff=32)
    with pytest.raises(InputError, match="one of workers=2 was killed, probably for want of memory"):
        empirical.ensemble(arch, tokens=2, seeds=range(200), workers=2)


def test_what_is_left_to_automatic_differentiation() -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=2, d_ff=32)
    for how in ({"minibatches": 2}, {"dtype": "bfloat16"}):
        found = empirical.ensemble(arch, tokens=2, seeds=range(2), **how)
        expected = empirical.measure(arch, tokens=2, seeds=range(2), **how)
        pd.testing.assert_frame_equal(found.samples, expected.samples, check_exact=True)
        assert found.how == "1 seed at once, differentiated by torch"


def test_progress_counts_every_seed() -> None:
    counts: list[int] = []
    empirical.ensemble(mf.paper_post_ln(width=8, depth=1), tokens=2, seeds=range(100), progress=counts.append)
    assert counts == [32, 32, 32, 4]


@pytest.mark.parametrize("error_type", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_seeds_are_halved_where_memory_ends(
    monkeypatch: pytest.MonkeyPatch, error_type: type[Exception]
) -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=2, d_ff=32)
    setting = Setting(tokens=2, dtype="float64")
    expected = Pass(arch, setting, Conditions())([1, 2, 3, 4, 5])
    right = stack.squares
    sizes = []

    def limited(arch: Any, data: Any, run: Any) -> None:
        sizes.append(run.seeds)
        if run.seeds > 2:
            raise error_type("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")
        right(arch, data, run)

    monkeypatch.setattr(passes, "squares", limited)
    run = Pass(arch, setting, Conditions())
    found = run([1, 2, 3, 4, 5])
    assert sizes == [5, 2, 3, 1, 2]
    assert run.at_once == 1
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9, atol=1e-20)


def test_one_seed_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(arch: Any, data: Any, run: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(passes, "squares", never)
    with pytest.raises(InputError, match=r"pre_ln at seed=0 needs more memory .* empirical.stream"):
        empirical.ensemble(mf.pre_ln(width=16, depth=1, heads=2, d_ff=32), tokens=2, seeds=range(3))


def test_bad_input() -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=2, d_ff=32)
    with pytest.raises(InputError, match="workers=0"):
        empirical.ensemble(arch, workers=0)
    with pytest.raises(InputError, match="needs an output head and pre_ln has none"):
        empirical.ensemble(arch, loss="cross_entropy")
    with pytest.raises(InputError, match="more than once"):
        empirical.ensemble(arch, seeds=[1, 1])
    with pytest.raises(InputError, match=r"is not finite, or too small"):
        empirical.ensemble(arch, tokens=2, seeds=range(2), gram=1e60 * np.eye(2))
    with pytest.raises(InputError, match=r"hidden states were not recorded: measure with empirical.measure"):
        _ = empirical.ensemble(arch, tokens=2, seeds=range(2)).activations
