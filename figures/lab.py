"""Where figures get their numbers: theory computed, measurements taken once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

import empirical
from empirical import store
from meanfield import predict
from meanfield.ops import Embedding, EncoderDecoder, Head, Linear, Transformer, walk
from meanfield.predict import Prediction

LAYER_OVERHEAD = 200_000  # what one layer costs beside its weights, in weights: 1 ms


@dataclass(frozen=True)
class Cell:
    """One measured configuration.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence.
        seeds: Number of seeds, counted from 0.
        batch: Sequences in a mini-batch.
        loss: Name of the loss.
        minibatches: Mini-batches per seed.
        label_smoothing: For cross entropy.
    """

    arch: Transformer | EncoderDecoder
    tokens: int
    seeds: int
    batch: int = 1
    loss: str = "linear"
    minibatches: int = 1
    label_smoothing: float = 0.0

    @cached_property
    def seed_cost(self) -> float:
        """Work of one seed in weights drawn or touched: the unit of the progress bar."""
        stacks = (
            [self.arch.encoder, self.arch.decoder] if isinstance(self.arch, EncoderDecoder) else [self.arch]
        )
        weights = 0
        for stack in stacks:
            for run in stack.layers:
                weights += run.times * (LAYER_OVERHEAD + sum(_weights(op) for op in walk(run.block)))
            weights += sum(_weights(op) for op in (stack.embedding, stack.head) if op is not None)
        return weights * (1 + self.minibatches * self.batch * self.tokens / 64)


def _weights(op: object) -> int:
    match op:
        case Linear(d_in=d_in, d_out=d_out) | Head(linear=Linear(d_in=d_in, d_out=d_out)):
            return d_in * d_out
        case Embedding(vocab=vocab, width=width):
            return vocab * width
        case _:
            return 0


@dataclass
class Lab:
    """Hands out theory and measurements; a configuration that several figures share is measured once.

    Args:
        folder: Where measured tables are kept.
        device: Where models run.
        force: Measure again what is on disk already.
        advance: Told how much work (in `Cell.seed_cost` units) has been done since the last call.
    """

    folder: Path
    device: str = "cpu"
    force: bool = False
    advance: Callable[[float], None] = lambda work: None
    _known: dict[Cell, pd.DataFrame] = field(default_factory=dict)

    def samples(self, cell: Cell) -> pd.DataFrame:
        """Measured samples of a cell, from disk where they are.

        Args:
            cell: The configuration.

        Returns:
            One row per key columns and seed.
        """
        if cell not in self._known:
            self._known[cell] = empirical.measured(
                cell.arch,
                folder=self.folder,
                tokens=cell.tokens,
                batch=cell.batch,
                seeds=range(cell.seeds),
                loss=cell.loss,
                minibatches=cell.minibatches,
                label_smoothing=cell.label_smoothing,
                device=self.device,
                force=self.force,
                progress=lambda seeds: self.advance(seeds * cell.seed_cost),
            )
        return self._known[cell]

    def kept(self, name: str, configuration: object, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table that is made once and then read from disk.

        Args:
            name: Start of the file name.
            configuration: Everything the table depends on, as `empirical.store.kept` takes it.
            make: Makes the table.

        Returns:
            The table.
        """
        values = {"table": name, "of": configuration}
        table, _ = store.kept(self.folder, name, values, make, force=self.force)
        return table


def theory(cell: Cell) -> Prediction:
    """Theory of a cell.

    Args:
        cell: The configuration.

    Returns:
        The prediction.
    """
    return predict(cell.arch, tokens=cell.tokens, batch=cell.batch, loss=cell.loss)


def work(cells: Iterable[Cell]) -> float:
    """Work of measuring cells once each.

    Args:
        cells: Configurations; equal ones count once.

    Returns:
        The sum of seeds times cost.
    """
    return sum(cell.seeds * cell.seed_cost for cell in dict.fromkeys(cells))
