"""The ledger: every claim of the paper, the verdicts, and formulas that are wrong by 5 % are caught."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import meanfield.symbolic.backward as symbolic_backward
import meanfield.symbolic.forward as symbolic_forward
from meanfield.claims import DERIVABLE, LEDGER, MAX_DEPTH, Derivation, Setting, derive
from meanfield.errors import InputError, UnknownNameError
from meanfield.symbolic import recurrence

VERDICTS = {
    "lemma1": "holds",
    "lemma2.post": "holds",
    "lemma2.pre": "holds",
    "lemma3": "holds_under",
    "lemma4": "holds",
    "lemma5": "holds",
    "definition1": "holds",
    "concentration.chi2": "holds",
    "concentration.measured": "holds_under",
    "theorem1.post": "holds_loosely",
    "theorem1.pre": "holds_loosely",
    "extension.post": "fails",
    "extension.pre": "fails",
    "fig3a/b": "holds_under",
    "fig3c/d": "holds",
}
TRAINING = ("warmup.post", "warmup.pre", "small_lr")
SMALL = Setting(width=64, depth=4, tokens=3)


def test_the_ledger_has_every_claim() -> None:
    assert set(LEDGER) == {*VERDICTS, *TRAINING}
    assert {name for name, claim in LEDGER.items() if claim.kind == "training"} == set(TRAINING)
    assert set(DERIVABLE) == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_every_step_holds_and_the_verdict_stands(name: str, derivations: dict[str, Derivation]) -> None:
    derivation = derivations[name]
    assert [step.latex for step in derivation.steps if not step.holds] == []
    assert derivation.steps
    assert derivation.verdict == VERDICTS[name]
    assert derivation.condition


def test_numbers_known_by_hand(derivations: dict[str, Derivation]) -> None:
    assert derivations["lemma2.post"].numbers["E_x5_sq"] == 768
    theorem = derivations["theorem1.post"].numbers
    assert theorem["exact"] == pytest.approx((512 / 3) ** 0.5)
    assert theorem["factor"] == pytest.approx((40 * 512 * 10.8435) ** 0.5, rel=1e-5)
    assert theorem["probability_claimed_measured_pair"] == pytest.approx(0.765)
    assert theorem["probability_claimed_best"] == pytest.approx(0.755, abs=5e-4)
    assert derivations["concentration.measured"].numbers["delta_lemma"] == pytest.approx(0.5273, abs=1e-4)
    post = derivations["extension.post"].numbers
    assert post["claimed_factor_sq"] == pytest.approx((2 / 3) ** 5)
    assert post["down_first_over_last"] > 1 > post["q_grad_first_over_last"]
    assert derivations["extension.pre"].numbers["down_first_over_last_one_token"] == 4


def test_one_token_reaches_the_upper_end_of_lemma_2() -> None:
    numbers = derive("lemma2.pre", Setting(width=8, depth=6, tokens=1)).numbers
    assert numbers["q"] == numbers["q_high"] == 10


@pytest.mark.parametrize("name", TRAINING)
def test_training_is_not_decided_by_theory(name: str) -> None:
    with pytest.raises(InputError, match="about training"):
        derive(name, SMALL)


def test_an_unknown_claim_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lemma3'") as error:
        derive("lema3", SMALL)
    assert all(name in str(error.value) for name in VERDICTS)
    assert not any(name in str(error.value) for name in TRAINING)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 0}, "depth=0 is too small"),
        ({"width": 1}, "width=1 is too small: LayerNorm"),
        ({"tokens": -3}, "tokens=-3"),
        ({"width": 2.5}, "is not an integer"),
        ({"depth": float("nan")}, "is not an integer"),
        ({"depth": MAX_DEPTH + 1}, "is too large"),
        ({"width": 10**400}, "is too large: give at most 1e\\+15"),
    ],
)
def test_bad_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Setting(**sizes)


def _wrong_by_5_percent(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: 1.05 * function(*args)


@pytest.mark.parametrize(
    ("module", "kernel", "caught"),
    [
        (
            symbolic_forward,
            "dual",
            ("lemma2.post", "lemma2.pre", "theorem1.pre", "extension.post", "extension.pre"),
        ),
        (symbolic_backward, "slope_dual", ("extension.post", "extension.pre", "fig3a/b")),
    ],
)
def test_an_interpreter_wrong_by_5_percent_is_caught(
    module: ModuleType, kernel: str, caught: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, kernel, _wrong_by_5_percent(getattr(module, kernel)))
    recurrence._functions.cache_clear()
    try:
        for name in caught:
            assert not derive(name, SMALL).holds, name
    finally:
        recurrence._functions.cache_clear()


MUTATIONS = [
    ("lemma1", "one - s**2 / 2", "one - 1.05 * s**2 / 2"),
    ("lemma2.post", "ffn.after.q - sp.Rational(3, 2)", "ffn.after.q - 1.05 * sp.Rational(3, 2)"),
    ("lemma2.post", "square(s - r * w)) / 2", "square(s - 1.05 * r * w)) / 2"),
    ("lemma2.pre", "ends[1] - 1 - 3 * layer / 2", "ends[1] - 1 - 3 * 1.05 * layer / 2"),
    ("lemma3", "- y.T * y / norm_sq", "- y.T * y / (2 * norm_sq)"),
    ("lemma3", "sp.sqrt(sp.Rational(2, 3))", "1.05 * sp.sqrt(sp.Rational(2, 3))"),
    ("lemma4", "(lam - 1 + norm_sq)", "(lam - 1 + 1.05 * norm_sq)"),
    ("lemma5", "(top - mean) / (top - level)", "(top - mean) / (top - level) / 3"),
    ("definition1", "z - mean <= eps * mean", "z - mean <= 3 + eps * mean"),
    ("concentration.chi2", "rate = (e - sp.log(1 + e)) / 2", "rate = 1.05 * (e - sp.log(1 + e)) / 2"),
    ("concentration.measured", "sp.Rational(15, 4) * width", "1.05 * sp.Rational(15, 4) * width"),
    ("theorem1.post", "s = sp.Rational(3, 2)", "s = 1.05 * sp.Rational(3, 2)"),
    ("theorem1.post", "3 * top - sum(", "0.95 * top - sum("),
    ("theorem1.post", "(1 + more) ** 2 - (1 + more)", "(1 + more) ** 2 - (2 + more)"),
    ("theorem1.post", "share = 1 - 1 / (3 * D)", "share = 1 - 1.05 / (3 * D)"),
    ("theorem1.post", "sp.Rational(1, d) * sum(s) ** 2", "1.05 * sp.Rational(1, d) * sum(s) ** 2"),
    ("theorem1.post", "D * jacobian_sq * tail", "1.05 * D * jacobian_sq * tail"),
    ("theorem1.post", "(b - u - sp.Max(-u, 0))", "(b - u - sp.Max(u, 0))"),
    ("theorem1.pre", "1 + 3 * depth / 2", "1 + 3.15 * depth / 2"),
    ("theorem1.pre", "input_share = 1 - 1 / D", "input_share = 1 - 1.05 / D"),
    ("theorem1.pre", "dict.fromkeys(w, sp.Rational(1, d))", "dict.fromkeys(w, sp.Rational(21, 20 * d))"),
    ("extension.post", "2 ** (-k)", "3 ** (-k)"),
    ("extension.post", "A * sp.Rational(2, 3),", "1.05 * A * sp.Rational(2, 3),"),
    ("extension.post", "v == 1 for depth", "v == 1.05 for depth"),
    ("extension.pre", "1 + 1 / (2 * (Q + 1))", "1 + 1.05 / (2 * (Q + 1))"),
    (
        "extension.pre",
        "value == 1 / q_l.subs(layer, depth - k)",
        "value == 1 / q_l.subs(layer, depth - k + 1)",
    ),
    ("extension.pre", "else q + m + HALF", "else q + 1.05 * m + HALF"),
    ("extension.pre", "(Q * gap)", "(Q * 1.05 * gap)"),
    ("fig3a/b", "sp.Rational(1, 2 + 3 * l_)", "sp.Rational(1, 2 + 4 * l_)"),
    ("fig3a/b", "Moments(1 + MU, RHO + MU, N)", "Moments(1 + 1.05 * MU, RHO + MU, N)"),
    ("fig3c/d", "level = 2 * 16**2 / 3", "level = 1.2 * 2 * 16**2 / 3"),
    ("fig3c/d", "post.subs(B, 0) - N * A / 3", "post.subs(B, 0) - 1.05 * N * A / 3"),
]


# Modules whose steps a claim's module takes over.
SHARED = {"theorem1": ("theorem1_steps",), "extension_post": ("extension",), "extension_pre": ("extension",)}


@pytest.mark.parametrize(("name", "formula", "wrong"), MUTATIONS)
def test_a_wrong_formula_in_a_derivation_is_caught(
    name: str, formula: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LEDGER[name].module
    found = 0
    for part in (*SHARED.get(own, ()), own):
        module = f"meanfield.symbolic.{part}"
        source = inspect.getsource(importlib.import_module(module))
        found += formula in source
        corrupted = ModuleType(module)
        exec(compile(source.replace(formula, wrong), module, "exec"), corrupted.__dict__)
        monkeypatch.setitem(sys.modules, module, corrupted)  # for the imports of the next part
    assert found == 1
    assert not corrupted.DERIVATIONS[name](SMALL).holds


def test_every_derived_claim_has_its_mutation() -> None:
    assert {name for name, _, _ in MUTATIONS} == set(VERDICTS)
