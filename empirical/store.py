"""Measured tables on disk: one Parquet file per cell, whole or not there.

A cell is everything on which a table depends, such as an architecture, a setting and a block of seeds. The
file's name ends in a digest of it, so that a table found under the name is the table wanted; metadata inside
say it again, and a file that does not is moved aside.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import meanfield
from empirical.build import Architecture
from empirical.measure import measure
from empirical.setting import Setting, seed_list
from meanfield.checks import check_architecture
from meanfield.errors import InputError

BLOCK = 25
FORMAT = 1  # of tables and of draws: files of another format are not looked for
STALE_SECONDS = 3600  # a table is written in far less; an older temporary file belongs to a killed run


def measured(
    arch: Architecture,
    *,
    folder: Path,
    tokens: int = 16,
    batch: int = 1,
    seeds: Iterable[int] = range(64),
    loss: str = "linear",
    minibatches: int = 1,
    label_smoothing: float = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Measure as `empirical.ensemble` does, block of seeds by block, and keep every block in a folder.

    A block that is there is read, not measured again. A run killed at any moment leaves whole tables only.

    Args:
        arch: The architecture.
        folder: Where tables are kept; made if absent.
        tokens: Tokens in a sequence.
        batch: Sequences in a mini-batch.
        seeds: Distinct integers of at least 0; blocks are made of them in ascending order.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``.
        minibatches: Mini-batches per seed.
        label_smoothing: For cross entropy.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.
        force: Measure again what is there.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        The samples, one row per key and seed, seeds ascending.

    Raises:
        InputError: If the setting cannot be measured, or the folder cannot be written.
    """
    setting = Setting(tokens, batch, loss, minibatches, label_smoothing, device, dtype)
    arch = check_architecture(arch)
    ordered = sorted(seed_list(seeds))
    report = progress if progress is not None else _silent
    tables = []
    for start in range(0, len(ordered), BLOCK):
        block = ordered[start : start + BLOCK]

        def make(block: list[int] = block) -> pd.DataFrame:
            return measure(arch, seeds=block, progress=report, **dataclasses.asdict(setting)).samples

        values = {"arch": arch, "setting": setting, "seeds": block}
        table, made = kept(Path(folder), arch.name, values, make, force=force)
        if not made:
            report(len(block))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def kept(
    folder: Path,
    name: str,
    values: Mapping[str, Any],
    make: Callable[[], pd.DataFrame],
    *,
    force: bool = False,
) -> tuple[pd.DataFrame, bool]:
    """Read a table where it is kept, or make it and keep it.

    Args:
        folder: Where tables are kept; made if absent.
        name: Start of the file name.
        values: Everything on which the table depends: dataclasses, tuples, ranges, numbers, texts.
        make: Makes the table.
        force: Make again what is there.

    Returns:
        The table as it is read from disk, and whether it was made now.

    Raises:
        InputError: If the folder cannot be written or the table cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):
        ...         table, made = kept(Path(folder), "one", {"x": 1}, lambda: pd.DataFrame({"x": [1.0]}))
        ...         print(table["x"].tolist(), made)
        [1.0] True
        [1.0] False
    """
    _prepare(folder)
    cell = {"format": FORMAT, **{key: _plain(value) for key, value in values.items()}}
    path = folder / f"{name}-{_digest(cell)}.parquet"
    table = _read(path, cell)
    if table is not None and not force:
        return table, False
    _write(path, make(), cell)
    table = _read(path, cell)
    if table is None:
        raise InputError(f"table {str(path)!r} cannot be read back: give a folder on a sound disk")
    return table, True


def _plain(value: Any) -> Any:
    """Describe a value in JSON's types: ops carry their type's name, exact fractions are strings."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list | range):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Fraction) else value


def _digest(cell: dict[str, Any]) -> str:
    canonical = json.dumps(cell, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _content(table: pd.DataFrame) -> str:
    """Digest names and values: a page's own checksum covers neither its header nor the file's footer."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(json.dumps(list(table.columns)).encode() + rows.tobytes()).hexdigest()


def _silent(seeds: int) -> None:
    pass


def _prepare(folder: Path) -> None:
    """Make the folder, try that it can be written, and clear it of what killed runs left."""
    trial = _temporary(folder, "trial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
        for left in folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    except OSError as error:
        raise InputError(
            f"folder {str(folder)!r} cannot be written ({error.strerror}): give a folder you may write to"
        ) from error


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.{platform.node()}-{os.getpid()}.tmp"


def _write(path: Path, table: pd.DataFrame, cell: dict[str, Any]) -> None:
    metadata = {
        "configuration": json.dumps(cell, sort_keys=True),
        "environment": json.dumps(environment()),
        "content": _content(table),
    }
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
    temporary = _temporary(path.parent, path.name)
    try:
        with temporary.open("wb") as file:
            pq.write_table(arrow, file, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"table {str(path)!r} cannot be written ({error.strerror}): free space or give another folder"
        ) from error


def _read(path: Path, cell: dict[str, Any]) -> pd.DataFrame | None:
    """Read a cell; None if it is not there, or if what is there is not it and has been moved aside."""
    if not path.exists():
        return None
    try:
        arrow = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        metadata = arrow.schema.metadata or {}
        if json.loads(metadata[b"configuration"]) == cell:
            table = arrow.to_pandas()
            content = _content(table)
            if metadata.get(b"content", content.encode()) == content.encode():  # older tables do not say it
                return table
            fault = "its numbers are not those that were written"
        else:
            fault = "it holds another configuration"
    except PermissionError as error:
        raise InputError(f"table {str(path)!r} cannot be read: give a folder you may read") from error
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        fault = f"it is no whole table ({type(error).__name__})"
    count = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{count}")).exists():
        count += 1
    path.rename(aside)
    sys.stderr.write(f"{path}: {fault}; moved to {aside.name}, measured again\n")
    return None


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
