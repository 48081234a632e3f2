"""The folder of a sweep: which version wrote it, which cells are whole, which failed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import meanfield
from empirical import store, tables
from empirical.sweep.cell import Cell
from meanfield.errors import InputError

SCHEMA = 1  # of the folder: what files there are and what they say
MANIFEST = "sweep.json"
FAILED = ".failed.json"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of cells, of this version.

    Args:
        path: Where it is.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Open a folder to write to; it is made, and marked as a sweep's, if it is not there.

        Args:
            path: Where it is.

        Returns:
            The folder.

        Raises:
            InputError: If another version wrote it, or it cannot be written.
        """
        manifest = path / MANIFEST
        if manifest.exists():
            _check(manifest)
        tables.prepare(path)
        if not manifest.exists():
            version = {"schema": SCHEMA, "format": store.FORMAT, "meanfield": meanfield.__version__}
            tables.write_text(manifest, json.dumps(version) + "\n")
        return cls(path)

    @classmethod
    def existing(cls, path: Path) -> Folder:
        """Open a folder to read from.

        Args:
            path: Where it is.

        Returns:
            The folder.

        Raises:
            InputError: If it is not there, no sweep's, or another version wrote it.
        """
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise InputError(
                f"{str(path)!r} is no folder of a sweep (it has no {MANIFEST}): give what was --out"
            )
        _check(manifest)
        return cls(path)

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """List the cells that are not there, and forget the failures of those that are.

        Files that are not what their names say are set aside, and so are tables that nobody's cell is.

        Args:
            cells: Those wanted.

        Returns:
            Those to be measured.
        """
        wanted = {cell.name: cell for cell in cells}
        for path in self.files():
            if path.stem not in wanted:
                with _setting_aside(path):
                    _check_name(path, tables.read_metadata(path))
        absent = []
        for name, cell in wanted.items():
            if cell.whole(self.path):
                self.forget(name)
            else:
                absent.append(cell)
        return absent

    def files(self) -> list[Path]:
        """List the tables, whole or not, in the order of their names."""
        return sorted(self.path.glob("*.parquet"))

    def read(self, path: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """Read a table of the folder.

        Args:
            path: One of `files`.

        Returns:
            The table and what its file says; None if it is no whole table that this program named, which is
            then set aside.
        """
        with _setting_aside(path):
            table, metadata = tables.read(path)
            _check_name(path, metadata)
            return table, metadata
        return None

    def record_failure(self, name: str, failure: dict[str, Any]) -> None:
        """Write down why a cell failed.

        Args:
            name: Of the cell.
            failure: What is known, of JSON's types.
        """
        tables.write_text(self.path / (name + FAILED), json.dumps(failure, indent=1) + "\n")

    def forget(self, name: str) -> None:
        """Remove the record of a failure, if there is one.

        Args:
            name: Of the cell, which is whole now.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.path / (name + FAILED)).unlink()

    def failures(self) -> list[str]:
        """List the names of cells that failed and have not been measured since."""
        return sorted(path.name.removesuffix(FAILED) for path in self.path.glob(f"*{FAILED}"))


@contextlib.contextmanager
def _setting_aside(path: Path) -> Iterator[None]:
    """Set a file aside if it turns out to be no whole table; nothing if another run was faster."""
    try:
        yield
    except FileNotFoundError:
        pass
    except tables.NoTableError as error:
        tables.set_aside(path, str(error))


def _check_name(path: Path, metadata: dict[str, Any]) -> None:
    if not path.stem.endswith(f"-{store.digest(metadata['configuration'])}"):
        raise tables.NoTableError("its name is not that of its configuration")


def _check(manifest: Path) -> None:
    try:
        version = json.loads(manifest.read_text())
        schema, tables_format, wrote = version["schema"], version["format"], version["meanfield"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{str(manifest)!r} does not say which version wrote the folder: give another folder"
        ) from error
    if (schema, tables_format) != (SCHEMA, store.FORMAT):
        raise InputError(
            f"folder {str(manifest.parent)!r} was written by version {wrote}, schema {schema}, format "
            f"{tables_format}; this one has schema {SCHEMA}, format {store.FORMAT}: give another folder, or "
            "run that version"
        )
