"""Predict and measure the gradients of families of models that others wrote.

--list builds every family at small sizes and runs it forward and backward. --report writes
docs/audit_table.md from what was measured, and exits with status 1 if any tensor disagrees beyond chance.
Otherwise the families are tried at full size, one file per family and variant; those that have a file are
left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.audit import report
from benchmarks.audit.facts import facts
from benchmarks.audit.families import families, untuned
from benchmarks.audit.family import FULL, SMALL
from benchmarks.audit.store import MEASURED, Trial, load, path_of, save
from benchmarks.audit.trial import attempt_by_name, quiet
from meanfield.cli import Parser, run
from meanfield.errors import InputError, UnknownNameError, positive_integer

COLUMNS = [
    *("library", "family", "variant", "parameter", "layer", "module", "role"),
    *("grad_sq", "grad_sq_hat", "ratio", "ratio_low", "ratio_high", "inside", "flag", "meets", "beyond"),
]


def show_families() -> Iterator[str]:
    """Run every variant of every family, and yield one line on each."""
    line = "{:<30} {:<14} {:<7} {:>10} {:>8} {:>9} {:>7} {:>10}"
    yield line.format("family", "library", "variant", "output", "tensors", "entries", "unused", "not drawn")
    for family in (families(SMALL) | untuned(SMALL)).values():
        for variant, model in family.variants.items():
            found = facts(model)
            shape = "x".join(map(str, found.shape)) or "scalar"
            numbers = (found.tensors, found.parameters, len(found.unused), len(found.constant))
            yield line.format(family.name, family.library, variant, shape, *numbers)


def try_all(names: list[str], variants: list[str], seeds: int, samples: int, jobs: int, out: Path) -> int:
    """Audit what has no file yet, and return how many could not be tried."""
    known = families(FULL) | untuned(FULL)
    for name in names:
        if name not in known:
            raise UnknownNameError("family", name, known)
    todo = [
        (name, variant)
        for name in names or known
        for variant in known[name].variants
        if variant in variants and not path_of(out, name, variant).exists()
    ]
    failed = 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=20) as pool:
        running = {
            pool.submit(attempt_by_name, *what, FULL, seeds=seeds, samples=samples): what for what in todo
        }
        for done in as_completed(running):
            what = " ".join(running[done])
            error = done.exception()
            if error is not None:
                failed += 1
                print(f"{what}: {type(error).__name__}: {error}", flush=True)
                continue
            trial = done.result()
            save(out, trial)
            print(f"{what}: {trial.refused or _in_short(trial)}", flush=True)
    return failed


def _in_short(trial: Trial) -> str:
    s = report.summary(report.judge([trial]))
    return (
        f"{s.within} of {s.tensors} within, {s.beyond} beyond chance, median {s.median:.2%}, "
        f"largest {s.largest:.1%}, {trial.setting['seconds']:.0f} s"
    )


def write_report(folder: Path, out: Path) -> int:
    """Write the page and its table; return how many tensors disagree beyond chance."""
    order = [
        path_of(folder, family.name, variant)
        for family in (families(SMALL) | untuned(SMALL)).values()
        for variant in family.variants
    ]
    trials = [load(path) for path in order if path.exists()]
    if not trials:
        raise InputError(f"{folder} is empty: measure with python -m benchmarks.audit")
    table = report.judge(trial for trial in trials if trial.refused is None)
    (out / "results").mkdir(parents=True, exist_ok=True)
    table[COLUMNS].to_csv(out / "results" / "audit.csv", index=False, float_format="%.4g")
    (out / "audit_table.md").write_text(report.report(trials, set(untuned(SMALL))), encoding="utf-8")
    beyond = int(table.beyond.sum())
    print(f"{int(table.compared.sum())} tensors, {beyond} disagree beyond chance: {out / 'audit_table.md'}")
    return beyond


def main() -> int:
    """Run the command line."""
    parser = Parser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("families", nargs="*", help="names, as --list shows them; all by default")
    parser.add_argument("--list", action="store_true", help="build and run every family at small sizes")
    parser.add_argument("--report", action="store_true", help="write the page from what was measured")
    parser.add_argument("--variants", nargs="+", default=["linear", "tied", "untied"], help="which variants")
    parser.add_argument("--seeds", type=int, default=128, help="fresh modules to measure")
    parser.add_argument("--samples", type=int, default=256, help="random models to draw for a prediction")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="folder of the trials")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of audit_table.md and results/"
    )
    options = parser.parse_args()
    quiet()
    if options.list:
        for line in show_families():
            print(line)
        return 0
    if options.report:
        return 1 if write_report(options.measured, options.out) else 0
    numbers = {name: positive_integer(name, getattr(options, name)) for name in ("seeds", "samples", "jobs")}
    return 1 if try_all(options.families, options.variants, out=options.measured, **numbers) else 0


if __name__ == "__main__":
    run("python -m benchmarks.audit", main)
