"""All measurements on an accelerator in one command: numbers first, then speed and memory; one JSON.

    python benchmarks/gpu.py --out gpu.json

takes under 8 minutes on one large accelerator and needs no network. Each part runs in a process of its own
and within its own time, and what it finds is written at once. --device cpu --smoke runs all parts as toys.
Exit status 1: a part did not end, or numbers are not what they should be. See docs/gpu.md.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the host only feeds the device
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_parts
from benchmarks.gpu_place import Place
from benchmarks.gpu_runner import Part, run_parts
from meanfield.cli import Parser, run, target

TOTAL = 460.0  # seconds
PARTS = {
    "environment": (gpu_parts.environment, 45),
    "best_products": (gpu_parts.best_products, 40),
    "never_waits": (gpu_parts.never_waits, 40),
    "precision": (gpu_parts.precision, 40),
    "host_and_device": (gpu_parts.host_and_device, 70),
    "weight_free": (gpu_parts.weight_free, 75),
    "ensembles": (gpu_parts.ensembles, 100),
    "streaming": (gpu_parts.streaming, 80),
    "seeds_at_once": (gpu_parts.seeds_at_once, 30),
    "memory_ends": (gpu_parts.memory_ends, 40),
    "audit": (gpu_parts.audit, 60),
}
"""Each part with its own time, in seconds; in all more than `TOTAL`: none should need all of its own."""
AIMS = (
    ("weight_free", "d=512, float32", "seeds_per_s", 5000.0, True),
    ("ensembles", "d=1024, T=300, float32", "share_of_best", 0.45, True),
    ("streaming", "d=4096, L=96, T=2048, tf32", "seconds", 1.0, False),
    ("streaming", "d=4096, L=96, T=2048, tf32", "peak_gb", 16.0, False),
)
"""Part, result, value, aim, and whether more is better."""


def faults(results: dict[str, Any]) -> list[str]:
    """Say what is wrong with the numbers, and which parts did not end.

    Args:
        results: Of all parts.

    Returns:
        One line for each fault.

    Example:
        >>> faults({"never_waits": {"status": "done", "ensemble": False}, "audit": {"status": "died"}})
        ['never_waits: ensemble is false', 'audit: died']
    """
    found = []
    for part in PARTS:
        own = results.get(part, {"status": "done"})
        if own["status"] != "done":
            found.append(f"{part}: {own['status']}")
        for name, value in own.items():
            flags = value if isinstance(value, dict) else {name: value}
            found += [
                f"{part}: {name if flag == name else f'{name}, {flag}'} is false"
                for flag, right in flags.items()
                if right is False
            ]
    return found


def aims(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Compare with what was aimed at.

    Args:
        results: Of all parts.

    Returns:
        Aim -> value, and whether it is reached; what was not measured is left out.

    Example:
        >>> aims({"weight_free": {"d=512, float32": {"seeds_per_s": 6000.0}}})
        {'weight_free, d=512, float32, seeds_per_s': {'aim': 5000.0, 'value': 6000.0, 'reached': True}}
    """
    found = {}
    for part, result, name, aim, more in AIMS:
        value = results.get(part, {}).get(result, {}).get(name)
        if value is not None:
            reached = value >= aim if more else value <= aim
            found[f"{part}, {result}, {name}"] = {"aim": aim, "value": value, "reached": reached}
    return found


def main() -> int:
    """Run what is asked for; 1 where a part did not end or numbers are wrong."""
    parser = Parser(prog="gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="JSON to write")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--smoke", action="store_true", help="toys, to see that every part runs")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="these parts alone; repeatable")
    parser.add_argument("--seconds", type=float, default=TOTAL, help=f"for all parts together ({TOTAL:.0f})")
    asked = parser.parse_args()
    place, out = Place(asked.device, asked.smoke), target("--out", asked.out)
    parts = [
        Part(name, functools.partial(work, place), seconds, needed=name == "environment")
        for name, (work, seconds) in PARTS.items()
        if asked.part is None or name in asked.part
    ]
    results = run_parts(parts, out, {"smoke": asked.smoke}, asked.seconds, finish=aims)
    wrong = faults(results)
    for line in wrong:
        print(line)
    print(out)
    return 1 if wrong else 0


if __name__ == "__main__":
    run("gpu", main)
