"""Time the derivations as a user meets them: fresh processes, on one core. Values are asserted first.

Run by `make benchmark`; exit status 1 when a value is wrong or a limit is broken.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

LIMITS: dict[tuple[str, ...], float] = {(): 20.0, ("--claim", "lemma1"): 2.0, ("--depth", "10000"): 25.0}
RUNS = 3


def timed(arguments: tuple[str, ...]) -> tuple[float, list[dict[str, object]]]:
    """Run the command once; return the seconds it took and its claims."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "meanfield.derive", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, json.loads(done.stdout)["claims"]


def check(claims: list[dict[str, object]]) -> None:
    """Assert what the claims have to say, so that nothing wrong is timed."""
    for claim in claims:
        steps = claim["steps"]
        assert isinstance(steps, list)
        assert steps
        assert all(step["holds"] for step in steps), claim["id"]
    verdicts = {claim["id"]: claim["verdict"] for claim in claims}
    assert verdicts["lemma1"] == "holds"
    if len(claims) > 1:
        assert len(claims) == 15
        assert verdicts["extension.post"] == verdicts["extension.pre"] == "fails"
        assert verdicts["theorem1.post"] == verdicts["theorem1.pre"] == "holds_loosely"


def main() -> int:
    """Check, time, compare with the limits."""
    broken = 0
    for arguments, limit in LIMITS.items():
        times = []
        for _ in range(RUNS):
            seconds, claims = timed(arguments)
            check(claims)
            times.append(seconds)
        best = min(times)
        broken += best > limit
        print(
            f"derive {' '.join(arguments) or '(all claims)':<18} best of {RUNS}: {best:6.2f} s, limit "
            f"{limit} s"
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
