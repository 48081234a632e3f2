"""Criteria of the claims about hidden states and norms."""

from __future__ import annotations

from typing import Any

import pandas as pd

from figures.concentration import PAPER_POINT
from figures.criteria.finding import Finding, Tables, disagreements, family_limit, sample

FORMULA_DIGITS = 1e-6  # relative error that a float64 Jacobian may show
MEAN_DOMINATED = 2.0  # times sqrt(d)/||x||


def _largest(rows: pd.DataFrame, by: pd.Series[float]) -> dict[Any, Any]:
    return rows.iloc[int(by.to_numpy().argmax())].to_dict()


def _every_row(rows: pd.DataFrame, what: str) -> Finding:
    worst = _largest(rows, rows["z"].abs())
    against = len(disagreements(rows))
    return Finding(
        "fails" if against else "holds",
        f"{what}, where |z| is largest (layer {worst['layer']}); "
        f"{len(rows) - against} of {len(rows)} rows agree",
        worst["ratio"],
        (worst["ratio_low"], worst["ratio_high"]),
        sample(rows, "width", "depth", "tokens"),
    )


def lemma1(tables: Tables) -> Finding:
    """Hold if the feed-forward output has q = 1/2 in every layer (its W2 keeps E||ReLU||^2).

    Args:
        tables: Of ``hidden_state_growth``.

    Returns:
        The finding.
    """
    table = tables["second_moment"]
    return _every_row(table[table["module"] == "ffn"], "q of the feed-forward output over 1/2")


def lemma2_post(tables: Tables) -> Finding:
    """Hold if q = 3/2 before the second norm of every layer.

    Args:
        tables: Of ``hidden_state_growth``.

    Returns:
        The finding.
    """
    table = tables["second_moment"]
    rows = table[(table["module"] == "residual2") & (table["placement"] == "post_ln")]
    return _every_row(rows, "q over 3/2")


def lemma2_pre(tables: Tables) -> Finding:
    """Hold if no layer's q is outside [1 + l/2, 1 + 3l/2] by more than `family_limit` standard errors.

    Args:
        tables: Of ``hidden_state_growth``.

    Returns:
        The finding.
    """
    table = tables["second_moment"]
    rows = table[(table["module"] == "residual2") & (table["placement"] == "pre_ln")]
    margin = family_limit(len(rows), rows["seeds"].min()) * rows["q_hat_se"]
    outside = (rows["q_hat"] + margin < rows["lemma2_low"]) | (rows["q_hat"] - margin > rows["lemma2_high"])
    position = (rows["q_hat"] - rows["lemma2_low"]) / (rows["lemma2_high"] - rows["lemma2_low"])
    return Finding(
        "fails" if outside.any() else "holds",
        f"largest position between the bounds (0: lower, 1: upper; smallest {position.min():.2f}); "
        f"{int((~outside).sum())} of {len(rows)} layers inside",
        float(position.max()),
        None,
        sample(rows, "width", "depth", "tokens"),
    )


def lemma3(tables: Tables) -> Finding:
    """Fail if a spectral norm is not sqrt(d)/||y||; hold under a condition if one exceeds 2 sqrt(d)/||x||.

    Args:
        tables: Of ``norm_jacobian``.

    Returns:
        The finding.
    """
    table = tables["jacobian"]
    error = (table["spectral_norm"] / table["lemma3"] - 1).abs().max()
    excess = float((table["spectral_norm"] / table["without_mean"]).max())
    verdict = "holds_under" if excess > MEAN_DOMINATED else "holds"
    return Finding(
        "fails" if error > FORMULA_DIGITS else verdict,
        f"largest norm over sqrt(d)/||x||, where {table['mean_share'].max():.2%} of ||x||^2 is in the "
        f"coordinate mean; sqrt(d)/||y|| is met to {error:.0e}",
        excess,
        None,
        f"d = {table['width'].iloc[0]}, {table['seed'].nunique()} draws",
    )


def concentration_chi2(tables: Tables) -> Finding:
    """Fail if an interval of delta is above the lemma; hold loosely if at 0.1 it is below half of it.

    Args:
        tables: Of ``concentration``.

    Returns:
        The finding.
    """
    table = tables["tail"]
    rows = table[(table["series"] == "input") & (table["eps"] > 0)]
    at = rows[rows["eps"] == PAPER_POINT[0]].iloc[0].to_dict()
    verdict = "holds_loosely" if at["delta_hat_high"] < at["lemma"] / 2 else "holds"
    return Finding(
        "fails" if (rows["delta_hat_low"] > rows["lemma"]).any() else verdict,
        f"delta(0.1) of Gaussian tokens; allowed is {at['lemma']:.3f}, the exact tail is {at['chi2']:.4f}",
        at["delta_hat"],
        (at["delta_hat_low"], at["delta_hat_high"]),
        sample(rows, "width", "tokens"),
    )


def concentration_measured(tables: Tables) -> Finding:
    """Fail if delta(0.1) of a placement is above 0.125 with all of its interval.

    Args:
        tables: Of ``concentration``.

    Returns:
        The finding.
    """
    table = tables["tail"]
    rows = table[(table["series"] != "input") & (table["eps"] == PAPER_POINT[0])]
    worst = _largest(rows, rows["delta_hat"])
    return Finding(
        "fails" if (rows["delta_hat_low"] > PAPER_POINT[1]).any() else "holds",
        f"delta(0.1), the larger of both placements ({worst['series']}); claimed is at most {PAPER_POINT[1]}"
        + (", which the interval reaches" if (rows["delta_hat_high"] > PAPER_POINT[1]).any() else ""),
        worst["delta_hat"],
        (worst["delta_hat_low"], worst["delta_hat_high"]),
        sample(rows, "width", "depth", "tokens"),
    )
