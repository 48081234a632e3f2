"""The first update against one step of torch.optim on real models, and the criterion against their loss."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import meanfield as mf
from empirical import build
from empirical.inputs import Inputs
from empirical.layers import Context
from empirical.losses import cross_entropy
from empirical.names import Model, named_parameters
from meanfield.random import stream
from tests.statistical.laws import STANDARD_ERRORS, allowance

pytestmark = pytest.mark.statistical

SIZES: dict[str, Any] = {"heads": 4, "d_ff": 256, "vocab": 300, "init": "lecun_normal"}
ARCHS = {
    "post_ln": mf.post_ln(width=256, depth=1, attention="uniform", **SIZES),
    "pre_ln": mf.pre_ln(width=256, depth=1, attention="uniform", **SIZES),
}
TOKENS, BATCH, SEEDS = 4, 16, 32
TINY = {"adam": 1e-8, "sgd": 1e-5, "radam": 1e-5}
"""Learning rates at which the step is linear to 1e-4."""
HIDDEN = 0.06
"""Granted to the change of hidden states beside O(1/width): closures, and O(tokens/width) = 64/256 in what
tokens share of the gradient of cross entropy."""
OPTIMIZERS: dict[str, Any] = {
    # Key biases have a gradient of rounding alone: below eps.
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, eps=1e-14),
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr),
    "radam": lambda parameters, lr: torch.optim.RAdam(parameters, lr=lr),
}
KEYS = ["layer", "module", "parameter"]


class Subject(NamedTuple):
    """A model with its input and targets."""

    model: Model
    inputs: list[Tensor]
    seed: int

    def hidden(self) -> Tensor:
        return self.model.hidden(*self.inputs, context=Context(None, memory_padding=None))

    def loss(self) -> Tensor:
        return cross_entropy(self.model.head(self.hidden()), torch.nn.Identity(), stream(self.seed, "t"), 0.0)


def subject(arch: Any, seed: int, tokens: int, batch: int) -> Subject:
    model = build(arch, seed=seed, dtype="float64")
    return Subject(model, Inputs(arch, seed, next(model.parameters())).draw(batch, tokens), seed)


@lru_cache
def stepped(placement: str, optimizer: str) -> pd.DataFrame:
    """One step of torch.optim for every seed: norms of updates, descent, and change of the hidden states."""
    torch.set_num_threads(1)
    lr, rows = TINY[optimizer], []
    for seed in range(SEEDS):
        each = subject(ARCHS[placement], seed, TOKENS, BATCH)
        named = named_parameters(each.model)
        before = [p.tensor.detach().clone() for p in named]
        start = each.hidden().detach()
        tensors = [p.tensor for p in named]
        for tensor, gradient in zip(tensors, torch.autograd.grad(each.loss(), tensors), strict=True):
            tensor.grad = gradient
        OPTIMIZERS[optimizer](tensors, lr).step()
        change = (each.hidden().detach() - start) / lr
        relative = float(change.square().sum() / start.square().sum())
        rows.append(("all", 0, "hidden", "activation", relative, 0.0))
        for p, old in zip(named, before, strict=True):
            step = (p.tensor.detach() - old) / lr
            assert p.tensor.grad is not None
            rows.append(("one", *p.key, float(step.square().sum()), -float((step * p.tensor.grad).sum())))
    return pd.DataFrame(rows, columns=["kind", *KEYS, "square", "descent"])


@lru_cache
def start(placement: str) -> mf.FirstUpdate:
    return mf.first_update(ARCHS[placement], tokens=TOKENS, batch=BATCH, learning_rate=1.0)


def predicted(placement: str, optimizer: str) -> mf.FirstUpdate:
    return start(placement).at(optimizer=optimizer)


def compared(placement: str, optimizer: str, column: str) -> pd.DataFrame:
    """Mean and standard error over seeds beside the prediction, weights and biases of whole tensors."""
    found = stepped(placement, optimizer)
    groups = found[found.kind == "one"].groupby(KEYS)[column]
    measured = groups.agg(hat="mean", se=lambda x: x.std(ddof=1) / np.sqrt(len(x))).reset_index()
    df = predicted(placement, optimizer).df
    theory = df.update_norm**2 if column == "square" else df.first_order_change
    table = df[[*KEYS, "moved"]].assign(theory=theory).merge(measured, on=KEYS, validate="one_to_one")
    # What the loss does to the last shift beside the kernel's rule is O(1/width) of the logits' spread.
    return table[~((table.parameter == "bias") & table.module.str.contains("norm"))]


def missed(table: pd.DataFrame, factor: float, granted: float) -> pd.Series:
    """Rows that ``factor`` times the theory misses by more than errors and what is granted."""
    theory = factor * table.theory
    return (table.hat - theory).abs() > STANDARD_ERRORS * table.se + granted * theory


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("placement", ARCHS)
def test_every_update_has_its_size(placement: str, optimizer: str) -> None:
    """Adam: entries that move, from 1,024 draws of units, 5 %. SGD, RAdam: gradients, O(1/width)."""
    table = compared(placement, optimizer, "square")
    granted = 0.05 if optimizer == "adam" else float(allowance(256, 2))
    wrong = missed(table, 1.0, granted)
    assert not wrong.any(), table[wrong].to_string()
    weights = table[(table.parameter == "weight") & table.module.str.contains("attention|ffn.down|head")]
    assert missed(weights, 1.25, granted).all()


@pytest.mark.parametrize("placement", ARCHS)
def test_every_tensor_lowers_the_loss_by_what_is_predicted(placement: str) -> None:
    """Adam: |g|_1 of each tensor within errors, O(1/width) and 4 % for unequal squares taken as equal.

    Controls: 12 % off; the constant of Gaussian entries, sqrt(2/pi), for the head.
    """
    table = compared(placement, "adam", "descent")
    granted = 0.04 + float(allowance(256, 2))
    assert not missed(table, 1.0, granted).any(), table[missed(table, 1.0, granted)].to_string()
    weights = table[(table.parameter == "weight") & table.module.str.contains("ffn|head|attention")]
    assert missed(weights, 1.12, granted).mean() > 0.5
    df = predicted(placement, "adam").df
    gaussian = df.assign(theory=np.sqrt(2 / np.pi * df.entries) * df.grad_norm)[[*KEYS, "theory"]]
    head = weights[weights.module == "head"]
    assert missed(head.drop(columns="theory").merge(gaussian, on=KEYS), 1.0, granted).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("placement", ARCHS)
def test_the_loss_falls_by_what_is_predicted(placement: str, optimizer: str) -> None:
    """All parameters together; 5 % off is rejected for Adam, 15 % for the others, which spread."""
    found = stepped(placement, optimizer)
    per_seed = found[found.kind == "one"].descent.to_numpy().reshape(SEEDS, -1).sum(axis=1)
    mean, se = per_seed.mean(), per_seed.std(ddof=1) / np.sqrt(SEEDS)
    theory = predicted(placement, optimizer).first_order_change
    bound = STANDARD_ERRORS * se + float(allowance(256, 1)) * theory
    assert abs(mean - theory) < bound
    off = 0.05 if optimizer == "adam" else 0.15
    assert abs(mean - (1 + off) * theory) > bound
    assert abs(mean - (1 - off) * theory) > bound


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("placement", ARCHS)
def test_hidden_states_change_by_what_is_predicted(placement: str, optimizer: str) -> None:
    """Controls: 30 % off (40 % for SGD, which spreads), the aligned part alone, and the other placement."""
    squares = stepped(placement, optimizer).query("kind == 'all'").square
    mean, se = squares.mean(), squares.std(ddof=1) / np.sqrt(SEEDS)
    update = predicted(placement, optimizer)
    aligned = update.changes.aligned_change.iloc[-1]
    other = predicted("pre_ln" if placement == "post_ln" else "post_ln", optimizer)
    theory = update.output_change**2
    granted = 2 * (HIDDEN + float(allowance(256, 1)))  # of a square
    assert abs(mean - theory) < STANDARD_ERRORS * se + granted * theory
    off = 1.3 if optimizer == "adam" else 1.4
    for control in (off * update.output_change, aligned, other.output_change):
        assert abs(mean - control**2) > STANDARD_ERRORS * se + granted * control**2


PAIRS = {
    name: mf.paper_encoder_decoder(placement=name, width=64, depth=2, heads=4, d_ff=128, vocab=200)
    for name in ("post_ln", "pre_ln")
}


def one_step(each: Subject, lr: float) -> tuple[float, float]:
    """Change of the loss by a step of signs, and relative change of the hidden states."""
    parameters = list(each.model.parameters())
    start, loss = each.hidden().detach(), each.loss()
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p.sub_(lr * g.sign() * (g.abs() > 1e-13))
        change = (each.hidden() - start).square().sum() / start.square().sum()
        return float(loss.detach() - each.loss()), float(change.sqrt())


def test_an_encoder_decoder_changes_by_what_is_predicted() -> None:
    """Softmax and cross-attention: 10 % of the change and 5 % of the descent, at width 64, 8 seeds."""
    updates = {
        name: mf.first_update(arch, tokens=8, batch=4, learning_rate=1.0) for name, arch in PAIRS.items()
    }
    for name, other in (("post_ln", "pre_ln"), ("pre_ln", "post_ln")):
        found = np.array([one_step(subject(PAIRS[name], seed, 8, 4), 1e-7) for seed in range(8)]) / 1e-7
        assert found[:, 0].mean() == pytest.approx(updates[name].first_order_change, rel=0.05)
        change = np.sqrt((found[:, 1] ** 2).mean())
        assert change == pytest.approx(updates[name].output_change, rel=0.1)
        assert change != pytest.approx(updates[other].output_change, rel=0.1)


@pytest.mark.parametrize("preset", ["post_ln", "pre_ln"])
def test_the_criterion_is_where_first_order_ends(preset: str) -> None:
    """A step of risk 0.1 lowers the loss by what first order says; one of risk 1 by about half of it."""
    arch = getattr(mf, preset)(width=64, depth=12, heads=4, d_ff=128, vocab=500)
    update = mf.first_update(arch, tokens=16, batch=4, learning_rate=1.0)
    critical = mf.critical_learning_rate(update)
    ratios = []
    for risk in (0.1, 1.0):
        lower = [one_step(subject(arch, seed, 16, 4), risk * critical)[0] for seed in range(3)]
        ratios.append(np.mean(lower) / (risk * critical * update.first_order_change))
    assert ratios[0] > 0.85
    assert 0.3 < ratios[1] < 0.8


def test_frequent_labels_pull_all_tokens_one_way() -> None:
    """Zipf's labels: 1.33 times the square gradient of uniform ones. Allowance 5 %; control: those."""
    arch = mf.pre_ln(width=128, depth=1, attention="uniform", **{**SIZES, "vocab": 100})
    shares = 1 / np.arange(1, 101)
    shares /= shares.sum()
    how: dict[str, Any] = {"tokens": 4, "batch": 8, "learning_rate": 1.0}
    collision = float((shares**2).sum())
    theory, uniform = (
        float((mf.first_update(arch, **how, label_collision=c).df.grad_norm ** 2).sum())
        for c in (collision, None)
    )
    found = []
    for seed in range(60):
        each = subject(arch, seed, 4, 8)
        classes = np.random.default_rng(seed).choice(100, 32, p=shares)
        logits = each.model.head(each.hidden()).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes))
        gradients = torch.autograd.grad(loss, list(each.model.parameters()))
        found.append(sum(float(g.square().sum()) for g in gradients))
    mean, se = np.mean(found), np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(mean - theory) < STANDARD_ERRORS * se + 0.05 * theory
    assert abs(mean - uniform) > STANDARD_ERRORS * se + 0.05 * uniform
