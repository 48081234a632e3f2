"""Compare the weight-free sampler with dense Gaussian weights, case by case.

A case that is done is kept in a file and left out the next time, unless the sampler's sources, the seeds or
the case have changed. --report writes the tables of docs/weight_free.md and docs/results/weight_free.csv from
these files; --again tries what is rejected once more, on fresh seeds: the page shows that beside it, and it
acquits nothing. Exit status 1: the sampler or dense weights are rejected, or what is wrong is not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: matrices here are too small for threads

import torch

from benchmarks.weight_free_law import report
from benchmarks.weight_free_law.cases import cases
from benchmarks.weight_free_law.trial import AGAIN, FRESH, attempt, done, load, path_of, repeat, save, work
from meanfield.cli import Parser, patience, run
from meanfield.errors import InputError, UnknownNameError, positive_integer

MEASURED = Path("results") / "weight_free_law"


def try_all(names: list[str], seeds: int, folder: Path) -> int:
    """Try what has no file yet, judge all cases together, and return how much is not as it should be."""
    known = cases()
    for name in names:
        if name not in known:
            raise UnknownNameError("case", name, known)
    chosen = [known[name] for name in names or known]
    todo = [case for case in chosen if not done(path_of(folder, case.name), case, seeds)]
    with patience("weight-free against dense", sum(work(case, seeds) for case in todo)) as progress:
        for number, case in enumerate(todo, start=1):
            trial = attempt(case, seeds, progress)
            save(folder, trial)
            line = f"{number}/{len(todo)} {case.name}: {report.in_short(trial)}"
            print(f"{line}, {trial.setting['seconds']:.0f} s", file=sys.stderr, flush=True)
    wrong = report.failures([load(path_of(folder, case.name)) for case in chosen], faults=not names)
    for line in wrong:
        print(line)
    return len(wrong)


def try_again(names: list[str], seeds: int, folder: Path) -> int:
    """Try what is rejected, or what is named, on fresh seeds; return how many cases are rejected again."""
    known = cases()
    trials = [load(path) for name in known if (path := path_of(folder, name)).exists()]
    chosen = [known[name] for name in names or report.rejected_cases(trials)]
    found = 0
    with patience("once more", len(chosen) * 2 * (AGAIN + 1) * seeds) as progress:
        for case in chosen:
            trial = repeat(case, seeds, progress)
            save(folder / "again", trial)
            found += bool(report.rejected_cases([trial], (FRESH,)))
            print(f"{case.name}: {trial.setting['seconds']:.0f} s", file=sys.stderr, flush=True)
    return found


def write_report(folder: Path, out: Path) -> int:
    """Write the page's tables and the table of all tests; return how much is not as it should be."""
    paths = [path_of(folder, name) for name in cases()]
    trials = [load(path) for path in paths if path.exists()]
    if not trials:
        raise InputError(f"{folder} is empty: compare with python -m benchmarks.weight_free_law")
    again = [load(path) for name in cases() if (path := path_of(folder / "again", name)).exists()]
    report.update(out / "weight_free.md", report.tables(trials, again))
    (out / "results").mkdir(exist_ok=True)
    report.everything(trials).to_csv(out / "results" / "weight_free.csv", index=False, float_format="%.4g")
    wrong = report.failures(trials)
    for line in wrong:
        print(line)
    print(f"{len(trials)} of {len(paths)} cases: {out / 'weight_free.md'}")
    return len(wrong) + len(paths) - len(trials)


def main() -> int:
    """Run the command line."""
    parser = Parser(prog="python -m benchmarks.weight_free_law", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="models in each sample")
    parser.add_argument("--case", action="append", default=[], help="name of a case; may be repeated")
    parser.add_argument("--list", action="store_true", help="names of the cases")
    parser.add_argument("--report", action="store_true", help="write the tables from what was compared")
    parser.add_argument("--again", action="store_true", help="try what is rejected on fresh seeds")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="folder of the cases' files")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of weight_free.md and results/"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.list:
        for case in cases().values():
            print(f"{case.group}: {case.name}")
        return 0
    if options.report:
        return 1 if write_report(options.measured, options.out) else 0
    try_them = try_again if options.again else try_all
    return 1 if try_them(options.case, positive_integer("seeds", options.seeds), options.measured) else 0


if __name__ == "__main__":
    run("python -m benchmarks.weight_free_law", main)
