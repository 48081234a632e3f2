"""Parameters that make the input vectors: rows of `mf.predict(features=...)` against real models in torch.

A ViT's beginning in front of a stack, x = [class token, patches W + b] + positions, drawn for every seed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

import meanfield as mf
from empirical import build
from empirical.draws import draw
from empirical.layers import Transformer
from empirical.names import named_parameters
from empirical.probe import one_thread
from tests.statistical.laws import STANDARD_ERRORS

pytestmark = pytest.mark.statistical

BATCH, PATCHES, SIZE, WIDTH, SEEDS = 2, 4, 6, 64, 1200  # 7 % are seen of the class token, the least sure
TOKENS = PATCHES + 1
ARCH = mf.pre_ln(width=WIDTH, depth=2, heads=4, d_ff=96, activation="gelu", init="torch_transformer")
DEVIATIONS = {"patch.weight": 0.4, "patch.bias": 0.5, "cls": 1.0, "position": 0.3}
Squares = dict[str, np.ndarray]


def patches() -> np.ndarray:
    """The images' pixels, the same for all seeds; the class token sees none."""
    rows = np.random.default_rng(0).standard_normal((BATCH, TOKENS, SIZE)) + 0.5
    rows[:, 0] = 0
    return rows.reshape(-1, SIZE)


def features() -> dict[str, np.ndarray]:
    first = np.arange(BATCH * TOKENS) % TOKENS == 0
    place = np.arange(BATCH * TOKENS) % TOKENS
    x = patches()
    return {
        "patch.weight": x @ x.T,
        "patch.bias": np.outer(~first, ~first).astype(float),
        "cls": np.outer(first, first).astype(float),
        "position": (place[:, None] == place).astype(float),
    }


def gram() -> np.ndarray:
    """Second moments of the vectors on average over what makes them."""
    return np.sum([DEVIATIONS[name] ** 2 * kernel for name, kernel in features().items()], axis=0)


@lru_cache
@one_thread()
def measured() -> Squares:
    """Squared gradient norms by automatic differentiation, one number per seed."""
    model = build(ARCH)
    assert isinstance(model, Transformer)
    parameters = named_parameters(model)
    x, shapes = (
        torch.from_numpy(patches()).float(),
        {"patch.weight": (SIZE, WIDTH), "position": (TOKENS, WIDTH)},
    )
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        draw(parameters, seed)
        generator = torch.Generator().manual_seed(seed)
        own = {
            name: (s * torch.randn(shapes.get(name, (WIDTH,)), generator=generator)).requires_grad_()
            for name, s in DEVIATIONS.items()
        }
        first = (torch.arange(BATCH * TOKENS) % TOKENS == 0)[:, None]
        made = torch.where(first, own["cls"], x @ own["patch.weight"] + own["patch.bias"])
        made = made + own["position"].repeat(BATCH, 1)
        y = model.hidden(made.view(BATCH, TOKENS, WIDTH)).flatten(0, 1)
        r = torch.randn(y.shape, generator=generator) / WIDTH**0.5
        named = own | {f"{p.key.layer} {p.key.module}.{p.key.parameter}": p.tensor for p in parameters}
        gradients = torch.autograd.grad((r * y).sum() / len(y), list(named.values()))
        for name, g in zip(named, gradients, strict=True):
            found.setdefault(name, []).append(float(g.square().sum()))
    return {name: np.array(values) for name, values in found.items()}


def missed(kernels: dict[str, np.ndarray], factor: float = 1.0) -> set[str]:
    """Parameters whose mean over 1,500 samples and over seeds differ by more than their errors."""
    table = mf.predict(ARCH, tokens=TOKENS, batch=BATCH, gram=gram(), features=kernels, samples=1500).df
    table = table[table.grad_sq_limit > 0]  # a key bias has no gradient
    inside = table.layer.astype(str) + " " + table.module + "." + table.parameter
    names = table.module.where(table.layer == 0, inside)
    theirs = [measured()[name] for name in names]
    error = np.hypot([values.std(ddof=1) / SEEDS**0.5 for values in theirs], factor * table.grad_sq_se)
    gap = np.abs(np.array([values.mean() for values in theirs]) - factor * table.grad_sq)
    return set(names[gap > STANDARD_ERRORS * error])


def test_what_makes_the_vectors_is_predicted() -> None:
    assert not missed(features())


def test_the_comparison_rejects_features_without_their_pairs_and_a_wrong_factor() -> None:
    """Patches of an image share much of their gradient; other rows stay right when those of one are wrong."""
    alone = {name: np.diag(np.diag(kernel)) for name, kernel in features().items()}
    assert {"patch.weight", "patch.bias"} <= missed(alone) <= set(DEVIATIONS)
    assert set(DEVIATIONS) <= missed(features(), factor=1.1)


def test_the_limit_is_that_of_the_samples_at_large_width() -> None:
    """At width 1,024 with 200 samples; granted are 2 % for finite width and 4.9 standard errors."""
    wide = mf.pre_ln(width=1024, depth=2, heads=4, d_ff=1024, activation="gelu", init="torch_transformer")
    table = mf.predict(wide, tokens=TOKENS, batch=BATCH, gram=gram(), features=features(), samples=200).df
    rows = table[table.layer == 0]
    assert list(rows.module) == list(DEVIATIONS)[::-1]
    granted = STANDARD_ERRORS * rows.grad_sq_se + 0.02 * rows.grad_sq_limit
    assert ((rows.grad_sq - rows.grad_sq_limit).abs() < granted).all(), rows.to_string()
    assert ((rows.grad_sq - 1.1 * rows.grad_sq_limit).abs() > granted).any()
