"""The folder of a run: whose it is, and what became of the run."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from empirical.tables import environment
from empirical.train.checkpoint import difference
from empirical.train.run import Run
from meanfield import cli
from meanfield.errors import InputError

CHECKPOINT, LOG, RESULT, LOCK = "checkpoint.pt", "log.jsonl", "result.json", "lock"


@dataclass(frozen=True)
class Result:
    """What became of a run.

    Args:
        status: ``"finished"``, or ``"diverged"`` where a loss or a gradient was not finite.
        steps: Updates done.
        seconds: Time spent, in all sessions.
    """

    status: str
    steps: int
    seconds: float


def finished(run: Run, folder: Path) -> Result | None:
    """Read the result of a run that has ended.

    Args:
        run: The run.
        folder: Its folder.

    Returns:
        The result; None while there is none.

    Raises:
        InputError: If the folder holds the result of another run.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        other = difference(found["configuration"], json.loads(json.dumps(run.configuration)))
        result = Result(found["status"], found["steps"], found["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"result {str(path)!r} is damaged: move it away to train again") from None
    if other is not None:
        raise InputError(
            f"folder {str(folder)!r} holds another run: {other}; give this run a folder of its own"
        )
    return result


def finish(run: Run, folder: Path, result: Result, device: str) -> None:
    """Write the result of a run, whole or not at all, with the versions that it was made with.

    Args:
        run: The run.
        folder: Its folder.
        result: What became of it.
        device: Where it was trained.
    """
    told = {**dataclasses.asdict(result), "device": device, "environment": environment()}
    text = json.dumps({"configuration": run.configuration, **told}, indent=1)
    cli.write(folder / RESULT, text + "\n")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it.

    Args:
        folder: The folder of a run.

    Yields:
        Nothing; the folder is free again afterwards, also where this process is killed.

    Raises:
        InputError: If it cannot be written, or is another process's at the moment.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise InputError(
            f"folder {str(folder)!r}: {error.strerror}; give a folder you may write to"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"folder {str(folder)!r} is another process's at the moment: wait for it, or give another"
            ) from None
        yield
