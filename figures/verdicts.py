"""One verdict per claim of the paper: what theory derives beside what the measurements say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures.criteria import CRITERIA
from figures.criteria.finding import Finding, Tables, disagreements, family_limit
from figures.style import write_whole
from meanfield.claims import LEDGER, Setting, derive

UNMEASURED = {
    "lemma4": "linear algebra: nothing to measure; the figure of Lemma 3 rests on it",
    "lemma5": "true of every distribution, measured ones included: nothing to measure",
    "definition1": "a definition: nothing to measure",
}


def measured(claim: str, available: Mapping[str, Tables]) -> tuple[Finding, str]:
    """Measured verdict of a claim from the tables that exist.

    Args:
        claim: Its id.
        available: Figure name to tables.

    Returns:
        The finding (``not_measured`` with the reason where no table decides) and the figure that shows it.
    """
    if claim in UNMEASURED:
        return Finding("not_measured", UNMEASURED[claim]), ""
    figure, criterion = CRITERIA[claim]
    if figure not in available:
        how = ": needs training runs, --preset warmup" if LEDGER[claim].kind == "training" else ""
        return Finding("not_measured", f"figure {figure} has not been made here{how}"), ""
    return criterion(available[figure]), figure


def agreement(tables: Tables) -> dict[str, Any]:
    """How theory and measurement agree over every parameter of every layer.

    Args:
        tables: Tables of ``gradient_by_layer``.

    Returns:
        rows, within_tolerance, within_standard_errors_only, neither, disagree (beyond chance), family_limit,
        largest_z, worst_ratio with worst_z and worst_row, median_standard_error (relative), seeds, width,
        depth, tokens.
    """
    table = tables["parameters"]
    by = table["agreed_by"].value_counts()
    worst = table.iloc[int((table["ratio"] - 1).abs().to_numpy().argmax())].to_dict()
    names = ("placement", "depth", "tokens", "layer", "module", "parameter")
    return {
        "rows": len(table),
        "within_tolerance": int(by.get("tolerance", 0)),
        "within_standard_errors_only": int(by.get("standard errors", 0)),
        "neither": int(by.get("neither", 0)),
        "disagree": len(disagreements(table)),
        "family_limit": family_limit(len(table), table["seeds"].min()),
        "largest_z": float(table["z"].abs().max()),
        "worst_ratio": worst["ratio"],
        "worst_z": worst["z"],
        "worst_row": ", ".join(f"{name} {worst[name]}" for name in names),
        "median_standard_error": float((table["grad_sq_hat_se"] / table["grad_sq"]).median()),
        "seeds": int(table["seeds"].min()),
        **{name: sorted(table[name].unique().tolist()) for name in ("width", "depth", "tokens")},
    }


def verdicts(available: Mapping[str, Tables], setting: Setting) -> dict[str, Any]:
    """Verdict of theory and of measurement on every claim, and how the two agree row by row.

    Args:
        available: Figure name to tables.
        setting: Sizes at which the derivations are evaluated.

    Returns:
        ``claims``: one dictionary per claim of the ledger; ``agreement``: as from `agreement`, None without
        the figure ``gradient_by_layer``.
    """
    claims = []
    for claim in LEDGER.values():
        derivation = derive(claim.id, setting) if claim.module else None
        finding, figure = measured(claim.id, available)
        claims.append({
            "id": claim.id,
            "statement": claim.statement,
            "theory": derivation.verdict if derivation else "not_derived",
            "theory_condition": derivation.condition if derivation else "",
            "theory_steps_hold": derivation.holds if derivation else None,
            "measured": finding.verdict,
            **{key: value for key, value in finding._asdict().items() if key != "verdict"},
            "figure": figure,
        })
    by_layer = available.get("gradient_by_layer")
    return {"claims": claims, "agreement": agreement(by_layer) if by_layer else None}


def disagrees(report: Mapping[str, Any]) -> bool:
    """Whether theory and measurement disagree beyond chance, or a step of a derivation does not hold.

    Args:
        report: What `verdicts` returned.

    Returns:
        True if so.
    """
    wrong_steps = any(claim["theory_steps_hold"] is False for claim in report["claims"])
    return wrong_steps or bool(report["agreement"] and report["agreement"]["disagree"])


def summary(agreed: Mapping[str, Any]) -> str:
    """Say how theory and measurement agree.

    Args:
        agreed: What `agreement` returned.

    Returns:
        A few sentences.
    """
    sizes = ", ".join(
        f"{symbol} = {' and '.join(map(str, agreed[name]))}"
        for symbol, name in (("d", "width"), ("L", "depth"), ("n", "tokens"))
    )
    return (
        f"Theory and measurement, every parameter of every layer ({sizes}; {agreed['seeds']} seeds): of "
        f"{agreed['rows']} rows {agreed['within_tolerance']} agree within 2 %, "
        f"{agreed['within_standard_errors_only']} within 3 standard errors only, "
        f"{agreed['neither']} in neither way; {agreed['disagree']} differ beyond chance "
        f"(|z| > {agreed['family_limit']:.2f}). The median standard error is "
        f"{agreed['median_standard_error']:.1%}; the worst ratio is {agreed['worst_ratio']:.3f} "
        f"(z = {agreed['worst_z']:.1f}; {agreed['worst_row']})."
    )


def value(claim: Mapping[str, Any]) -> str:
    """The deciding number of a claim with its interval.

    Args:
        claim: A dictionary of ``claims``.

    Returns:
        Text, empty where nothing was measured.

    Example:
        >>> value({"value": 0.5, "interval": (0.49, 0.51)})
        '0.5 [0.49, 0.51]'
    """
    if claim["value"] is None:
        return ""
    text = f"{claim['value']:.3g}"
    return (
        text
        if claim["interval"] is None
        else f"{text} [{claim['interval'][0]:.3g}, {claim['interval'][1]:.3g}]"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The verdict table for reading.

    Args:
        report: What `verdicts` returned.

    Returns:
        Markdown text.
    """
    lines = [
        "# Verdicts",
        "",
        "Theory: what the derivation finds. Measured: on real models, at initialisation unless the claim is "
        "about training.",
    ]
    if report["agreement"]:
        lines += ["", summary(report["agreement"])]
    lines += [
        "",
        "| claim | statement | theory | measured | value [95 %] | what it is | sample | figure |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in report["claims"]:
        cells = [f"`{claim['id']}`", claim["statement"], claim["theory"], claim["measured"]]
        cells += [value(claim), claim["statistic"], claim["sample"], claim["figure"]]
        # A bar would end the cell, also in LaTeX's \\| for a norm.
        safe = [cell.replace("\\|", "\\Vert ").replace("|", "\\|") for cell in cells]
        lines.append("| " + " | ".join(safe) + " |")
    conditions = [claim for claim in report["claims"] if claim["theory_condition"]]
    lines += ["", "## What the derivations add", ""]
    lines += [f"- `{claim['id']}`, {claim['theory']}: {claim['theory_condition']}" for claim in conditions]
    return "\n".join(lines) + "\n"


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``verdicts.json`` and ``verdicts.md``, whole or not at all.

    Args:
        report: What `verdicts` returned.
        folder: An existing folder.
    """
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    write_whole(folder, {"verdicts.json": text.encode(), "verdicts.md": markdown(report).encode()})
