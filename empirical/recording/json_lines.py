"""Records as lines of JSON, whole after a kill, and their reader."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from empirical.recording.records import GRADIENT, KEYS, MOMENTS, Record, table
from meanfield.errors import InputError

BEYOND = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonLines:
    """Appends one line of strict JSON for each record; a file that is there is continued.

    Numbers that are not finite are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; ``null`` is a
    value that was not measured. All lines of a step are handed to the system in one write before training
    goes on: a process that is killed leaves whole lines, the last of them torn at most.

    Args:
        path: The file.

    Raises:
        InputError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = JsonLines(Path(folder) / "run.jsonl")
        ...     logger.log([Record(0, "h.0", "activation", True, {"q_hat": math.inf, "cov_hat": None})])
        ...     print(logger.path.read_text().split("training")[1].strip())
        ": true, "q_hat": "Infinity", "cov_hat": null}
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._append(b"\n" if self._is_torn() else b"")

    def log(self, records: Sequence[Record]) -> None:
        """Append the records of one step.

        Args:
            records: The records.

        Raises:
            InputError: If the file cannot be written.
        """
        lines = [json.dumps({k: plain(v) for k, v in r.row().items()}, allow_nan=False) for r in records]
        self._append("".join(f"{line}\n" for line in lines).encode())

    def _append(self, data: bytes) -> None:
        try:
            with self.path.open("ab", buffering=0) as file:
                while data:
                    data = data[file.write(data) :]
        except OSError as error:
            raise InputError(
                f"file {str(self.path)!r} cannot be written ({error.strerror}): give a path you may write to"
            ) from error

    def _is_torn(self) -> bool:
        """Tell whether a killed run left a line without its end: what follows must not be glued to it."""
        try:
            with self.path.open("rb") as file:
                if not file.seek(0, 2):
                    return False
                file.seek(-1, 2)
                return file.read() != b"\n"
        except OSError:  # absent, or found out when it is written
            return False


def read_json_lines(path: Path | str) -> pd.DataFrame:
    """Read what `JsonLines` wrote.

    Torn lines, which a kill leaves, are named on stderr and left out; their numbers are also in
    ``.attrs["torn"]``.

    Args:
        path: The file.

    Returns:
        One row per record: ``step, module, parameter, training``, then the measured columns; NaN also where
        nothing was measured.

    Raises:
        InputError: If the file cannot be read, or a whole line is no record.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = JsonLines(Path(folder) / "run.jsonl")
        ...     logger.log([Record(0, "h.0", "activation", True, {"q_hat": float("inf")})])
        ...     read_json_lines(logger.path)["q_hat"].tolist()
        [inf]
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"file {str(path)!r} cannot be read ({error.strerror}): give a file that JsonLines wrote"
        ) from error
    lines = content.split(b"\n")
    rows, torn = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line else None
        except ValueError:  # no JSON, or no text
            torn.append(number)
            continue
        if row is not None:
            rows.append(_checked(row, f"{path}, line {number}"))
    if torn and not rows:
        raise InputError(f"file {str(path)!r} has no whole line: give a file that JsonLines wrote")
    for number in torn:
        sys.stderr.write(f"{path}: line {number} is torn, as a killed run leaves it; left out\n")
    found = table(rows)
    found.attrs["torn"] = torn
    return found


def plain(value: object) -> object:
    """Put a number that is not finite into strict JSON.

    Args:
        value: A value of JSON's types, or a number that is not finite.

    Returns:
        The value; ``"NaN"``, ``"Infinity"`` or ``"-Infinity"`` for such a number.

    Example:
        >>> plain(math.inf), plain(1.5)
        ('Infinity', 1.5)
    """
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, beyond in BEYOND.items() if str(beyond) == str(value))
    return value


def _checked(row: object, place: str) -> dict[str, object]:
    columns = {*KEYS, *MOMENTS, *GRADIENT}
    if not isinstance(row, dict) or not set(KEYS) <= set(row) <= columns:
        raise InputError(f"{place}, is no record of a step: give a file that JsonLines wrote")
    return {key: BEYOND.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
