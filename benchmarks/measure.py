"""The fast ways to measure against the loop that a user would write, in turn.

Values first: the ensemble's numbers are those of automatic differentiation of the same models to 1e-5, and
the means of every way agree with the loop's to five standard errors. Then the processor time of one seed,
with weights, norms and tables; the share of the processor's own best rate of matrix products, measured beside
it; and the peak memory of fresh processes. One thread. The loop runs in a process of its own, which the fast
ways' hold on freed memory does not help. Writes docs/results/measure.json and the table of
docs/performance.md; exits with 1 where a limit is broken. About eight minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import empirical
import meanfield as mf
from benchmarks import naive
from empirical.host import fast_products
from empirical.tables import environment
from meanfield.cli import patience

CONFIGURATIONS = ((128, 6, 1), (128, 6, 8), (512, 12, 1), (512, 12, 8), (1024, 12, 1))
LIMITS = {
    ("ensemble", (128, 6, 1)): 4.0,
    ("ensemble", (512, 12, 1)): 4.0,
    ("ensemble", (128, 6, 8)): 2.5,
    ("ensemble", (512, 12, 8)): 2.5,
    ("weight_free", (128, 6, 1)): 6.0,
    ("weight_free", (512, 12, 1)): 15.0,
    ("weight_free", (1024, 12, 1)): 25.0,
}
WORKERS = 1.8
TURNS, SECONDS = 5, 1.5  # turns of every way, and about how long one takes
CHECKED = 48  # seeds of the comparison of means
DOCS = Path(__file__).parents[1] / "docs"
START, END = "<!-- measure -->", "<!-- /measure -->"
WAYS = ("naive", "ensemble", "weight_free", "stream")
Configuration = tuple[int, int, int]


def measure(way: str, configuration: Configuration, seeds: Iterable[int]) -> pd.DataFrame:
    """Measure a torch-initialised Pre-LN encoder in one of the ways.

    Args:
        way: One of `WAYS`.
        configuration: Width, depth and sequences.
        seeds: The seeds.

    Returns:
        One row per seed, one column per kind of weight: squared norms, summed over layers.
    """
    width, depth, batch = configuration
    if way == "naive":
        return pd.DataFrame([_kinds(naive.squares(width, depth, batch, seed)) for seed in seeds])
    samples = getattr(empirical, way)(
        _arch(configuration), tokens=naive.TOKENS, batch=batch, seeds=seeds
    ).samples
    return _table(samples)


def _arch(configuration: Configuration) -> mf.Transformer:
    width, depth, _ = configuration
    options: dict[str, Any] = {"activation": "gelu", "init": "torch", "final_norm": False}
    return mf.pre_ln(width=width, depth=depth, heads=width // 64, **options)


def _table(samples: pd.DataFrame) -> pd.DataFrame:
    rows = samples[samples.parameter == "weight"]
    kind = rows.module.replace({"attention.q": "qkv", "attention.k": "qkv", "attention.v": "qkv"})
    return rows.grad_sq_hat.groupby([rows.seed, kind]).sum().unstack()[list(_KINDS.values())]


_KINDS = {
    "self_attn.in_proj_weight": "qkv",
    "self_attn.out_proj.weight": "attention.o",
    "linear1.weight": "ffn.up",
    "linear2.weight": "ffn.down",
    "norm1.weight": "norm1",
    "norm2.weight": "norm2",
}


def _kinds(squares: dict[str, float]) -> dict[str, float]:
    found = dict.fromkeys(_KINDS.values(), 0.0)
    for name, square in squares.items():
        kind = _KINDS.get(name.split(".", 1)[1])
        if kind is not None:
            found[kind] += square
    return found


def check_values(configuration: Configuration) -> float:
    """Assert the values of every way, and that a sample 5 % wrong would be seen in the numbers of a seed.

    Args:
        configuration: Width, depth and sequences.

    Returns:
        The largest relative difference of the ensemble from automatic differentiation.
    """
    how = {"tokens": naive.TOKENS, "batch": configuration[2], "seeds": range(2)}
    found, expected = (
        f(_arch(configuration), **how).samples.query("parameter != 'activation'").set_index(
            ["seed", "layer", "module", "parameter"]
        ).grad_sq_hat
        for f in (empirical.ensemble, empirical.measure)
    )  # fmt: skip
    expected = expected.reindex(found.index)
    there = expected > 1e-12 * expected.max()  # the gradient of a key's bias is 0 but for rounding
    worst = float((found[there] / expected[there] - 1).abs().max())
    assert worst < 1e-5, worst
    assert (found[there] / (1.05 * expected[there]) - 1).abs().max() > 1e-5
    seeds = range(max(8, CHECKED // (configuration[1] * configuration[2] // 6)))
    truth = measure("naive", configuration, seeds)
    for way in WAYS[1:]:
        sample = measure(way, configuration, seeds)
        z = (sample.mean() - truth.mean()) / np.hypot(sample.sem(), truth.sem())
        assert (z.abs() < 5).all(), (way, configuration, z)
    return worst


def seconds(way: str, configuration: Configuration, seeds: int) -> float:
    """Time one seed, processor time in seconds, of several that are measured by one call.

    Args:
        way: One of `WAYS`.
        configuration: Width, depth and sequences.
        seeds: How many.

    Returns:
        Seconds per seed.
    """
    start = time.process_time()
    measure(way, configuration, range(seeds))
    return (time.process_time() - start) / seeds


class Apart:
    """The same in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.measure", "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, way: str, configuration: Configuration, seeds: int) -> float:
        """Time one seed; see the function of this name."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([way, configuration, seeds]) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def serve() -> None:
    """Answer requests for times on stdin."""
    for line in sys.stdin:
        way, configuration, seeds = json.loads(line)
        print(seconds(way, tuple(configuration), seeds), flush=True)


def best_rate() -> float:
    """Measure the best rate of large products in single precision, by whichever library is faster.

    Returns:
        Floating-point operations per second of one thread.
    """
    a, b = torch.randn(2, 1536, 1536)
    rates = []
    for dtype in ("float32", "float64"):  # the second one leaves torch its own products
        with fast_products(dtype):
            for _ in range(3):
                start = time.process_time()
                a @ b
                rates.append(2 * 1536**3 / (time.process_time() - start))
    return max(rates)


def least_operations(configuration: Configuration) -> float:
    """Count what no way with weights can spare: two products by each, and its gradient's norm.

        4 N m n + min(2 N m n, N^2 (m + n))   for N tokens and a map from m to n coordinates

    where the second norm is the inner product of two Gram matrices of which half is computed.

    Args:
        configuration: Width, depth and sequences.

    Returns:
        Floating-point operations of one seed.
    """
    width, depth, batch = configuration
    tokens = batch * naive.TOKENS
    maps = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
    return depth * sum(4 * tokens * m * n + min(2 * tokens * m * n, tokens**2 * (m + n)) for m, n in maps)


def peak(way: str, configuration: Configuration) -> float:
    """Measure the peak memory of a fresh process above that after its imports.

    Args:
        way: One of `WAYS`.
        configuration: Width, depth and sequences.

    Returns:
        Megabytes.
    """
    command = [sys.executable, "-m", "benchmarks.measure", "--peak", way, *map(str, configuration)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _high_water() -> float:
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def compare(configuration: Configuration, advance: Callable[[int], None]) -> dict[str, Any]:
    """Check, then time every way in turn.

    Args:
        configuration: Width, depth and sequences.
        advance: Called with 1 after every turn of a way.

    Returns:
        Name -> number.
    """
    width, depth, batch = configuration
    worst = check_values(configuration)
    counts, apart = {}, Apart()
    timed = {way: apart.seconds if way == "naive" else seconds for way in WAYS}
    for way in WAYS:
        timed[way](way, configuration, 1)
        enough = SECONDS / timed[way](way, configuration, 2)
        counts[way] = max(1, int(enough) if enough < 32 else 32 * round(enough / 32))
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    rates = []
    for _ in range(TURNS):
        rates.append(best_rate())
        for way in WAYS:
            times[way].append(timed[way](way, configuration, counts[way]))
            advance(1)
    apart.process.terminate()
    fastest = {way: min(values) for way, values in times.items()}
    useful = 6 * 12 * width**2 * depth * batch * naive.TOKENS  # forward, and two products back
    bound = fastest["naive"] * max(rates) / least_operations(configuration)
    return {
        "width": width,
        "depth": depth,
        "batch": batch,
        "largest_difference": worst,
        "rate": max(rates),
        "seeds": counts,
        "seconds": fastest,
        "turns": times,
        "ratio": {way: fastest["naive"] / fastest[way] for way in WAYS},
        "at_most": bound,
        "share": {way: useful / fastest[way] / max(rates) for way in WAYS if way != "weight_free"},
        "peak_mb": {way: peak(way, configuration) for way in WAYS},
    }


def two_workers() -> dict[str, float]:
    """Time 192 seeds of (512, 12, 1) on one process and on two that are there already, by the clock.

    Returns:
        Seconds of both, and their ratio.
    """
    arch, how = _arch((512, 12, 1)), {"tokens": naive.TOKENS, "seeds": range(192)}
    spent: dict[int, list[float]] = {1: [], 2: []}
    expected = None
    for workers in (1, 2, 1, 2, 1, 2):
        start = time.perf_counter()
        found = empirical.ensemble(arch, workers=workers, **how).samples
        spent[workers].append(time.perf_counter() - start)
        assert expected is None or found.equals(expected)
        expected = found
    one, two = min(spent[1]), min(spent[2])
    return {"one_s": one, "two_s": two, "ratio": one / two}


def table(results: dict[str, Any]) -> str:
    """Lay the results out as the table of docs/performance.md.

    Args:
        results: As they are written.

    Returns:
        Markdown.
    """
    lines = [
        "| d, L, batch | way | ms per seed | times the loop | at most | share of the best rate "
        "| peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["configurations"]:
        for way in WAYS:
            share = row["share"].get(way)
            bound = f"{row['at_most']:.1f}" if way == "ensemble" else ""
            lines.append(
                f"| {row['width']}, {row['depth']}, {row['batch']} | {way} "
                f"| {1e3 * row['seconds'][way]:.3g} | "
                f"{row['ratio'][way]:.1f} | {bound} | {'' if share is None else f'{share:.0%}'} | "
                f"{row['peak_mb'][way]:.0f} |"
            )
    made, pair = results["environment"], results["workers"]
    lines += [
        "",
        f"Two workers: {pair['ratio']:.2f} times one, by the clock ({pair['one_s']:.1f} s and "
        f"{pair['two_s']:.1f} s for 192 seeds of 512, 12, 1).",
        "",
        f"Measured on {made['date'][:10]}, {made['processor']}, torch {made['torch']}; best rate "
        f"{max(row['rate'] for row in results['configurations']) / 1e9:.0f} GFLOP/s.",
    ]
    return "\n".join(lines)


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        return next(
            (line.split(": ")[1].strip() for line in lines if line.startswith("model name")), "unknown"
        )


def main() -> int:
    """Measure, write, and hold against the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=4, metavar=("WAY", "D", "L", "BATCH"), help="one peak, in megabytes")
    parser.add_argument("--serve", action="store_true", help="answer requests for times on stdin")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.serve:
        serve()
        return 0
    if options.peak:
        before = _high_water()
        way, *sizes = options.peak
        width, depth, batch = map(int, sizes)
        measure(way, (width, depth, batch), range(2))
        print(_high_water() - before)
        return 0
    with patience("measuring", len(CONFIGURATIONS) * TURNS * len(WAYS)) as advance:
        rows = [compare(configuration, advance) for configuration in CONFIGURATIONS]
        pair = two_workers()
    results = {
        "environment": environment() | {"processor": _processor()}, "configurations": rows, "workers": pair
    }  # fmt: skip
    (DOCS / "results" / "measure.json").write_text(json.dumps(results, indent=1) + "\n")
    page = DOCS / "performance.md"
    before, rest = page.read_text().split(START)
    page.write_text(before + START + "\n" + table(results) + "\n" + END + rest.split(END)[1])
    print(table(results))
    broken = [
        f"{way} {key}: {row['ratio'][way]:.2f} < {limit}"
        for row in rows
        for (way, key), limit in LIMITS.items()
        if key == (row["width"], row["depth"], row["batch"]) and row["ratio"][way] < limit
    ]
    broken += [f"two workers: {pair['ratio']:.2f} < {WORKERS}"] if pair["ratio"] < WORKERS else []
    print("limits broken: " + ("; ".join(broken) or "none"))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
