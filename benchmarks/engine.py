"""Speed of the mean-field engine, as ratios measured in one run; every value is asserted before it is timed.

Run with one thread per process for ratios that mean something: OMP_NUM_THREADS=1 python benchmarks/engine.py
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import meanfield as mf
from meanfield.gaussian.softmax import softmax_moments

REPEATS = 7
PRODUCTS, SIZE = 15, 512


def fastest(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the shortest processor time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def cold() -> None:
    """Forget every quadrature, so that each run computes its own."""
    softmax_moments.cache_clear()


def every_parameter(depth: int, attention: str = "softmax") -> Any:
    """Predict a GPT-2-wide encoder of softmax attention and build its table."""
    cold()
    arch = mf.pre_ln(width=768, depth=depth, heads=12, init="gpt2", activation="gelu", attention=attention)
    return mf.predict(arch, tokens=64, batch=2).df


def deep_against_products() -> dict[str, float]:
    """Time 96 layers, table included, in products of 512 x 512 matrices."""
    arch = mf.pre_ln(width=768, depth=96, heads=12, init="gpt2", activation="gelu")
    total = mf.total_grad_sq(arch, tokens=64, batch=2)  # another sweep: forward alone
    assert abs(every_parameter(96).grad_sq.sum() / total - 1) < 1e-10
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE))

    def products() -> None:
        for _ in range(PRODUCTS):
            matrix @ matrix

    table, unit = fastest(lambda: every_parameter(96)), fastest(products)
    return {"table_96_layers_s": table, "products_15_s": unit, "ratio": table / unit}


def gpt2_small() -> dict[str, float]:
    """Time GPT-2 small's shape, causal, with a Gram matrix of 2 x 64 tokens that is not exchangeable."""
    arch = mf.pre_ln(
        width=768, depth=12, heads=12, init="gpt2", activation="gelu_tanh", causal=True, norm_eps=1e-5
    )
    vectors = np.random.default_rng(1).standard_normal((128, 768))
    gram = vectors @ vectors.T / 768
    prediction = mf.predict(arch, tokens=64, batch=2, gram=gram)
    assert prediction.sampling_error <= 1e-3
    again = mf.predict(arch, tokens=64, batch=2, gram=gram)
    assert (again.df.grad_sq == prediction.df.grad_sq).all()
    return {
        "gram_128_s": fastest(lambda: mf.predict(arch, tokens=64, batch=2, gram=gram).df, repeats=3),
        "sampling_error": prediction.sampling_error,
    }


def linear_in_depth() -> dict[str, Any]:
    """Time 6 to 6,000 layers and fit the exponent of depth."""
    depths = (6, 60, 600, 6000)
    seconds = []
    for depth in depths:
        table = every_parameter(depth)
        assert len(table) == 16 * depth + 2
        assert np.isfinite(table.log10_grad_sq[table.grad_sq > 0]).all()
        repeats = 3 if depth < 6000 else 1
        seconds.append(fastest(lambda depth=depth: every_parameter(depth), repeats))  # type: ignore[misc]  # late binding
    exponent = float(np.polyfit(np.log(depths[1:]), np.log(seconds[1:]), 1)[0])
    return {"depths": depths, "seconds": seconds, "exponent_60_to_6000": exponent}


def flat_memory() -> dict[str, Any]:
    """Peak memory of the total at 60 and 6,000 layers, over what was there before."""
    peaks = {}
    for depth in (60, 6000):
        arch = mf.paper_pre_ln(width=768, depth=depth)
        mf.total_grad_sq(arch, tokens=64)
        tracemalloc.start()
        total = mf.total_grad_sq(arch, tokens=64)
        peaks[depth] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.isfinite(total)
        assert total > 0
    return {"peak_bytes": peaks, "ratio": peaks[6000] / peaks[60]}


LIMITS = {"ratio": 1.0, "gram_128_s": 3.0, "exponent": 1.05, "memory": 1.5}


def main() -> int:
    """Print all results as one JSON object; 1 when a limit is broken."""
    results: dict[str, dict[str, Any]] = {
        "deep": deep_against_products(),
        "gpt2_small": gpt2_small(),
        "depth": linear_in_depth(),
        "memory": flat_memory(),
    }
    print(json.dumps(results, indent=1))
    found = {
        "ratio": results["deep"]["ratio"],
        "gram_128_s": results["gpt2_small"]["gram_128_s"],
        "exponent": results["depth"]["exponent_60_to_6000"],
        "memory": results["memory"]["ratio"],
    }
    broken = [name for name, limit in LIMITS.items() if found[name] > limit]
    print("limits broken: " + (", ".join(broken) or "none"))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
