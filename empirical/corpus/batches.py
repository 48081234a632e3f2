"""Batches by their step, from the seed alone, without a history: a resumed run sees the same data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.corpus.values import Pair
from empirical.corpus.vocabulary import Vocabulary
from empirical.draws import seed_number
from meanfield.errors import InputError, positive_integer


class PairBatches:
    """Batches of sentence pairs of about the same length: at most ``tokens`` target tokens, padding included.

    The pairs are sorted by length and cut, so that rows × longest target ≤ ``tokens``, EOS counted. Pairs of
    equal lengths are shuffled anew in each epoch, and so is the order of the batches; both shuffles are keyed
    by (seed, epoch). Every epoch has ``len`` batches, so that the batch of a step needs no history.

    Args:
        pairs: The pairs.
        tokens: Most target tokens of a batch.
        seed: Seed of the order.

    Raises:
        InputError: If there is no pair, an empty source, a target longer than ``tokens``, or a seed below 0.

    Example:
        >>> batches = PairBatches([Pair((5, 6), (7,)), Pair((5,), (8, 9))], tokens=8, seed=0)
        >>> len(batches)
        1
        >>> source, target_in, target_out = batches.batch(0)
        >>> target_in.tolist(), target_out.tolist()
        ([[1, 8, 9], [1, 7, 0]], [[8, 9, 2], [7, 2, 0]])
    """

    def __init__(self, pairs: Sequence[Pair], tokens: int, seed: int) -> None:
        self.tokens, self.seed = positive_integer("tokens", tokens), seed_number(seed)
        self._pairs = pairs
        if not pairs:
            raise InputError("no pairs to make batches of: give a corpus with at least one")
        lengths = np.array([(len(pair.target) + 1, len(pair.source)) for pair in pairs])
        if not lengths[:, 1].all():
            raise InputError(f"pair {int(lengths[:, 1].argmin()) + 1} has an empty source: leave it out")
        if lengths[:, 0].max() > tokens:
            raise InputError(
                f"pair {int(lengths[:, 0].argmax()) + 1} has {lengths[:, 0].max()} target tokens, EOS "
                f"counted, more than a batch of tokens={tokens}: give more tokens, or leave it out"
            )
        self._keys = lengths
        ordered = -np.sort(-lengths[:, 0])  # the same in every epoch, and so are the cuts
        self._cuts = _cut(ordered, tokens)
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._places: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Indices of the pairs of a step, longest target first."""
        epoch, place = divmod(step, len(self))
        if epoch != self._epoch:
            chance = np.random.default_rng([self.seed, epoch])
            shuffled = chance.permutation(len(self._pairs))
            targets, sources = -self._keys[shuffled].T
            self._order = shuffled[np.lexsort((sources, targets))]  # stable: equal lengths stay shuffled
            self._places = chance.permutation(len(self))
            self._epoch = epoch
        cut = self._places[place]
        return self._order[self._cuts[cut] : self._cuts[cut + 1]]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make the batch of a step.

        Args:
            step: The step, from 0 on; after ``len`` steps a new epoch begins.

        Returns:
            Source ids (batch, source tokens) without special tokens; target ids (batch, tokens) that begin
            with BOS; the same that end with EOS. Rows are filled up with PAD.

        Raises:
            InputError: If the step is below 0.
        """
        _check(step)
        return padded([self._pairs[index] for index in self._rows(step)])


class TextBatches:
    """Batches of random crops from a stream of tokens; which ones follows from (seed, step) alone.

    Args:
        stream: Token ids, shape (tokens of the stream,).
        tokens: Tokens of a batch; it has ``tokens // length`` rows.
        length: Tokens of a crop.
        seed: Seed of the crops.

    Raises:
        InputError: If a crop is longer than the stream or than a batch, or the seed is below 0.

    Example:
        >>> batches = TextBatches(np.arange(100), tokens=20, length=8, seed=0)
        >>> batches.batch(3).shape
        torch.Size([2, 8])
        >>> bool((batches.batch(3).diff() == 1).all())
        True
    """

    def __init__(self, stream: NDArray[np.integer], tokens: int, length: int, seed: int) -> None:
        self.tokens, self.length = positive_integer("tokens", tokens), positive_integer("length", length)
        self.seed = seed_number(seed)
        if length > tokens:
            raise InputError(f"length={length} is more than a batch of tokens={tokens}: give more tokens")
        if length > len(stream):
            raise InputError(
                f"length={length} is more than the stream's {len(stream)} tokens: "
                "give a shorter length, or more text"
            )
        self._stream = stream

    def batch(self, step: int) -> Tensor:
        """Make the batch of a step.

        Args:
            step: The step, from 0 on.

        Returns:
            Token ids, shape (tokens // length, length).

        Raises:
            InputError: If the step is below 0.
        """
        _check(step)
        ends = len(self._stream) - self.length + 1
        chance = np.random.default_rng([self.seed, step])
        starts = chance.integers(ends, size=self.tokens // self.length)
        places = starts[:, None] + np.arange(self.length)  # (rows, length)
        return torch.from_numpy(self._stream[places].astype(np.int64))


def _check(step: int) -> None:
    if step < 0:
        raise InputError(f"step={step} is below 0: steps count from 0")


def _cut(lengths: NDArray[np.int64], tokens: int) -> list[int]:
    """Cut falling lengths into batches of rows × longest ≤ tokens, the last two evened out."""
    cuts = [0]
    while cuts[-1] < len(lengths):
        cuts.append(min(cuts[-1] + tokens // int(lengths[cuts[-1]]), len(lengths)))
    if len(cuts) > 2:  # what is left over may be a single row
        cuts[-2] = min(cuts[-2], (cuts[-3] + cuts[-1] + 1) // 2)
    return cuts


def padded(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Lay pairs out as rectangles, filled up with PAD.

    Args:
        pairs: The pairs.

    Returns:
        Source ids, target ids behind BOS, target ids with EOS at their end.

    Example:
        >>> [ids.tolist() for ids in padded([Pair((5, 6), (7,)), Pair((8,), (9,))])]
        [[[5, 6], [8, 0]], [[1, 7], [1, 9]], [[7, 2], [9, 2]]]
    """
    targets = [pair.target for pair in pairs]
    return (
        _rectangle([pair.source for pair in pairs]),
        _rectangle([(Vocabulary.BOS, *target) for target in targets]),
        _rectangle([(*target, Vocabulary.EOS) for target in targets]),
    )


def _rectangle(rows: Sequence[Sequence[int]]) -> Tensor:
    """Put rows of token ids into a tensor (rows, longest), filled up with PAD."""
    out = np.full((len(rows), max(map(len, rows))), Vocabulary.PAD)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)
