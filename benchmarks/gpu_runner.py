"""Parts of a benchmark, each in a process of its own and within its own time; what is known is on disk.

A part that crashes, hangs or poisons the device loses what it has not noted yet, and nothing of the others.
Processes are forked before anything touches the device, so that none pays for imports.
"""

from __future__ import annotations

import json
import multiprocessing
import queue
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanfield.cli import write

Note = Callable[[str, Any], None]
"""Keeps one result of a part, by name."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a benchmark.

    Args:
        name: Its name in the results.
        work: Takes what earlier parts have found, and a place for what it finds.
        seconds: Its time; it is ended then.
        needed: Whether the others are left out where it fails.
    """

    name: str
    work: Callable[[dict[str, Any], Note], None]
    seconds: float
    needed: bool = False


def run_parts(
    parts: list[Part],
    out: Path,
    results: dict[str, Any],
    seconds: float,
    finish: Callable[[dict[str, Any]], Any],
) -> dict[str, Any]:
    """Run parts one after another, and write the results after each note.

    Args:
        parts: The parts.
        out: Where results are written, as JSON.
        results: What is known before; parts are added under their names.
        seconds: For all parts together; those that are left then get none.
        finish: What is made of all results, for ``aims``.

    Returns:
        The results: of each part what it has noted, its ``status`` and its ``seconds``. The status is
        ``"done"``, or says why it was not.

    Example:
        >>> import tempfile
        >>> def work(before, note):
        ...     note("one", 1)
        ...     raise ValueError("broken")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = run_parts([Part("part", work, 5)], Path(folder, "x.json"), {}, 60, finish=len)
        >>> found["part"]["one"], found["part"]["status"]
        (1, 'ValueError: broken')
    """
    start, missing = time.monotonic(), ""
    for part in parts:
        left = seconds - (time.monotonic() - start)
        status = f"left out without {missing}" if missing else "no time was left"
        found: dict[str, Any] = {"status": status, "seconds": 0.0}
        results[part.name] = found
        if left > 0 and not missing:
            _run(part, min(part.seconds, left), found, results, out)
        if part.needed and found["status"] != "done":
            missing = part.name
        print(f"{part.name}: {found['status']} ({found['seconds']:.1f} s)", flush=True)
        _write(out, results)
    results["aims"] = finish(results)
    results["seconds"] = round(time.monotonic() - start, 1)
    _write(out, results)
    return results


def _run(part: Part, seconds: float, found: dict[str, Any], results: dict[str, Any], out: Path) -> None:
    context = multiprocessing.get_context("fork")
    notes = context.Queue()
    process = context.Process(target=_work, args=(part.work, dict(results), notes))
    start = time.monotonic()
    process.start()
    found["status"] = "running"
    while found["status"] == "running":
        left = seconds - (time.monotonic() - start)
        try:
            name, value = notes.get(timeout=max(0.0, min(left, 1.0)))
            found[name] = value
        except queue.Empty:
            if left <= 0:
                found["status"] = f"ended after {seconds:.0f} s"
            elif not process.is_alive() and notes.empty():
                found["status"] = f"died with exit status {process.exitcode}"
        found["seconds"] = round(time.monotonic() - start, 2)
        _write(out, results)
    process.join(timeout=0 if found["status"].startswith("ended") else 2)
    if process.is_alive():
        process.kill()
        process.join()
    notes.close()


def _work(work: Callable[[dict[str, Any], Note], None], before: dict[str, Any], notes: Any) -> None:
    status = "done"
    try:
        work(before, lambda name, value: notes.put((name, value)))
    except Exception as error:  # noqa: BLE001  (whatever it is, the other parts go on)
        traceback.print_exc()
        status = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    notes.put(("status", status))
    notes.close()
    notes.join_thread()


def _write(out: Path, results: dict[str, Any]) -> None:
    write(out, json.dumps(results, indent=1) + "\n")
