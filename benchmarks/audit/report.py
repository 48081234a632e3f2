"""The page on how well the families are predicted, and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks.audit.store import Trial
from empirical.audit.statistics import CHANCE, CONFIDENCE, STANDARD_ERRORS, UNPREDICTED, ZERO

MISSES_SHOWN = 60


@dataclass(frozen=True)
class Summary:
    """How well the tensors of one trial, or of several together, are predicted.

    Args:
        tensors: How many are compared.
        zeros: How many more are exactly zero, predicted and measured.
        unpredicted: How many more are measured and have no prediction.
        within: How many are within the target or 3 standard errors.
        beyond: How many differ beyond the target and beyond what chance grants the worst tensor of all.
        median: Median |ratio - 1|.
        largest: Largest |ratio - 1|.
        error: Largest relative standard error of a ratio.
    """

    tensors: int
    zeros: int
    unpredicted: int
    within: int
    beyond: int
    median: float
    largest: float
    error: float


def judge(trials: Iterable[Trial]) -> pd.DataFrame:
    """Judge the tensors of all trials together.

        meets <=> |ratio - 1| <= max(target) or |log ratio| <= 3 s;   beyond <=> neither, with z in place of 3

    z is the standard normal quantile that any of all tensors exceeds with probability `CHANCE`.

    Args:
        trials: Trials that were not refused.

    Returns:
        All tables in one, with ``family``, ``variant``, ``library``, ``target``, ``away`` = |ratio - 1|, its
        relative standard error ``s``, and the judgements ``compared``, ``meets`` and ``beyond``.
    """
    tables = [
        trial.table.assign(
            family=trial.family,
            variant=trial.variant,
            library=trial.setting["library"].split()[0],
            target=trial.setting["tolerance"],
        )
        for trial in trials
    ]
    table = pd.concat(tables, ignore_index=True)
    table["compared"] = ~table.flag.isin([ZERO, UNPREDICTED])
    z = norm.isf(CHANCE / (2 * max(1, int(table.compared.sum()))))
    with np.errstate(divide="ignore", invalid="ignore"):
        table["s"] = np.log(table.ratio_high / table.ratio_low) / (2 * norm.isf((1 - CONFIDENCE) / 2))
        table["away"] = (table.ratio - 1).abs()
        surprise = np.log(table.ratio).abs() / table.s
    near = table.away <= table.target
    table["meets"] = table.compared & (near | (surprise <= STANDARD_ERRORS))
    table["beyond"] = table.compared & ~near & ~(surprise <= z)
    return table


def summary(table: pd.DataFrame) -> Summary:
    """Summarise judged tensors."""
    rows = table[table.compared]
    return Summary(
        tensors=len(rows),
        zeros=int((table.flag == ZERO).sum()),
        unpredicted=int((table.flag == UNPREDICTED).sum()),
        within=int(rows.meets.sum()),
        beyond=int(rows.beyond.sum()),
        median=float(rows.away.median()),
        largest=float(rows.away.max()),
        error=float(rows.s.max()),
    )


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


HEAD = ("tensors", "within", "share", "beyond chance", "median error", "largest", "largest s.e.")


def _cells(s: Summary) -> tuple[str, ...]:
    more = [f" + {s.zeros} zero"] if s.zeros else []
    more += [f" + {s.unpredicted} unpredicted"] if s.unpredicted else []
    return (
        f"{s.tensors}{''.join(more)}",
        str(s.within),
        _percent(s.within / max(1, s.tensors)),
        str(s.beyond),
        _percent(s.median, 2),
        _percent(s.largest),
        _percent(s.error),
    )


def _overview(table: pd.DataFrame, untuned: set[str]) -> str:
    group = np.where(table.family.isin(untuned), "untuned", table.library)
    rows = []
    for name in ("torch", "transformers", "x-transformers", "untuned"):
        for loss, chosen in (
            ("linear", table.variant == "linear"),
            ("cross entropy", table.variant != "linear"),
        ):
            part = table[(group == name) & chosen]
            if len(part):
                families = str(part.groupby(["family", "variant"]).ngroups)
                rows.append((name, loss, families, *_cells(summary(part))))
    return _markdown(("families", "loss", "modules", *HEAD), rows)


def _families(trials: Sequence[Trial], table: pd.DataFrame) -> str:
    rows = []
    for trial in trials:
        if trial.refused is None:
            part = table[(table.family == trial.family) & (table.variant == trial.variant)]
            rows.append((trial.family, trial.variant, str(trial.setting["seeds"]), *_cells(summary(part))))
    return _markdown(("family", "variant", "seeds", *HEAD), rows) if rows else "None."


def _refused(trials: Sequence[Trial]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        if trial.refused is not None:
            reasons.setdefault((trial.family, trial.refused), []).append(trial.variant)
    rows = [
        (family, ", ".join(variants), reason.replace("|", "\\|").replace("\n", " "))
        for (family, reason), variants in reasons.items()
    ]
    return _markdown(("family", "variants", "reason"), rows) if rows else "None."


def _misses(table: pd.DataFrame) -> str:
    missed = table[table.compared & ~table.meets].sort_values("away", ascending=False)
    if missed.empty:
        return "None."
    rows = [
        (
            str(row["family"]),
            str(row["variant"]),
            f"`{row['parameter']}`",
            f"{row['ratio']:.3f}",
            f"{row['ratio_low']:.3f} … {row['ratio_high']:.3f}",
            "yes" if row["beyond"] else "no",
        )
        for row in missed.head(MISSES_SHOWN).to_dict("records")
    ]
    head = ("family", "variant", "tensor", "measured / predicted", "95 %", "beyond chance")
    more = len(missed) - MISSES_SHOWN
    return _markdown(head, rows) + (
        f"\n\nand {more} more, in the table beside this page." if more > 0 else ""
    )


INTRODUCTION = f"""# Predicted and measured gradients of models that others wrote

Generated by `python -m benchmarks.audit --report`. Every module is built by its own library from a
configuration, with its own initialisation. `empirical.audit` reads the architecture in the module (no table
of families, no name of a class), predicts E‖∂L/∂θ‖² of every parameter tensor from it, and measures the same
on fresh modules. Nothing is fitted; how many seeds and samples a variant has was decided by computing time
alone, before it was compared.

- Variant *linear*: loss (1/T) Σ ⟨r_i, y_i⟩ on the last hidden states. *Tied* and *untied*: cross entropy on
  the logits of the language-model variant, with uniform random labels.
- The target is 3 % for the linear loss and 5 % for cross entropy. A tensor is *within* if measured /
  predicted differs from 1 by no more than that, or by no more than {STANDARD_ERRORS:.0f} standard errors.
- *Beyond chance*: further off than both the target and z standard errors, z so large that chance makes any of
  all tensors of this page exceed it with probability {_percent(CHANCE, 0)}.
- *Zero* tensors have exactly no gradient, predicted and measured. *Unpredicted* ones are measured and have no
  prediction: the notes of their audit say why."""

UNTUNED = """Families that nobody looked at when the reader was written, tried afterwards. What counts is that
each is either right or refused. Their first trial showed a few things that were mended since: MPNet and
SigLIP were refused for the shape of an argument, BLOOM and MPT for want of ALiBi, and CTRL and XGLM, which
are refused now, were read and predicted wrongly."""


def report(trials: Sequence[Trial], untuned: set[str]) -> str:
    """Lay out the page.

    Args:
        trials: All trials, in the order of the tables.
        untuned: Names of the families that nobody tuned the reader for.

    Returns:
        Markdown.
    """
    table = judge(trial for trial in trials if trial.refused is None)
    first = [trial for trial in trials if trial.family not in untuned]
    later = [trial for trial in trials if trial.family in untuned]
    versions = sorted(
        {trial.setting["library"] for trial in trials} | {f"torch {trials[0].setting['torch']}"}
    )
    sizes = trials[0].setting["sizes"]
    origin = (
        f"Versions: {', '.join(versions)}. Width {sizes['width']}, {sizes['depth']} layers, {sizes['heads']} "
        f"heads, {sizes['batch']} × {sizes['tokens']} tokens, vocabulary {sizes['vocab']}, evaluation mode."
    )
    parts = [INTRODUCTION, origin, "## Overview", _overview(table, untuned)]
    parts += ["## Tensors that miss the target", _misses(table)]
    parts += ["## Families", _families(first, table), "### Refused", _refused(first)]
    parts += ["## Families that no one tuned for", UNTUNED, _families(later, table), "### Refused there"]
    parts += [_refused(later)]
    return "\n\n".join(parts) + "\n"
