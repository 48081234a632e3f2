"""The table of a check: one row for each tensor."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from empirical.initialization.against import compare
from empirical.initialization.expected import Expected
from empirical.initialization.family import Family
from empirical.initialization.finding import Finding
from empirical.initialization.items import Item
from empirical.initialization.report import Row
from empirical.initialization.sample import Sample

NO_SAMPLE = Sample(0, math.nan, math.nan, math.nan, "undecided", 0, {})
"""Of a tensor that has no numbers, or some that are none."""


class Beside(NamedTuple):
    """The columns of the scheme."""

    variance: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    detectable: float = math.nan


def rows(
    items: list[Item],
    samples: dict[Item, Sample],
    known: dict[Item, Expected],
    tested: Family,
    findings: Iterable[Finding],
) -> tuple[Row, ...]:
    """Put everything about each tensor into a row.

    Args:
        items: All tensors, in order; those with numbers are keys of ``samples``.
        samples: Samples of those that have numbers.
        known: What the scheme says.
        tested: The family of tests.
        findings: Findings and notes.

    Returns:
        The rows, in the order of the layers; what no layer has comes last.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        for name in finding.names:
            kinds[name].append(finding.kind)
    means = {test.items[0]: test.p_value for test in tested.tests if test.kind == "mean"}
    made = []
    for item in items:
        sample = samples.get(item, NO_SAMPLE)
        beside = _beside(item, sample, known[item], tested.level) if item in known else Beside()
        key = item.key
        said = [*kinds[item.label], *(kinds[item.name] if item.name != item.label else [])]
        made.append(
            Row(
                name=item.label,
                layer=item.layer,
                module="" if key is None else key.module,
                parameter=item.name.rpartition(".")[2] if key is None else key.parameter,
                entries=sample.entries or math.prod(item.shape),
                mean_hat=sample.mean,
                variance_hat=sample.variance,
                law=sample.law,
                kurtosis=sample.kurtosis,
                dtype=item.dtype,
                variance=beside.variance,
                ratio=beside.ratio,
                ratio_low=beside.low,
                ratio_high=beside.high,
                p_value=beside.p_value,
                p_value_mean=means.get(item, math.nan),
                detectable=beside.detectable,
                finding=", ".join(dict.fromkeys(said)),
            )
        )
    return tuple(sorted(made, key=lambda row: math.inf if row.layer is None else row.layer))


def _beside(item: Item, sample: Sample, known: Expected, level: float) -> Beside:
    """The columns of the scheme; without a test where it draws nothing, or where nothing is drawn."""
    variance = float(known.draw.variance)
    if variance == 0:
        return Beside(variance)
    if not sample.drawn:
        return Beside(variance, sample.variance / variance)
    found = compare([item], {item: sample}, known)
    low, high = found.interval(0.95)
    return Beside(variance, found.ratio, low, high, found.p_value, found.law.detectable(level))
