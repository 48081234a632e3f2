"""Every criterion on tables that fulfil its claim, and on tables that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from figures.concentration import EPSILONS, tail
from figures.criteria import CRITERIA, gradients, states
from figures.criteria.finding import Finding, Tables, disagreements, family_limit
from figures.verdicts import UNMEASURED, agreement, disagrees, measured
from meanfield.claims import LEDGER

SIZES = {"width": 512, "depth": 12, "tokens": 16, "seeds": 200}
SE = 0.01


def compared(value: str, expected: np.ndarray, found: np.ndarray, **columns: object) -> pd.DataFrame:
    """Rows as `figures.compare.compare` gives them, with a relative standard error of 1 %."""
    ratio = found / expected
    return pd.DataFrame({
        **SIZES,
        **columns,
        value: expected,
        f"{value}_hat": found,
        f"{value}_hat_se": SE * expected,
        "ratio": ratio,
        "ratio_low": ratio - 2 * SE,
        "ratio_high": ratio + 2 * SE,
        "z": (ratio - 1) / SE,
    })


LAYERS = np.arange(1, 13)


def second_moment(post: float = 1.0, pre: float = 1.0, ffn: float = 1.0) -> Tables:
    half, post_q, pre_q = np.full(12, 0.5), np.full(12, 1.5), 1 + 1.1 * LAYERS
    bounds = {"lemma2_low": 1 + LAYERS / 2, "lemma2_high": 1 + 1.5 * LAYERS}
    common = {"layer": LAYERS}
    return {
        "second_moment": pd.concat([
            compared("q", half, ffn * half, module="ffn", placement="pre_ln", **common),
            compared(
                "q", post_q, post * post_q, module="residual2", placement="post_ln", lemma2_low=1.5, **common
            ),
            compared("q", pre_q, pre * pre_q, module="residual2", placement="pre_ln", **common, **bounds),
        ])
    }


def jacobian(error: float = 0.0, mean_share: float = 0.0) -> Tables:
    row = {"width": 64, "seed": 0, "mean_share": mean_share, "without_mean": 8.0}
    exact = 8.0 / np.sqrt(1 - mean_share)
    return {"jacobian": pd.DataFrame([row | {"lemma3": exact, "spectral_norm": exact * (1 + error)}])}


def tails(spread: float = 0.0, width: int = 512) -> Tables:
    rng = np.random.default_rng(0)
    parts = []
    for name in ("input", "post_ln", "pre_ln"):
        norms = rng.chisquare(512, (500, 16)) * np.exp(spread * rng.standard_normal((500, 1)))
        parts.append(tail(norms, width).assign(series=name, width=width, depth=6, tokens=16))
    return {"tail": pd.concat(parts, ignore_index=True)}


def sweeps(
    exponents: tuple[float, float] = (0.5, 0.0), bounds: tuple[float, float] = (1.05, 0.0), broken: int = 0
) -> Tables:
    rows = [
        {
            "size": size,
            "placement": placement,
            "estimate": fit,
            "low": fit - 0.02,
            "high": fit + 0.02,
            "bound": b,
        }
        for placement in ("post_ln", "pre_ln")
        for size, fit, b in zip(("width", "depth"), exponents, bounds, strict=True)
    ]
    last = [
        {**SIZES, "placement": p, "bound": 100.0, "grad_sq_hat": 1.0, "broken": broken}
        for p in ("post_ln", "pre_ln")
    ]
    return {"last_ffn": pd.DataFrame(last), "exponents": pd.DataFrame(rows)}


def by_layer(post_growth: float, pre_exponent: float) -> Tables:
    parts = []
    for placement, norm in (("post_ln", post_growth**LAYERS), ("pre_ln", LAYERS**pre_exponent)):
        for tokens in (1, 16):
            square = np.asarray(norm, dtype=float) ** 2
            names = {"placement": placement, "module": "ffn.down", "parameter": "weight", "layer": LAYERS}
            parts.append(compared("grad_sq", square, square, **names).assign(tokens=tokens))
    return {"parameters": pd.concat(parts, ignore_index=True)}


def model(post: float, pre: float) -> Tables:
    """Decoder layers whose last is ``post`` times its first for Post-LN, and 1/``pre`` times for Pre-LN."""
    rows = []
    for placement, last in (("post_ln", post), ("pre_ln", 1 / pre)):
        growth = {"decoder.ffn.up": last, "decoder.ffn.down": last, "encoder.ffn.down": 0.9}
        for module, factor in growth.items():
            for layer, norm in enumerate(np.geomspace(1, factor, 6), start=1):
                ends = {"norm_of_mean_low": 0.98 * norm, "norm_of_mean_high": 1.02 * norm}
                names = {"placement": placement, "module": module, "layer": layer, "minibatches": 4}
                theory = norm * 2.0 ** (layer / 5)  # twice the measured growth
                rows.append({**SIZES, **names, "norm_of_mean": norm, "norm_of_mean_theory": theory, **ends})
    return {"layers": pd.DataFrame(rows)}


def depths(post: float, pre: float) -> Tables:
    rows = [
        {
            "placement": placement,
            "smallest": 6,
            "largest": largest,
            "estimate": fit,
            "low": fit - 0.02,
            "high": fit + 0.02,
        }
        for placement, fit in (("post_ln", post), ("pre_ln", pre))
        for largest in (14, 96)
    ]
    return {"exponents": pd.DataFrame(rows), "last_ffn": pd.DataFrame([SIZES])}


def theorem1(tables: Tables) -> Finding:
    return gradients.theorem1(tables, "pre_ln")


@pytest.mark.parametrize(
    ("criterion", "tables", "verdict"),
    [
        (states.lemma1, second_moment(), "holds"),
        (states.lemma1, second_moment(ffn=1.05), "fails"),
        (states.lemma2_post, second_moment(), "holds"),
        (states.lemma2_post, second_moment(post=1.05), "fails"),
        (states.lemma2_pre, second_moment(), "holds"),
        (states.lemma2_pre, second_moment(pre=1.4), "fails"),
        (states.lemma2_pre, second_moment(pre=0.5), "fails"),
        (states.lemma3, jacobian(), "holds"),
        (states.lemma3, jacobian(mean_share=0.99), "holds_under"),
        (states.lemma3, jacobian(error=0.05), "fails"),
        (states.concentration_chi2, tails(), "holds_loosely"),
        (states.concentration_chi2, tails(spread=0.2), "fails"),
        (states.concentration_measured, tails(), "holds"),
        (states.concentration_measured, tails(spread=0.2), "fails"),
        (theorem1, sweeps(), "holds_loosely"),
        (theorem1, sweeps(exponents=(1.05, 0.0)), "holds"),
        (theorem1, sweeps(exponents=(1.2, 0.0)), "fails"),
        (theorem1, sweeps(exponents=(0.5, 0.0), bounds=(1.05, -0.5)), "fails"),
        (theorem1, sweeps(broken=60), "fails"),
        (gradients.extension_post, by_layer(1.25, 0.0), "holds"),
        (gradients.extension_post, by_layer(1.0, 0.0), "fails"),
        (gradients.extension_pre, by_layer(1.0, 0.0), "holds"),
        (gradients.extension_pre, by_layer(1.0, -0.5), "fails"),
        (gradients.figure3ab, model(post=5.0, pre=1.1), "holds"),
        (gradients.figure3ab, model(post=5.0, pre=1.7), "holds_loosely"),
        (gradients.figure3ab, model(post=5.0, pre=3.0), "fails"),
        (gradients.figure3ab, model(post=1.0, pre=1.1), "fails"),
        (gradients.figure3cd, depths(post=0.0, pre=-0.5), "holds"),
        (gradients.figure3cd, depths(post=-0.5, pre=-0.5), "fails"),
        (gradients.figure3cd, depths(post=0.0, pre=0.0), "fails"),
    ],
)
def test_verdict(criterion: Callable[[Tables], Finding], tables: Tables, verdict: str) -> None:
    found = criterion(tables)
    assert found.verdict == verdict
    assert found.value is not None
    assert "seeds" in found.sample or "draws" in found.sample
    if found.interval is not None:
        assert found.interval[0] <= found.value <= found.interval[1]


def test_growth_is_reported_beside_theory() -> None:
    statistic = gradients.figure3ab(model(post=5.0, pre=1.1)).statistic
    assert (
        "W1 5.00, W2 5.00 (theory for uniform attention: 10.00), encoder's W2 0.90 (theory: 1.80)"
        in statistic
    )


def test_every_claim_of_the_ledger_has_a_criterion_or_a_reason() -> None:
    assert set(CRITERIA) | set(UNMEASURED) == set(LEDGER)
    assert not set(CRITERIA) & set(UNMEASURED)
    for name in LEDGER:
        finding, figure = measured(name, {})
        assert (finding.verdict, figure) == ("not_measured", "")
        assert finding.statistic


@pytest.mark.statistical
@pytest.mark.parametrize("seeds", [25, 200])
def test_family_limit_raises_one_false_alarm_in_a_hundred(seeds: int) -> None:
    # 4000 families of 20 independent rows; the standard error of the rate is 0.16 %.
    values = np.random.default_rng(3).standard_normal((4000, 20, seeds), dtype=np.float32)
    z = values.mean(axis=2) / (values.std(axis=2, ddof=1) / np.sqrt(seeds))
    rate = (np.abs(z).max(axis=1) > family_limit(20, seeds)).mean()
    assert rate == pytest.approx(0.01, abs=4 * 0.0016)


def test_disagreement_needs_size_and_significance() -> None:
    ratio = np.array([1.0, 1.019, 1.03, 1.3])
    table = compared("grad_sq", np.ones(4), ratio)
    assert disagreements(table)["ratio"].tolist() == [1.3]
    sharp = table.assign(z=table["z"] * 100)
    assert disagreements(sharp)["ratio"].tolist() == [1.03, 1.3]


def test_agreement_counts_rows_and_decides_the_exit_status() -> None:
    table = compared("grad_sq", np.ones(4), np.array([1.0, 1.01, 1.025, 1.06])).assign(
        agreed_by=["tolerance", "tolerance", "standard errors", "neither"],
        placement="pre_ln", layer=1, module="ffn.up", parameter="bias",
    )  # fmt: skip
    counts = agreement({"parameters": table})
    assert [counts[k] for k in ("within_tolerance", "within_standard_errors_only", "neither")] == [2, 1, 1]
    assert counts["worst_ratio"] == pytest.approx(1.06)
    assert "module ffn.up" in counts["worst_row"]
    assert disagrees({"claims": [], "agreement": counts})
    assert not disagrees({"claims": [], "agreement": counts | {"disagree": 0}})
    assert not disagrees({"claims": [], "agreement": None})
    assert disagrees({"claims": [{"theory_steps_hold": False}], "agreement": None})


def test_epsilons_hold_the_papers_point() -> None:
    assert 0.1 in EPSILONS
