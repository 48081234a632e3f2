"""Where the tables of figures come from: models at initialisation, or one pass of training for all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pandas as pd

from figures.criteria.finding import Tables
from figures.lab import Lab, work
from figures.presets import Sizes

STEP = 5e6  # one update in the units of Cell.seed_cost: about 40 ms


class Source(Protocol):
    """Gives the tables of figures."""

    def work(self, names: Iterable[str]) -> float:
        """Work of some figures, in the units of `figures.lab.Cell.seed_cost`."""

    def prepare(self) -> None:
        """Do what all figures share."""

    def tables(self, name: str) -> Tables:
        """Tables of one figure; empty where there is nothing to show."""


ON_DEVICE = 4  # runs on one accelerator at once: a model of this size leaves it waiting for the host


@dataclass(frozen=True)
class Initialisation:
    """Models at initialisation, each figure's measured when it is asked for.

    Args:
        figures: Name to module.
        sizes: The preset.
        lab: What measures.
    """

    figures: Mapping[str, ModuleType]
    sizes: Sizes
    lab: Lab

    def work(self, names: Iterable[str]) -> float:
        """Work of some figures.

        Args:
            names: Their names.

        Returns:
            The work; what figures share counts once.
        """
        return work(cell for name in names for cell in self.figures[name].cells(self.sizes))

    def prepare(self) -> None:
        """Nothing: the lab shares what figures share."""

    def tables(self, name: str) -> Tables:
        """Measure what a figure shows.

        Args:
            name: The figure.

        Returns:
            Its tables.
        """
        return self.figures[name].measure(self.sizes, self.lab)


@dataclass
class Training:
    """A grid of training runs: all of them are trained, or read where they are, before the first figure.

    Args:
        figures: Name to module.
        grid: Name of the grid in `empirical.train.presets`.
        folder: Where runs are kept.
        device: Where models run.
        force: Train again what is there.
        advance: Told how much work has been done since the last call.
    """

    figures: Mapping[str, ModuleType]
    grid: str
    folder: Path
    device: str
    force: bool
    advance: Callable[[float], None]
    _runs: tuple[Any, ...] = field(init=False)
    _trained: dict[str, pd.DataFrame] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        from empirical.train.presets import PRESETS  # nothing else needs what training needs

        self._runs = PRESETS[self.grid]

    def work(self, names: Iterable[str]) -> float:
        """Work of the whole grid, whatever is drawn.

        Args:
            names: Names of figures.

        Returns:
            The work.
        """
        return sum(run.steps for run in self._runs) * STEP

    def prepare(self) -> None:
        """Train what is not there yet."""
        from empirical.train.grid import train_grid

        if self.force:
            for run in self._runs:
                shutil.rmtree(self.folder / run.name, ignore_errors=True)
        self._trained = train_grid(
            self._runs,
            self.folder,
            workers=(os.cpu_count() or 1) if self.device == "cpu" else ON_DEVICE,
            device=self.device,
            advance=lambda steps: self.advance(steps * STEP),
        )

    def tables(self, name: str) -> Tables:
        """Take from the runs what a figure shows.

        Args:
            name: The figure.

        Returns:
            Its tables; empty where the grid lacks what it compares.
        """
        return self.figures[name].measure(self._trained)
