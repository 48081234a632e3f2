"""Every placement: the theory of each parameter against models built and differentiated by torch."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import empirical
import meanfield as mf
from meanfield.ops import Attention, FeedForward, Norm, Op, Sequential, walk
from meanfield.presets import PRESETS
from tests.statistical import laws

pytestmark = pytest.mark.statistical

WIDTH, TOKENS, BATCH, SEEDS = 128, 4, 32, 64
OPTIONS: dict[str, dict[str, Any]] = {
    "mix_ln": {"depth": 4},  # one layer of four is Post-LN
    "rezero": {"value": 0.5},  # at 0 no weight has a gradient
    "layer_scale": {"value": 0.5},
    "qk_norm": {"init": "torch"},  # with Xavier queries and keys are of second moment 1 without a norm
}
# The others have tests of their own, or are the form of one of these with another constant.
NAMES = (
    *("sandwich_ln", "branch_norm", "parallel", "qk_norm", "hybrid_norm", "residual", "layernorm_scaling"),
    *("mix_ln", "b2t", "normformer", "deepnorm", "admin", "sub_ln", "rezero", "layer_scale", "t_fixup"),
    *("deepscale", "keel"),
)


def _fresh_norms(block: Op) -> tuple[float, float]:
    """Sum of 2/n over norms of n fresh coordinates, of whole vectors and of single heads.

    The mean square of n Gaussian coordinates varies by 2/n: E[1/s^2] is 1 + 2/n times its limit; after ReLU,
    where E[u^4]/E[u^2]^2 = 6, by 5/n. Norms of the residual stream are in the allowance already.
    """
    fresh: list[tuple[Op | None, int]] = []
    for op in walk(block):
        if isinstance(op, Attention):
            fresh += [(norm, 2) for norm in (op.query_norm, op.key_norm, op.value_norm, op.inner)]
        elif isinstance(op, FeedForward):
            fresh.append((op.inner, 5))
        elif isinstance(op, Sequential):
            fresh += [(b, 2) for a, b in pairwise(op.ops) if isinstance(a, Attention | FeedForward)]
    sums = {True: 0.0, False: 0.0}
    for norm, spread in fresh:
        if isinstance(norm, Norm):
            sums[norm.width >= WIDTH] += spread / norm.width
    return sums[True], sums[False]


def _behind_a_norm(arch: mf.Transformer, table: pd.DataFrame) -> pd.Series[bool]:
    """Key biases before a norm of n coordinates, which leaves of them 2/n of what a query bias has."""
    norm = arch.attention.key_norm
    rows = (table.module == "attention.k") & (table.parameter == "bias") & (norm is not None)
    if norm is not None:
        query = table[(table.module == "attention.q") & (table.parameter == "bias")].grad_sq.to_numpy()
        left = table.grad_sq_hat[rows].to_numpy() / query
        assert (left < 4 / norm.width).all()
        assert (left > 0.5 / norm.width).all()
    return rows


@lru_cache(maxsize=len(NAMES))
def _compared(name: str) -> pd.DataFrame:
    """Theory, measurement and granted O(1/width) of every parameter whose gradient is not exactly 0."""
    options = {"depth": 2, "heads": 4, "d_ff": 256, **OPTIONS.get(name, {})}
    arch = PRESETS[name](width=WIDTH, **options)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products gain nothing
    try:
        found = empirical.ensemble(arch, tokens=TOKENS, batch=BATCH, seeds=range(2000, 2000 + SEEDS)).df
    finally:
        torch.set_num_threads(threads)
    rows = ["layer", "module", "parameter"]
    predicted = mf.predict(arch, tokens=TOKENS, batch=BATCH).df[[*rows, "grad_sq"]]
    table = predicted.merge(found, on=rows, how="outer", validate="one_to_one")
    assert table[["grad_sq", "grad_sq_hat"]].notna().all(axis=None)
    zero = table.grad_sq < 1e-12  # key biases and shifts: softmax does not see what all keys share
    measured = table.grad_sq_hat[zero & ~_behind_a_norm(arch, table)]
    assert (measured < 1e-9).all(), table[zero].to_string()
    table = table[~zero].reset_index(drop=True)
    (*_, (depth, block)) = arch.blocks()
    above = np.clip(depth + 1 - table.layer, 1, None)
    whole, heads = _fresh_norms(block)
    scores = table.module.str.contains(r"attention\.[qk]")
    granted = laws.allowance(WIDTH, above) + whole * above + (2 * TOKENS / WIDTH + heads) * scores
    return table.assign(granted=granted, depth=depth)


def _missed(table: pd.DataFrame, factor: float) -> np.ndarray:
    theory = factor * table.grad_sq
    bound = laws.STANDARD_ERRORS * table.grad_sq_hat_se + table.granted * theory
    return np.asarray((table.grad_sq_hat - theory).abs() > bound)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_every_placement(name: str) -> None:
    """4.9 standard errors plus the allowance; a theory 15 % off misses every weight of the last layer.

    What is seen for sure is 4.9 standard errors of about 1.1 % and twice the allowance of 2.3 %, one of them
    used up by the real bias: 10 %, or 12 % where the error is a share of the wrong theory. Where norms act on
    fresh vectors more is granted, and 15 % too little or 20 % too much is what is seen.
    """
    table = _compared(name)
    missed = _missed(table, 1.0)
    assert not missed.any(), table[missed].to_string()
    inside = table.module.isin(["attention.v", "attention.o", "ffn.up", "ffn.down"])
    inside &= (table.parameter == "weight") & (table.layer == table.depth)
    fresh = (table.granted[inside] > laws.allowance(WIDTH, 1)).all()
    for wrong in (0.85, 1.2) if fresh else (0.87, 1.15):
        assert _missed(table, wrong)[inside].all()


@pytest.mark.parametrize(
    ("measured", "theory"),
    [
        ("deepnorm", mf.post_ln(width=WIDTH, depth=2, heads=4, d_ff=256, init="deepnorm")),
        ("deepnorm", mf.deepnorm(width=WIDTH, depth=2, heads=4, d_ff=256, init="xavier_normal")),
        ("sub_ln", mf.pre_ln(width=WIDTH, depth=2, heads=4, d_ff=256, init="sub_ln")),
        ("layernorm_scaling", mf.pre_ln(width=WIDTH, depth=2, heads=4, d_ff=256)),
        ("b2t", mf.post_ln(width=WIDTH, depth=2, heads=4, d_ff=256)),
        ("admin", mf.post_ln(width=WIDTH, depth=2, heads=4, d_ff=256)),
        ("branch_norm", mf.sandwich_ln(width=WIDTH, depth=2, heads=4, d_ff=256)),
        ("qk_norm", mf.pre_ln(width=WIDTH, depth=2, heads=4, d_ff=256, init="torch")),
        ("residual", mf.post_ln(width=WIDTH, depth=2, heads=4, d_ff=256)),
        ("t_fixup", mf.t_fixup(width=WIDTH, depth=3, heads=4, d_ff=256)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name} {value.init}",
)
def test_a_neighbour_is_rejected(measured: str, theory: mf.Transformer) -> None:
    """The theory of a placement that differs by one norm, factor, stream or initialisation."""
    rows = ["layer", "module", "parameter"]
    other = mf.predict(theory, tokens=TOKENS, batch=BATCH).df[[*rows, "grad_sq"]]
    table = _compared(measured).drop(columns="grad_sq").merge(other, on=rows)
    assert _missed(table, 1.0).any()
