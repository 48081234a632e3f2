"""A table in a Parquet file: written whole or not at all, checked when read, set aside and never deleted."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import meanfield
from meanfield.errors import InputError

STALE_SECONDS = 3600  # a table is written in far less; an older temporary file belongs to a killed run


class StorageError(InputError):
    """A folder or file that cannot be written or read: no table of the folder would fare better."""


class NoTableError(ValueError):
    """A file that is not the whole table that was looked for; the message says why."""


def prepare(folder: Path) -> None:
    """Make a folder, try that it can be written, and clear it of what killed runs left.

    Args:
        folder: The folder.

    Raises:
        StorageError: If it cannot be written.
    """
    trial = _temporary(folder, "trial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
        for left in folder.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another run on the folder was faster
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()
    except OSError as error:
        raise StorageError(
            f"folder {str(folder)!r} cannot be written ({error.strerror}): give a folder you may write to"
        ) from error


def _temporary(folder: Path, name: str) -> Path:
    """Name a file that no other process has, on this machine or another."""
    return folder / f".{name}.{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name, on the disk too, only when all of it has been written."""
    temporary = _temporary(path.parent, path.name)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _keep_name(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(
                f"file {str(path)!r} cannot be written ({error.strerror or error}): free space or give "
                "another folder"
            ) from error
        raise


def _keep_name(folder: Path) -> None:
    """Write the folder's list of names to the disk: without it a new name can be lost with the machine."""
    with contextlib.suppress(OSError):  # some file systems have nothing to write there
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and to the disk.

    Args:
        path: The file.
        text: What it shall hold.

    Raises:
        StorageError: If it cannot be written.
    """
    with _whole(path) as file:
        file.write(text.encode())


def write(path: Path, table: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write a table whole or not at all, and to the disk.

    Args:
        path: The file.
        table: The table.
        metadata: What the file says beside it, each entry as JSON; ``environment`` and ``content`` are added.

    Raises:
        StorageError: If it cannot be written.
    """
    said = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    said |= {"environment": json.dumps(environment()), "content": _content(table)}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **said})
    with _whole(path) as file:
        pq.write_table(arrow, file, write_page_checksum=True)


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table and what its file says beside it, and check that it is the one that was written.

    Args:
        path: The file.

    Returns:
        The table, and name -> value of `write`'s metadata.

    Raises:
        FileNotFoundError: If there is none.
        NoTableError: If it is no whole table that `write` wrote.
        StorageError: If it must not be read.
    """
    with _checked(path):
        arrow = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        metadata = _said(arrow.schema)
        table = arrow.to_pandas()
        content = _content(table)
    if metadata.pop("content", content) != content:  # older tables do not say it
        raise NoTableError("its numbers are not those that were written")
    return table, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what a table's file says beside it, without the table.

    Args:
        path: The file.

    Returns:
        Name -> value.

    Raises:
        FileNotFoundError: If there is none.
        NoTableError: If it is no table that `write` wrote.
        StorageError: If it must not be read.
    """
    with _checked(path):
        return _said(pq.read_schema(path))


def _said(schema: pa.Schema) -> dict[str, Any]:
    found = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if "configuration" not in found:
        raise KeyError("configuration")
    return {key: value if key == "content" else json.loads(value) for key, value in found.items()}


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise StorageError(f"table {str(path)!r} cannot be read: give a folder you may read") from error
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise NoTableError(f"it is no whole table ({type(error).__name__})") from error


def set_aside(path: Path, fault: str) -> None:
    """Rename a file that is not what its name says, and tell stderr; it is never deleted.

    Args:
        path: The file.
        fault: What is wrong with it.

    Raises:
        StorageError: If it cannot be renamed.
    """
    count = 1
    while True:
        aside = path.with_name(f"{path.name}.corrupt-{count}")
        try:
            aside.touch(exist_ok=False)  # the name is ours: another run cannot rename onto it
            break
        except FileExistsError:
            count += 1
        except OSError as error:
            raise StorageError(
                f"{path}: {fault}; it cannot be moved aside ({error.strerror}): move it away"
            ) from error
    try:
        path.replace(aside)
    except FileNotFoundError:  # another run moved it
        aside.unlink()
        return
    sys.stderr.write(f"{path}: {fault}; moved to {aside.name}\n")


def _content(table: pd.DataFrame) -> str:
    """Digest names and values: a page's own checksum covers neither its header nor the file's footer."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(json.dumps(list(table.columns)).encode() + rows.tobytes()).hexdigest()


def environment() -> dict[str, str | None]:
    """Describe what a table was made with: versions, git commit, processor and date.

    Returns:
        Name -> value; the commit is None outside a git checkout.
    """
    return {
        "meanfield": meanfield.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": _commit(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
