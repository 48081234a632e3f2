"""Predict everything that was measured, and write docs/accuracy.md with its tables.

The exit status is 1 if any tensor differs from its prediction by more than the target and by more than chance
grants the worst of all tensors, and 0 otherwise; targets that are missed by less are stated on the page.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track

from benchmarks.accuracy import components
from benchmarks.accuracy.compare import TARGET, join, judge, predict
from benchmarks.accuracy.report import Comparison, report
from benchmarks.accuracy.store import MEASURED, load_measured
from meanfield.cli import Parser, run
from meanfield.errors import InputError, positive_integer

COLUMNS = [
    *("model", "width", "layer", "module", "parameter"),
    *("grad_sq", "grad_sq_se", "grad_sq_limit", "grad_sq_sd", "grad_sq_low", "grad_sq_high"),
    *("grad_sq_hat", "grad_sq_hat_se", "grad_sq_hat_sd", "error", "error_se", "inside", "meets", "disagrees"),
]


def main() -> int:
    """Run the command line."""
    parser = Parser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of accuracy.md and results/")
    parser.add_argument("--samples", type=int, default=256, help="weight-free samples of each prediction")
    options = parser.parse_args()
    out, samples = options.out, positive_integer("samples", options.samples)
    console = Console(stderr=True)
    measured = [load_measured(path) for path in sorted(MEASURED.glob("*.npz"))]
    if not measured:
        raise InputError(f"{MEASURED} is empty: measure with python -m benchmarks.accuracy.measure")
    joined = [join(predict(m.setting, samples), m) for m in track(measured, "predict", console=console)]
    tensors = sum(map(len, joined))
    comparisons = [
        Comparison(
            m.setting["model"], m.setting["width"], m.seeds, judge(table, TARGET[m.setting["width"]], tensors)
        )
        for m, table in zip(measured, joined, strict=True)
    ]
    table = pd.concat([c.table.assign(model=c.model, width=c.width) for c in comparisons])
    alone = pd.read_csv(components.MEASURED)
    errors = {name: components.errors(name, alone[alone.component == name]) for name in components.COMPONENTS}
    versions = {f"torch {m.setting['torch']} and transformers {m.setting['transformers']}" for m in measured}
    origin = f"Measured with {', '.join(sorted(versions))}; predicted with {samples} weight-free samples."
    (out / "results").mkdir(parents=True, exist_ok=True)
    table[COLUMNS].to_csv(out / "results" / "accuracy.csv", index=False, float_format="%.7g")
    pd.concat([rows.assign(component=name) for name, rows in errors.items()]).to_csv(
        out / "results" / "accuracy_components.csv", index=False, float_format="%.7g"
    )
    (out / "accuracy.md").write_text(report(comparisons, errors, origin), encoding="utf-8")
    disagree = int(table.disagrees.sum())
    print(f"{len(table)} tensors, {disagree} disagree beyond chance: {out / 'accuracy.md'}")
    return 1 if disagree else 0


if __name__ == "__main__":
    run("python -m benchmarks.accuracy", main)
