"""One case tried: the sampler and its controls against dense weights, kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import empirical
from benchmarks.weight_free_law.cases import Case
from benchmarks.weight_free_law.compare import COLUMNS, compare
from benchmarks.weight_free_law.dense import Squares, dense_squares
from benchmarks.weight_free_law.faults import FAULTS, planted
from meanfield import ops
from meanfield.cli import write
from meanfield.weight_free import sample

TORCH, NUMPY, DENSE, SCALED = "torch float32", "numpy float64", "dense again", "5 % wrong"
SIDES = (TORCH, NUMPY, DENSE, SCALED, *FAULTS)
TOGETHER = 2000  # seeds in one call
FRESH, FIRST, FIRST_DENSE = "fresh sampler", "first sampler", "first dense"
AGAIN = 10  # what was rejected is tried again on this many times as many models
START = 10**9  # of the sampler's fresh seeds
PART = 4  # numpy, which runs the same code, and faults are tried on the seeds divided by this

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Trial:
    """One case with what came out.

    Args:
        case: Its name.
        group: What it belongs to.
        setting: Seeds, sources of the sampler, commit, versions, seconds, architecture.
        sides: What was compared with dense weights -> table of `compare`.
    """

    case: str
    group: str
    setting: dict[str, Any]
    sides: dict[str, pd.DataFrame]


def work(case: Case, seeds: int) -> int:
    """Count the models that a trial draws."""
    seeds *= case.times
    return 3 * seeds + (1 + len(FAULTS)) * (seeds // PART)


def attempt(case: Case, seeds: int, progress: Progress) -> Trial:
    """Try a case: two dense samples, the sampler in torch and in numpy, and the sampler with faults.

    Args:
        case: The case.
        seeds: Models in each sample, of a case that has no need of more.
        progress: Called with the number of models drawn since the last call.

    Returns:
        The trial.
    """
    start, described = time.perf_counter(), settings(case, seeds)
    seeds *= case.times
    truth, again = (
        dense_squares(
            case.arch,
            case.setting,
            seeds=seeds,
            key=_key(case, side),
            own_law=case.own_law,
            progress=progress,
        )
        for side in ("first", "second")
    )
    wrong = {key: 1.05 * values for key, values in again.items()}
    found = {
        TORCH: in_torch(case, range(seeds), progress),
        NUMPY: in_numpy(case, range(seeds // PART), progress),
        DENSE: again,
        SCALED: wrong,
    }
    for name in FAULTS:
        with planted(name):
            found[name] = in_torch(case, range(seeds // PART), progress)
    sides = {name: compare(squares, truth) for name, squares in found.items()}
    setting = described | {"commit": commit(), "seconds": round(time.perf_counter() - start, 1)}
    return Trial(case.name, case.group, setting, sides)


def repeat(case: Case, seeds: int, progress: Progress) -> Trial:
    """Try a case once more, against ten times as many dense models that were in no sample before.

    Args:
        case: The case.
        seeds: Models in each of its first samples, of a case that has no need of more.
        progress: Called with the number of models drawn since the last call.

    Returns:
        A trial whose sides are as many fresh models of the sampler, and both first samples.
    """
    start, described = time.perf_counter(), settings(case, seeds)
    first, fresh = seeds * case.times, AGAIN * seeds * case.times

    def drawn(count: int, side: str) -> Squares:
        law = case.own_law
        return dense_squares(
            case.arch, case.setting, seeds=count, key=_key(case, side), own_law=law, progress=progress
        )

    truth = drawn(fresh, "again")
    sides = {
        FRESH: compare(in_torch(case, range(START, START + fresh), progress), truth),
        FIRST: compare(in_torch(case, range(first), progress), truth),
        FIRST_DENSE: compare(drawn(first, "first"), truth),
    }
    setting = described | {"commit": commit(), "seconds": round(time.perf_counter() - start, 1)}
    return Trial(case.name, case.group, setting, sides)


def in_torch(case: Case, seeds: Iterable[int], progress: Progress = lambda done: None) -> Squares:
    """Sample a case by `empirical.weight_free`."""
    ordered, parts = list(seeds), []
    for start in range(0, len(ordered), TOGETHER):
        some = ordered[start : start + TOGETHER]
        table = empirical.weight_free(case.arch, seeds=some, progress=progress, **_given(case)).samples
        parts.append(by_parameter(table))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def by_parameter(samples: pd.DataFrame) -> Squares:
    """Take the squares of each parameter out of the samples of a measurement."""
    groups: Any = samples.groupby(["layer", "module", "parameter"], sort=False)["grad_sq_hat"]
    return {ops.ParameterKey(*key): values.to_numpy() for key, values in groups}


def in_numpy(case: Case, seeds: Iterable[int], progress: Progress = lambda done: None) -> Squares:
    """Sample a case by `meanfield.weight_free.sample`."""
    return sample(case.arch, seeds=seeds, progress=progress, **_given(case))


def _given(case: Case) -> dict[str, Any]:
    return {field.name: getattr(case.setting, field.name) for field in dataclasses.fields(case.setting)}


def _key(case: Case, side: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{case.name}/{side}".encode()).digest()[:6], "big")


def settings(case: Case, seeds: int) -> dict[str, Any]:
    """Describe what a trial depends on: one that was kept under another description is tried again."""
    inputs = hashlib.sha256(repr((case.arch, case.setting)).encode()).hexdigest()[:12]
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    return {"seeds": seeds * case.times, "case": inputs, "sampler": fingerprint(), **versions}


def fingerprint() -> str:
    """Digest the sources of the sampler."""
    root = Path(empirical.__file__).parents[1]
    named = ("weight_free.py", "backend.py", "host.py", "device.py", "draws.py")
    files = [*(root / "meanfield" / "weight_free").glob("*.py"), root / "meanfield" / "random.py"]
    files += [root / "empirical" / name for name in named]
    texts = [path.read_bytes() for path in sorted(files) if path.exists()]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]


def commit() -> str:
    """Name the commit, with a + where files differ from it; "unknown" outside git."""
    root = Path(empirical.__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + (
            "+" if git("status", "--porcelain", "-uno", "meanfield", "empirical") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def path_of(folder: Path, case: str) -> Path:
    """Return the file of a case."""
    words = "".join(letter if letter.isalnum() else " " for letter in case).split()
    return folder / f"{'_'.join(words)}.json"


def save(folder: Path, trial: Trial) -> None:
    """Write a trial whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = {name: table[COLUMNS].to_dict("split")["data"] for name, table in trial.sides.items()}
    text = json.dumps(dataclasses.asdict(dataclasses.replace(trial, sides={})) | {"sides": sides})
    write(path_of(folder, trial.case), text)


def load(path: Path) -> Trial:
    """Return what `save` wrote."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    sides = {name: pd.DataFrame(rows, columns=COLUMNS) for name, rows in kept["sides"].items()}
    return Trial(kept["case"], kept["group"], kept["setting"], sides)


def done(path: Path, case: Case, seeds: int) -> bool:
    """Tell whether a case was tried, with this sampler and so many seeds."""
    if not path.exists():
        return False
    kept = load(path).setting
    return all(kept.get(name) == value for name, value in settings(case, seeds).items())
