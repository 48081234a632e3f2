"""Measured tables on disk: one Parquet file per cell, whole or not there.

A cell is everything on which a table depends, such as an architecture, a setting and a block of seeds. The
file's name ends in a digest of it, so that a table found under the name is the table wanted; metadata inside
say it again, and a file that does not is moved aside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from empirical import tables
from empirical.build import Architecture
from empirical.measure import measure
from empirical.setting import Setting, seed_list
from empirical.tables import STALE_SECONDS as STALE_SECONDS
from empirical.tables import environment as environment
from meanfield.checks import check_architecture

BLOCK = 25
FORMAT = 2  # of tables and of draws: files of another format are not looked for


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
    """Measure as `empirical.measure` does, block of seeds by block, and keep every block in a folder.

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
    blocks = []
    for start in range(0, len(ordered), BLOCK):
        block = ordered[start : start + BLOCK]

        def make(block: list[int] = block) -> pd.DataFrame:
            return measure(arch, seeds=block, progress=report, **dataclasses.asdict(setting)).samples

        values = {"arch": arch, "setting": setting, "seeds": block}
        table, made = kept(Path(folder), arch.name, values, make, force=force)
        if not made:
            report(len(block))
        blocks.append(table)
    return pd.concat(blocks, ignore_index=True)


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
    tables.prepare(folder)
    return cell_at(folder, name, described(values), make, force=force)


def cell_at(
    folder: Path,
    name: str,
    cell: Mapping[str, Any],
    make: Callable[[], pd.DataFrame],
    *,
    force: bool = False,
    **notes: Any,
) -> tuple[pd.DataFrame, bool]:
    """Read a described table where it is kept, or make it and keep it: `kept` in a folder that is ready.

    Args:
        folder: Where tables are kept; it is there.
        name: Start of the file name.
        cell: What `described` gives.
        make: Makes the table.
        force: Make again what is there.
        notes: What else the file shall say, of JSON's types.

    Returns:
        The table as it is read from disk, and whether it was made now.

    Raises:
        StorageError: If the table cannot be written, or not be read back.
    """
    path = path_of(folder, name, cell)
    table = whole(path, cell)
    if table is not None and not force:
        return table, False
    tables.write(path, make(), {"configuration": cell, **notes})
    table = whole(path, cell)
    if table is None:
        raise tables.StorageError(f"table {str(path)!r} cannot be read back: give a folder on a sound disk")
    return table, True


def whole(path: Path, cell: Mapping[str, Any]) -> pd.DataFrame | None:
    """Read a cell; what is there and is not it is set aside.

    Args:
        path: Where it is kept.
        cell: What `described` gives.

    Returns:
        The table; None if it is not there.
    """
    try:
        table, metadata = tables.read(path)
        if metadata["configuration"] == cell:
            return table
        fault = "it holds another configuration"
    except FileNotFoundError:
        return None
    except tables.NoTableError as error:
        fault = str(error)
    tables.set_aside(path, fault)
    return None


def described(values: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a table depends on in JSON's types, with the format of tables and draws.

    Args:
        values: Dataclasses, tuples, ranges, numbers, texts by name.

    Returns:
        The description, which `path_of` names a file after.

    Example:
        >>> described({"seeds": range(2)})["seeds"]
        [0, 1]
    """
    return {"format": FORMAT, **{key: plain(value) for key, value in values.items()}}


def path_of(folder: Path, name: str, cell: Mapping[str, Any]) -> Path:
    """Name the file of a described table.

    Args:
        folder: Where tables are kept.
        name: Start of the file name.
        cell: What `described` gives.

    Returns:
        The path: the name ends in a digest of the description.
    """
    return folder / f"{name}-{digest(cell)}.parquet"


def plain(value: Any) -> Any:
    """Describe a value in JSON's types: ops carry their type's name, exact fractions are strings.

    Args:
        value: A dataclass, tuple, list, range, number, text or None.

    Returns:
        The description.

    Example:
        >>> plain((Fraction(1, 2), None))
        ['1/2', None]
    """
    if dataclasses.is_dataclass(value):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list | range):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Fraction) else value


def digest(cell: Mapping[str, Any]) -> str:
    """Digest a description; the order of its keys does not count.

    Args:
        cell: Values of JSON's types by name.

    Returns:
        16 hexadecimal digits.
    """
    canonical = json.dumps(cell, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _silent(seeds: int) -> None:
    pass
