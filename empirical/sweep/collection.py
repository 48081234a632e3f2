"""`collect`: all cells of a folder as one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from empirical import store
from empirical.measure import Measurement
from empirical.setting import KEYS, SETTING_KEYS
from empirical.sweep.cost import varying
from empirical.sweep.folder import Folder
from meanfield.errors import InputError

# What the numbers of one seed may differ by, relatively, between machines and between sizes of blocks.
TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 0.05}
ROUNDING = 1e-12  # of the largest square: a gradient that is 0 in theory is rounding


@dataclass(frozen=True)
class Collection:
    """The cells of a folder.

    Args:
        samples: One row per configuration, key and seed. ``configuration`` is the configuration's digest;
            ``method`` and what else differs, and is no key, have columns of their own behind it.
        own: Names of these columns.
        cells: Number of cells.
        damaged: Number of files that were set aside.
        failed: Names of cells that failed and are not there.
    """

    samples: pd.DataFrame
    own: tuple[str, ...]
    cells: int
    damaged: int
    failed: tuple[str, ...]

    @cached_property
    def df(self) -> pd.DataFrame:
        """Per configuration and parameter: means over all seeds, ``_se``, ``_sd``, and how many ``seeds``."""
        parts = []
        for _, rows in self.samples.groupby("configuration", sort=False):
            part = Measurement(rows).df
            part.insert(len(KEYS), "seeds", rows["seed"].nunique())
            first = rows.iloc[0]
            for position, name in enumerate(self.own):
                part.insert(position, name, first[name])
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def collect(folder: Path | str) -> Collection:
    """Join all cells of a folder.

    Args:
        folder: What was ``out`` of `run`.

    Returns:
        The cells.

    Raises:
        InputError: If it is no folder of a sweep or has no cell, or cells cannot be joined: they have other
            columns, or other numbers for the same seed.

    Example:
        >>> import tempfile
        >>> from empirical.sweep import run
        >>> sizes = {"arch": "paper_post_ln", "width": [8, 16], "depth": 1, "tokens": 2, "seeds": 3}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = run({**sizes, "seed_block": 2}, out=folder, workers=1)
        ...     found = collect(folder)
        >>> found.cells, sorted(found.df["width"].unique().tolist()), found.df["seeds"].unique().tolist()
        (4, [8, 16], [3])
    """
    opened = Folder.existing(Path(folder))
    blocks: dict[str, list[tuple[Path, pd.DataFrame]]] = {}
    options: dict[str, dict[str, Any]] = {}
    before = len(opened.files())
    left_out = 0
    for path in opened.files():
        read = opened.read(path)
        if read is None:
            continue
        table, metadata = read
        if "options" not in metadata:  # a table of this toolkit that no sweep made
            left_out += 1
            continue
        configuration = {
            key: value for key, value in metadata["configuration"].items() if key not in ("seeds", "format")
        }
        name = store.digest(configuration)
        blocks.setdefault(name, []).append((path, table))
        options.setdefault(name, metadata["options"])
    damaged = before - left_out - sum(map(len, blocks.values()))
    if not blocks:
        raise InputError(f"folder {str(folder)!r} has no whole cell: run the sweep first")
    _same_columns(blocks)
    joined = {name: _joined(parts) for name, parts in blocks.items()}
    extra = [key for key in varying(list(options.values())) if key not in (*KEYS, "method")]
    own = ("configuration", "method", *extra)
    columns = {key: _column({name: row.get(key) for name, row in options.items()}) for key in own[1:]}
    tables_in_order = []
    for name in sorted(joined, key=lambda name: (*joined[name][SETTING_KEYS].iloc[0], name)):
        table = joined[name]
        for position, key in enumerate(own):
            table.insert(position, key, name if key == "configuration" else columns[key][name])
        tables_in_order.append(table)
    whole = {path.stem for parts in blocks.values() for path, _ in parts}
    failed = tuple(name for name in opened.failures() if name not in whole)
    samples = pd.concat(tables_in_order, ignore_index=True)
    return Collection(samples, own, sum(map(len, blocks.values())), damaged, failed)


def _same_columns(blocks: Mapping[str, Sequence[tuple[Path, pd.DataFrame]]]) -> None:
    """Refuse tables that other versions laid out otherwise."""
    (first, table), *others = (part for parts in blocks.values() for part in parts)
    for path, other in others:
        if list(other.columns) != list(table.columns):
            raise InputError(
                f"{path.name} has other columns than {first.name}: another version wrote one of them; "
                "collect them in folders of their own"
            )


def _joined(parts: Sequence[tuple[Path, pd.DataFrame]]) -> pd.DataFrame:
    """Join blocks of seeds; a seed in two blocks counts once, and has to have the same numbers in both."""
    seen: dict[int, Path] = {}
    pieces: list[pd.DataFrame] = []
    for path, table in sorted(parts, key=lambda part: (int(part[1]["seed"].min()), part[0])):
        twice = [seed for seed in table["seed"].unique() if seed in seen]
        if twice:
            earlier = pd.concat(pieces)
            if not _close(earlier[earlier["seed"].isin(twice)], table[table["seed"].isin(twice)]):
                raise InputError(
                    f"{path.name} and {seen[twice[0]].name} have other numbers for seed={twice[0]} of "
                    "one configuration: move one of them away"
                )
            table = table[~table["seed"].isin(twice)]  # noqa: PLW2901  (what is left of it)
        seen.update(dict.fromkeys(table["seed"].unique(), path))
        pieces.append(table)
    return pd.concat(pieces, ignore_index=True).sort_values("seed", kind="stable", ignore_index=True)


def _close(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    keys = ["seed", "layer", "module", "parameter"]
    ours, theirs = (table.set_index(keys)["grad_sq_hat"].dropna().sort_index() for table in (left, right))
    tolerance = TOLERANCES[left["dtype"].iloc[0]]
    return ours.index.equals(theirs.index) and np.allclose(
        ours, theirs, rtol=tolerance, atol=ROUNDING * ours.max()
    )


def _column(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the values of one option to one type."""
    given = [value for value in values.values() if value is not None]
    for kind in (bool, int | float):
        if all(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for value in given):
            return dict(values)
    return {
        name: value if isinstance(value, str) else "none" if value is None else json.dumps(value)
        for name, value in values.items()
    }
