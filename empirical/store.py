"""Measured tables on disk: one Parquet file per cell, whole or not there.

A cell is one configuration and a block of seeds. Its name ends in a digest of both, so that a table found
under the name is the table wanted; metadata inside say it again, and a file that does not is moved aside.
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
from collections.abc import Callable, Iterable
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
        loss: ``"linear"`` or ``"cross_entropy"``.
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
    ordered = sorted(seed_list(seeds))
    report = progress if progress is not None else _silent
    folder = Path(folder)
    _prepare(folder)
    tables = []
    for start in range(0, len(ordered), BLOCK):
        block = ordered[start : start + BLOCK]
        cell = configuration(arch, setting, block)
        path = folder / f"{arch.name}-{_digest(cell)}.parquet"
        table = _read(path, cell)
        if table is None or force:
            options = dataclasses.asdict(setting)
            _write(path, measure(arch, seeds=block, progress=report, **options).samples, cell)
            table = _read(path, cell)
        else:
            report(len(block))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def configuration(arch: Architecture, setting: Setting, seeds: list[int]) -> dict[str, Any]:
    """Describe a cell in JSON's types: everything on which its numbers depend.

    Args:
        arch: The architecture.
        setting: What is measured on it.
        seeds: The block of seeds.

    Returns:
        Nested dictionaries; ops carry their type's name, exact fractions are strings.

    Example:
        >>> import meanfield as mf
        >>> cell = configuration(mf.paper_post_ln(width=8, depth=3), Setting(), [0, 1])
        >>> cell["arch"]["layers"][0]["times"], cell["seeds"]
        (3, [0, 1])
    """
    return {"format": FORMAT, "arch": _plain(arch), "setting": _plain(setting), "seeds": seeds}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Fraction) else value


def _digest(cell: dict[str, Any]) -> str:
    canonical = json.dumps(cell, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


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
    metadata = {"configuration": json.dumps(cell, sort_keys=True), "environment": json.dumps(environment())}
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
        found = json.loads((arrow.schema.metadata or {})[b"configuration"])
        if found == cell:
            return arrow.to_pandas()
        fault = "it holds another configuration"
    except PermissionError as error:
        raise InputError(f"table {str(path)!r} cannot be read: give a folder you may read") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
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
