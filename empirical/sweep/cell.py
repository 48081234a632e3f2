"""One cell of a sweep: a configuration and a block of seeds, named by the digest of what it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from empirical import store
from empirical.build import Architecture
from empirical.losses import READ_THE_HEAD
from empirical.probe import one_thread
from empirical.setting import Setting, conditions
from empirical.sweep.methods import ENTRY, METHODS
from empirical.sweep.sizes import sizes
from meanfield.checks import check_architecture
from meanfield.errors import InputError
from meanfield.ops import EncoderDecoder

SETTINGS = {field.name: field.default for field in dataclasses.fields(Setting)}


@dataclass(frozen=True)
class Cell:
    """What is measured in one go, and kept in one file.

    Args:
        arch: The architecture.
        method: A name in `METHODS`.
        setting: One value for each of `Setting`'s fields.
        seeds: The block of seeds.
        options: Keywords of the preset and settings, defaults included: columns for what differs.

    Raises:
        InputError: If the setting does not fit the architecture or the method.
    """

    arch: Architecture
    method: str
    setting: Mapping[str, Any]
    seeds: tuple[int, ...]
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_architecture(self.arch)
        here = Setting(**{**self.setting, "device": "cpu"})  # the device may be on another machine
        conditions(self.arch, here)
        stack = self.arch.decoder if isinstance(self.arch, EncoderDecoder) else self.arch
        if here.loss in READ_THE_HEAD and stack.head is None:
            raise InputError(
                f"loss={here.loss!r} needs an output head and {self.arch.name} has none: give vocab"
            )
        for name, value in self.setting.items():
            if name not in METHODS[self.method].keywords and value != SETTINGS[name]:
                raise InputError(f"method={self.method!r} takes no {name}: leave {name}={value!r} out")

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Everything but the seeds on which numbers depend, in JSON's types; equal ones are equal here."""
        setting = dict(self.setting)
        if isinstance(self.arch, EncoderDecoder):
            setting["source_tokens"] = setting["source_tokens"] or setting["tokens"]
        values = {"arch": self.arch, "method": self.method, "setting": setting}
        return {key: _canonical(store.plain(value)) for key, value in values.items()}

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the name of the file is a digest of."""
        return store.described({**self.configuration, "seeds": self.seeds})

    @cached_property
    def name(self) -> str:
        """Name of the file, without its suffix: that of the architecture, and the digest."""
        return self.path(Path()).stem

    def path(self, folder: Path) -> Path:
        """Name the file in a folder.

        Args:
            folder: Where cells are kept.

        Returns:
            The path.
        """
        return store.path_of(folder, self.arch.name, self.description)

    def whole(self, folder: Path) -> bool:
        """Tell whether the cell is there; a file that is not it is set aside.

        Args:
            folder: Where cells are kept.

        Returns:
            Whether it is.
        """
        return store.whole(self.path(folder), self.description) is not None

    def run(self, folder: Path) -> bool:
        """Measure the cell and write it, unless it is there.

        Args:
            folder: Where cells are kept.

        Returns:
            Whether it was measured now.
        """
        options = _canonical(store.plain(self.options))
        _, made = store.cell_at(folder, self.arch.name, self.description, self.measure, options=options)
        return made

    def measure(self) -> pd.DataFrame:
        """Measure the cell.

        Returns:
            One row per key columns and seed.
        """
        method = METHODS[self.method]
        taken = {name: value for name, value in self.setting.items() if name in method.keywords}
        if "workers" in method.keywords:
            taken["workers"] = 1  # the engine shares out cells, not seeds
        with one_thread():  # sums would depend on the number of threads
            return method.measure(self.arch, seeds=self.seeds, **taken).samples

    @cached_property
    def memory(self) -> float:
        """Bytes that it takes at its peak, above an idle process: an estimate."""
        counts, entry = sizes(self.arch, self.setting), ENTRY[self.setting["dtype"]]
        return METHODS[self.method].memory(counts, entry, self.setting["minibatches"], len(self.seeds))

    @cached_property
    def work(self) -> float:
        """Multiplications that it takes, or what takes as long: an estimate."""
        counts = sizes(self.arch, self.setting)
        return len(self.seeds) * METHODS[self.method].work(counts, self.setting["minibatches"])


def _canonical(value: Any) -> Any:
    """Write whole numbers in one way: 0 and 0.0 are equal, and are not the same in JSON."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
