"""The log of a run: a line of strict JSON a record, equal to the last byte however often the run was killed.

A record has a ``kind``: ``step`` (training loss since the one before, learning rate), ``norms`` (of the
gradient of every tensor, in the mini-batch used), ``unigram`` (loss of token frequencies), ``valid``
(validation loss), ``bleu``, ``gradient`` (of one tensor, on several mini-batches), ``end``. There is no time
in it. Numbers that are not finite are the strings of `empirical.recording.JsonLines`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empirical.recording.json_lines import BEYOND, plain
from meanfield.errors import InputError


class Log:
    """Appends records; what a checkpoint does not vouch for is cut off when it is opened.

    Args:
        path: The file.
        length: Bytes that stay, those of the checkpoint.

    Raises:
        InputError: If the file cannot be written, or is shorter than the checkpoint says.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
            there = self._file.seek(0, os.SEEK_END)
            if there >= length:
                self._file.truncate(length)
        except OSError as error:
            raise InputError(_refused(path, error)) from None
        if there < length:
            self.close()
            raise InputError(
                f"log {str(path)!r} has {there} bytes and its checkpoint vouches for {length}: bring it "
                "back, or move the checkpoint away to start anew"
            )

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record.

        Args:
            kind: Of the record.
            step: Updates done.
            values: What it says.

        Raises:
            InputError: If the file cannot be written.
        """
        record = {"kind": kind, "step": step, **{key: _plain(value) for key, value in values.items()}}
        data = json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise InputError(_refused(self.path, error)) from None

    def sync(self) -> int:
        """Bring the records to the disk.

        Returns:
            The length of the file.
        """
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Read the records of a log.

    Args:
        path: The file.

    Returns:
        The records in their order; a line that a kill tore is left out, and is the last.

    Raises:
        InputError: If the file cannot be read, or a line before the last is no record.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"log {str(path)!r} cannot be read ({error.strerror}): give a folder of a run"
        ) from None
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last end of line is torn
        try:
            record = json.loads(line)
            assert isinstance(record["kind"], str)
        except (ValueError, KeyError, TypeError, AssertionError):
            raise InputError(f"log {str(path)!r}, line {number} is no record: the file is damaged") from None
        records.append({key: _number(value) for key, value in record.items()})
    return records


def _plain(value: Any) -> Any:
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else plain(value)


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    return BEYOND.get(value, value) if isinstance(value, str) else value


def _refused(path: Path, error: OSError) -> str:
    return (
        f"log {str(path)!r} cannot be written ({error.strerror}): give a folder you may write to, with room"
    )
