"""docs/accuracy.md as a function of compared tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.accuracy.compare import CHANCE, KEYS, STANDARD_ERRORS, TARGET, Score, score
from benchmarks.accuracy.components import DRAWS, QUANTITIES, SETTINGS, WIDTH

MEDIAN, R_SQUARED, COVERAGE = 0.007, 0.9995, (0.93, 0.97)
MISSES_SHOWN = 30
# p50, p90 and p99 of the error of the gradient variance in %, stated in arXiv 2403.09635.
OTHERS = {
    "linear": (0.2, 1.0, 2.2),
    "activation": (0.6, 1.5, 2.6),
    "norm": (0.4, 1.5, 3.2),
    "attention": (2.2, 13.3, 44.5),
}
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Comparison:
    """One model at one width, predicted and measured.

    Args:
        model: Its name.
        width: Its width.
        seeds: Seeds measured.
        table: The judged table.
    """

    model: str
    width: int
    seeds: int
    table: pd.DataFrame


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f} %"


def _row(name: str, seeds: str, s: Score) -> list[str]:
    return [
        name,
        seeds,
        f"{s.tensors}" + (f" + {s.zeros}" if s.zeros else ""),
        _percent(s.largest_se),
        _percent(s.median),
        _percent(s.largest, 1),
        _percent(s.limit_largest, 1),
        f"{_percent(s.met, 1)} ({s.missed})",
        str(s.disagree),
        f"{s.r_squared:.6f}",
        _percent(s.coverage, 1),
    ]


HEAD = [
    "model",
    "seeds",
    "tensors (+ zeros)",
    "largest s.e.",
    "median error",
    "largest error",
    "of the limit",
    "within (missed)",
    "disagree",
    "R²",
    "seeds in the band",
]


def _models(comparisons: list[Comparison], target: float) -> str:
    rows = [_row(c.model, str(c.seeds), score([c.table], target)) for c in comparisons]
    rows.append(_row("**all**", "", score([c.table for c in comparisons], target)))
    return _markdown(HEAD, rows)


def _targets(comparisons: list[Comparison], target: float) -> str:
    s = score([c.table for c in comparisons], target)

    def line(met: bool, what: str, found: str) -> str:
        return f"- {'Met' if met else '**Missed**'}: {what}: {found}."

    low, high = COVERAGE
    return "\n".join([
        line(
            s.missed == 0,
            f"every tensor within {_percent(target, 0)} or {STANDARD_ERRORS:.0f} standard errors",
            f"{s.missed} of {s.tensors} miss it; by chance alone {s.by_chance:.1f} would",
        ),
        line(s.median < MEDIAN, f"median error below {_percent(MEDIAN, 1)}", _percent(s.median)),
        line(s.r_squared > R_SQUARED, f"R² above {R_SQUARED}", f"{s.r_squared:.6f}"),
        line(
            low <= s.coverage <= high,
            f"{_percent(low, 0)} to {_percent(high, 0)} of single seeds inside their 95 % band",
            f"{_percent(s.coverage, 1)}, of the worst tensor {_percent(s.coverage_low, 1)}",
        ),
    ])


def _misses(comparisons: list[Comparison]) -> str:
    tables = [c.table.assign(model=c.model, width=c.width) for c in comparisons]
    table = pd.concat(tables, ignore_index=True)
    missed = table[~table.meets].sort_values("error", key=lambda error: -error.abs())
    if missed.empty:
        return "None."
    rows = [
        [
            str(row["model"]),
            str(row["width"]),
            " ".join(str(row[key]) for key in KEYS),
            _percent(row["error"], 1),
            _percent(row["error_se"]),
            "yes" if row["disagrees"] else "no",
        ]
        for row in missed.head(MISSES_SHOWN).to_dict("records")
    ]
    more = len(missed) - MISSES_SHOWN
    text = _markdown(["model", "width", "tensor", "error", "s.e.", "beyond chance"], rows)
    return text + (f"\n\nand {more} more, in the table beside this page." if more > 0 else "")


def _components(components: dict[str, pd.DataFrame]) -> str:
    rows, larger = [], []
    for name, table in components.items():
        percentiles = 100 * np.percentile(table[QUANTITIES], PERCENTILES, axis=0)  # (percentiles, quantities)
        cells = [" / ".join(f"{value:.2f}" for value in column) for column in percentiles.T]
        noise = 100 * table.q_grad_se.median()
        surprise = (table.q_grad / table.q_grad_se).median()
        others = " / ".join(f"{value:.1f}" for value in OTHERS[name])
        rows.append([name, *cells, f"{noise:.2f}", f"{surprise:.2f}", others])
        own = percentiles[:, QUANTITIES.index("q_grad")]
        larger += [
            f"{name} p{percentile} ({value:.2f} against {other:.1f})"
            for percentile, value, other in zip(PERCENTILES, own, OTHERS[name], strict=True)
            if value >= other
        ]
    head = [
        "component",
        "variance",
        "covariance",
        "gradient variance",
        "gradient covariance",
        "its s.e.",
        "error / s.e.",
        "others' gradient variance",
    ]
    target = "every percentile of the gradient variance smaller than others'"
    verdict = f"**Missed**: {target}: not {', '.join(larger)}." if larger else f"Met: {target}."
    return f"{_markdown(head, rows)}\n\n- {verdict}"


INTRODUCTION = f"""# How accurate the predictions are

Measured gradients of models that were not written here, beside what is predicted from their
configuration alone. No number is fitted. Generated by `python -m benchmarks.accuracy` from what
`python -m benchmarks.accuracy.measure MODEL WIDTH SEEDS` left in `benchmarks/accuracy/measured/`.

Encoders of `torch.nn.TransformerEncoder` (six layers drawn independently: its constructor copies one),
`GPT2Model`, `BertModel`, `LlamaModel`, `T5EncoderModel`, and this project's own build with Xavier
weights; each with its own initialisation, 6 layers, 2 × 32 tokens, evaluation mode, loss (1/T) Σ ⟨r_i,
y_i⟩ with r_i ~ N(0, I/d) on the last hidden states. Weights and r are new for every seed. Token ids are
fixed; inputs that are vectors are N(0, I), new for every seed. The number of seeds was fixed from a
pilot of the spread, before any comparison.

- *Error* is predicted / measured - 1 of the mean square gradient norm of one parameter tensor, packed
  matrices in their parts. *Of the limit* is the largest error without the correction for finite width.
- A tensor is *within* if its error is at most {_percent(TARGET[512], 0)} at width 512,
  {_percent(TARGET[128], 0)} at width 128, or {STANDARD_ERRORS:.0f} standard errors of measured and
  predicted mean together.
- With hundreds of tensors some miss that by chance. They *disagree* beyond the target and beyond z
  standard errors, z so large that chance makes any tensor of all disagree in {_percent(CHANCE, 0)} of
  such comparisons. If any does, the command's exit status is 1.
- R² is that of log predicted against log measured, about the line of equality.
- Zeros are tensors whose gradient is exactly zero (a key's bias) and was measured as rounding."""

ALONE = f"""Error in % (percentiles 50 / 90 / 99 over {SETTINGS} random settings) of the second moments
after one component, and of those of the gradients before it, in the limit of infinite width;
covariances relative to the variance. Gaussian tokens of width {WIDTH}, 8 to 64 of them, correlation 0 to
0.9 forward and backward. Measured on {DRAWS["attention"]} draws ({DRAWS["linear"]} of the linear map), whose
standard error is part of every number: its median for the gradient variance is given, and the median error in
such units, which is 0.67 if the theory is exact.
The last column is what arXiv 2403.09635 states for its formulas, at settings of its own (activation: ReLU;
attention: without the way through the scores)."""


def report(comparisons: list[Comparison], components: dict[str, pd.DataFrame], origin: str) -> str:
    """Lay out the page.

    Args:
        comparisons: Every measured model.
        components: Errors of every component, columns `QUANTITIES` and the same with ``_se``.
        origin: A sentence on versions and sample sizes.

    Returns:
        Markdown.
    """
    parts = [INTRODUCTION, origin]
    for width, target in TARGET.items():
        chosen = [c for c in comparisons if c.width == width]
        if chosen:
            parts += [f"## Width {width}", _models(chosen, target), _targets(chosen, target)]
    parts += ["## Tensors that miss the target", _misses(comparisons)]
    parts += ["## One component alone", ALONE, _components(components)]
    return "\n\n".join(parts) + "\n"
