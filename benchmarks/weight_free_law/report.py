"""The tables of docs/weight_free.md, and what in them is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks.weight_free_law.compare import judged
from benchmarks.weight_free_law.faults import FAULTS
from benchmarks.weight_free_law.trial import (
    AGAIN,
    DENSE,
    FIRST,
    FIRST_DENSE,
    FRESH,
    NUMPY,
    PART,
    SCALED,
    SIDES,
    TORCH,
    Trial,
)
from meanfield.cli import write
from meanfield.errors import InputError

BEGIN, END = "<!-- begin: python -m benchmarks.weight_free_law --report -->", "<!-- end -->"
TRUE = (TORCH, NUMPY, DENSE)
"""Sides whose law is that of dense weights."""
OTHER_LAW = "uniform weights"
"""The group of cases whose dense weights have another law than the sampler's: shown, not judged."""
BEYOND = 3.0


def _family(trials: Iterable[Trial], side: str) -> pd.DataFrame:
    """All tests of one side together, judged."""
    tables = [trial.sides[side].assign(case=trial.case) for trial in trials]
    return judged(pd.concat(tables, ignore_index=True))


def _seen(table: pd.DataFrame) -> pd.Series:
    """By case, how many parameters are rejected."""
    either = table.mean_rejected | table.law_rejected
    return either.groupby(table.case, sort=False).sum()


def failures(trials: Sequence[Trial], *, faults: bool = True) -> list[str]:
    """List what is not as it should be.

    All tests of one side are one family. Nothing in the families of the sampler and of dense weights may be
    rejected; in every case something of the sample that is 5 % wrong has to be, and in some case something of
    each planted fault.

    Args:
        trials: The trials; those of other laws are left out.
        faults: Whether to ask for planted faults, which no single case has to see.

    Returns:
        One line each.
    """
    trials = [trial for trial in trials if trial.group != OTHER_LAW]
    if not trials:
        return []
    found = []
    for side in TRUE:
        table = _family(trials, side)
        for row in table[table.mean_rejected | table.law_rejected].itertuples():
            what = " and ".join(n for n, r in (("mean", row.mean_rejected), ("law", row.law_rejected)) if r)
            found.append(
                f"{side}, {row.case}, layer {row.layer} {row.module}.{row.parameter}: {what} rejected, ratio "
                f"{row.ratio:.4f}, z = {row.z:.1f}, p = {row.p_ks:.1e}"
            )
    seen = _seen(_family(trials, SCALED))
    found += [f"{SCALED}, {case}: not rejected" for case in seen.index[seen == 0]]
    for fault in FAULTS if faults else ():
        seen = _seen(_family(trials, fault))
        if not seen.any():
            found.append(f"{fault}: rejected in no case")
    return found


def rejected_cases(trials: Sequence[Trial], sides: Sequence[str] = TRUE) -> list[str]:
    """Name the cases of which something is rejected, all tests of a side being one family."""
    trials = [trial for trial in trials if trial.group != OTHER_LAW]
    names = []
    for side in sides if trials else ():
        seen = _seen(_family(trials, side))
        names += list(seen.index[seen > 0])
    return list(dict.fromkeys(names))


def in_short(trial: Trial) -> str:
    """Say how far the sampler and dense weights are off in one case, which alone decides nothing."""
    parts = []
    for side in (TORCH, DENSE):
        table = trial.sides[side]
        parts.append(f"{side} z {table.z.abs().max():.1f}, p {table.p_ks.min():.0e}")
    return "; ".join(parts)


def everything(trials: Iterable[Trial]) -> pd.DataFrame:
    """Put all comparisons into one table, a row per case and parameter.

    Args:
        trials: The trials.

    Returns:
        ``case, group, layer, module, parameter`` and, for the sampler and the second dense sample, ``ratio``,
        ``z`` and ``p_ks``.
    """
    rows = []
    for trial in trials:
        keys = trial.sides[DENSE][["layer", "module", "parameter"]]
        columns = {
            f"{side.replace(' ', '_')}_{column}": trial.sides[side][column]
            for side in TRUE
            for column in ("ratio", "z", "p_ks")
        }
        rows.append(keys.assign(**columns).assign(case=trial.case, group=trial.group))
    table = pd.concat(rows, ignore_index=True)
    first = ["case", "group", "layer", "module", "parameter"]
    return table[[*first, *(column for column in table if column not in first)]]


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _summary(table: pd.DataFrame) -> tuple[str, ...]:
    tests = table.dropna()
    expected = 2 * norm.sf(BEYOND) * len(tests)
    return (
        f"{len(tests)}" + (f" + {len(table) - len(tests)} zero" if len(tests) < len(table) else ""),
        _percent((tests.ratio - 1).abs().max()),
        f"{tests.z.abs().max():.1f}",
        f"{int((tests.z.abs() > BEYOND).sum())} ({expected:.1f})",
        f"{tests.p_ks.min():.1e}",
        f"{int((tests.p_ks < 0.01).sum())} ({0.01 * len(tests):.1f})",
        f"{int(table.mean_rejected.sum())} + {int(table.law_rejected.sum())}",
    )


def _overview(trials: Sequence[Trial]) -> str:
    head = (
        "against dense weights", "parameters", "largest error of a mean", "largest z", "means beyond 3 s.e.",
        "smallest p of KS", "p below 0.01", "rejected: means + laws", "cases that see it",
    )  # fmt: skip
    rows = []
    for side in SIDES:
        table = _family(trials, side)
        seen = _seen(table)
        rows.append((side, *_summary(table), f"{(seen > 0).sum()} of {len(seen)}"))
    return _markdown(head, rows)


def _cases(trials: Sequence[Trial]) -> str:
    families = {side: _family(trials, side) for side in SIDES}
    rows = []
    for trial in trials:
        cells = [trial.case]
        for side in TRUE:
            table = families[side][families[side].case == trial.case]
            tests = table.dropna()
            cells += [str(len(tests))] if side == TORCH else []
            error = _percent((tests.ratio - 1).abs().max())
            cells.append(f"{error}, {tests.z.abs().max():.1f}, {tests.p_ks.min():.3f}")
        rejected = sum(int(_seen(families[side])[trial.case]) for side in (TORCH, NUMPY))
        seen = [str(int(_seen(families[side])[trial.case])) for side in (SCALED, *FAULTS)]
        rows.append((*cells, str(rejected), *seen))
    head = (
        "case",
        "parameters",
        *TRUE,
        "sampler rejected",
        *(f"{side}: rejected" for side in (SCALED, *FAULTS)),
    )
    return _markdown(head, rows)


def _beyond(trials: Sequence[Trial]) -> str:
    rows = []
    for side in TRUE:
        table = _family(trials, side)
        for row in table[table.z.abs() > BEYOND].itertuples():
            parameter = f"{row.layer} {row.module}.{row.parameter}"
            rows.append((
                side,
                str(row.case),
                parameter,
                f"{row.ratio:.4f}",
                f"{row.z:+.2f}",
                f"{row.p_ks:.3f}",
            ))
    return _markdown(("side", "case", "parameter", "ratio", "z", "p of KS"), rows) if rows else "None."


def _again(trials: Sequence[Trial]) -> str:
    rows = []
    for trial in trials:
        for side in (FRESH, FIRST, FIRST_DENSE):
            table = _family([trial], side)
            worst = table.sort_values("p_ks").iloc[0]
            name = f"{worst.layer} {worst.module}.{worst.parameter}"
            rows.append((trial.case, side, *_summary(table), f"{name}: z = {worst.z:+.2f}"))
    head = (
        "case", "against fresh dense models", "parameters", "largest error of a mean", "largest z",
        "means beyond 3 s.e.", "smallest p of KS", "p below 0.01", "rejected: means + laws", "smallest p of",
    )  # fmt: skip
    return _markdown(head, rows)


def _other_laws(trials: Sequence[Trial]) -> str:
    rows = [
        (trial.case, side, *_summary(_family([trial], side))) for trial in trials for side in (TORCH, DENSE)
    ]
    head = (
        "dense weights are uniform", "against them", "parameters", "largest error of a mean", "largest z",
        "means beyond 3 s.e.", "smallest p of KS", "p below 0.01", "rejected: means + laws",
    )  # fmt: skip
    return _markdown(head, rows)


def tables(trials: Sequence[Trial], again: Sequence[Trial] = ()) -> str:
    """Lay out all tables.

    Args:
        trials: The trials, in the order of the page.
        again: What was tried once more.

    Returns:
        Markdown.
    """
    equal = [trial for trial in trials if trial.group != OTHER_LAW]
    other = [trial for trial in trials if trial.group == OTHER_LAW]
    shown = {
        name: ", ".join(map(str, sorted({trial.setting[name] for trial in trials})))
        for name in ("commit", "sampler", "torch", "numpy")
    }
    seeds = [trial.setting["seeds"] for trial in trials]
    more = [f"{trial.case} {n}" for trial, n in zip(trials, seeds, strict=True) if n > min(seeds)]
    models = f"{min(seeds)} models in each sample" + (f" ({', '.join(more)})" if more else "")
    minutes = sum(trial.setting["seconds"] for trial in trials) / 60
    origin = (
        f"{len(trials)} cases, {models}, {PART} times fewer in numpy and "
        f"with planted faults; {minutes:.0f} minutes on one core; torch {shown['torch']}, numpy "
        f"{shown['numpy']}. Sampler: commit {shown['commit']}, digest of its sources {shown['sampler']}."
    )
    parts = [origin, "### All tests together", _overview(equal), "### Rejected"]
    parts.append("\n".join(f"- {line}" for line in failures(equal)) or "Nothing.")
    if again:
        parts += [f"Once more, on {AGAIN} times as many fresh models of either side:", _again(again)]
    for group in dict.fromkeys(trial.group for trial in equal):
        title = f"### {group.capitalize()}"
        parts += [title, _cases_of(group, equal)]
    parts += ["### Means beyond 3 standard errors", _beyond(equal)]
    if other:
        parts += ["### Uniform weights", _other_laws(other)]
    return "\n\n".join(parts)


def _cases_of(group: str, trials: Sequence[Trial]) -> str:
    lines = _cases(trials).split("\n")
    inside = [trial.group == group for trial in trials]
    return "\n".join([*lines[:2], *np.array(lines[2:])[inside]])


def update(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page.

    Args:
        page: The page.
        text: What shall stand there.

    Raises:
        InputError: If the page has no marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{page} has no lines {BEGIN!r} and {END!r}: put them where the tables belong")
    write(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
