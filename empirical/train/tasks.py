"""What is learnt: translation, and masked and causal language models, as batches and losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical import layers
from empirical.corpus import Pair, PairBatches, Parallel, Text, TextBatches, Vocabulary, masked, padded
from empirical.layers import Context
from empirical.names import Model

VALID_TOKENS = 4096
"""Tokens in a batch of validation, where nothing is kept for a backward pass."""
UNCHOSEN = -100
"""Label of tokens that a masked language model is not asked for."""


@dataclass(frozen=True)
class Batch:
    """One mini-batch, and the positions at which something is to be predicted.

    Args:
        inputs: Ids (rows, tokens): of the text, or of the source and the teacher-forced target.
        picked: Positions that count, as indices into rows times tokens of the last input.
        targets: What stands there, as long as ``picked``.
    """

    inputs: tuple[Tensor, ...]
    picked: Tensor
    targets: Tensor

    def share(self, rank: int, world: int) -> Batch:
        """The part of one process: every ``world``-th row.

        Args:
            rank: Number of the process.
            world: Number of processes.

        Returns:
            Its batch; with fewer rows than processes it may be empty.
        """
        if world == 1:
            return self
        tokens = self.inputs[-1].shape[1]
        rows = self.picked // tokens
        mine = rows % world == rank
        return Batch(
            tuple(x[rank::world] for x in self.inputs),
            (rows[mine] // world) * tokens + self.picked[mine] % tokens,
            self.targets[mine],
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device.

        Args:
            device: Where.

        Returns:
            The batch.
        """
        move = [x.to(device, non_blocking=True) for x in (*self.inputs, self.picked, self.targets)]
        return Batch(tuple(move[:-2]), move[-2], move[-1])


def labelled(inputs: tuple[Tensor, ...], labels: Tensor, ignored: int) -> Batch:
    """Make a batch from labels of every position.

    Args:
        inputs: As in `Batch`.
        labels: (rows, tokens).
        ignored: The label of positions that do not count.

    Returns:
        The batch.
    """
    flat = labels.flatten()
    picked = (flat != ignored).nonzero().flatten()
    return Batch(inputs, picked, flat[picked])


class Task(Protocol):
    """What the loop needs to know of a task: its number of classes, a name of its data, and batches."""

    vocab: int
    digest: str

    def batch(self, step: int) -> Batch:
        """The mini-batch of a step, from 0; equal steps have equal batches."""

    def valid(self) -> Iterator[Batch]:
        """The validation set, the same each time."""

    def counts(self) -> NDArray[np.int64]:
        """How often each class is to be predicted in the training data."""


class Translation:
    """Source sentence to target sentence.

    Args:
        corpus: The data.
        tokens: Largest number of target tokens in a mini-batch, padding counted.
        seed: Of the order of the data.
    """

    def __init__(self, corpus: Parallel, tokens: int, seed: int) -> None:
        self.corpus, self.digest = corpus, corpus.digest
        self.vocab = max(corpus.source.size, corpus.target.size)
        self._batches = PairBatches(corpus.train, tokens, seed)

    def batch(self, step: int) -> Batch:
        """The mini-batch of a step."""
        return _translated(self._batches.batch(step))

    def valid(self) -> Iterator[Batch]:
        """The validation pairs in batches."""
        for rows in _chunks(self.corpus.valid, VALID_TOKENS):
            yield _translated(padded(rows))

    def counts(self) -> NDArray[np.int64]:
        """Count the target tokens, ends included."""
        ids = [token for pair in self.corpus.train for token in (*pair.target, Vocabulary.EOS)]
        return np.bincount(ids, minlength=self.vocab)


class Language:
    """Text: the next token, or (``masks``) 15 % of the tokens from all others.

    Args:
        corpus: The data.
        tokens: Tokens in a mini-batch.
        length: Tokens in a row.
        seed: Of the order of the data and of the masks.
        masks: Whether this is the masked language model.
    """

    def __init__(self, corpus: Text, tokens: int, length: int, seed: int, masks: bool) -> None:
        self.corpus, self.digest, self.vocab = corpus, corpus.digest, corpus.vocabulary.size
        self._seed, self._masks = seed, masks
        # The causal model reads all tokens of a row but the last, and predicts all but the first.
        self._row = length if masks else length + 1
        self._batches = TextBatches(corpus.train, tokens, self._row, seed)

    def batch(self, step: int) -> Batch:
        """The mini-batch of a step."""
        return self._made(self._batches.batch(step), np.random.default_rng([self._seed, step]))

    def valid(self) -> Iterator[Batch]:
        """The validation text in rows, with the same masks every time."""
        rows = len(self.corpus.valid) // self._row
        ids = np.asarray(self.corpus.valid[: rows * self._row], np.int64).reshape(rows, self._row)
        count = max(1, VALID_TOKENS // self._row)
        for number, start in enumerate(range(0, rows, count)):
            part = torch.from_numpy(ids[start : start + count])
            yield self._made(part, np.random.default_rng([0, number]))

    def counts(self) -> NDArray[np.int64]:
        """Count the tokens."""
        return np.bincount(self.corpus.train, minlength=self.vocab)

    def _made(self, ids: Tensor, generator: np.random.Generator) -> Batch:
        if not self._masks:
            return labelled((ids[:, :-1],), ids[:, 1:], Vocabulary.PAD)
        inputs, labels = masked(ids, self.vocab, generator)
        return labelled((inputs,), labels, UNCHOSEN)


class Loss(nn.Module):
    """Cross entropy of a model summed over what is predicted: one module, so that torch can distribute it.

    Args:
        model: What `empirical.build` made.
        label_smoothing: Weight of the uniform distribution in the target.
    """

    def __init__(self, model: Model, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, inputs: tuple[Tensor, ...], picked: Tensor, targets: Tensor) -> Tensor:
        """Sum the loss over the picked positions."""
        if isinstance(self.model, layers.EncoderDecoder):
            source, target = inputs
            context = Context(None, None, source != Vocabulary.PAD)
            x = self.model.hidden(source, target, context=context)  # (rows, tokens, width)
        else:
            x = self.model.hidden(inputs[0])
        logits = self.model.head(x.flatten(0, 1)[picked])  # (positions, vocab)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing, reduction="sum")


def unigram_loss(task: Task) -> float:
    """Validation loss of whoever knows how frequent each token is, and nothing else.

        -(1/n) sum_i ln p(y_i),   p(y) = (count(y) + 1)/(sum of counts + classes)

    Args:
        task: Gives the counts of the training data and the validation set.

    Returns:
        The loss in nats per token: what a model beats as soon as it reads its input.
    """
    smoothed = task.counts() + 1.0
    logp = np.log(smoothed / smoothed.sum())
    targets = torch.cat([batch.targets for batch in task.valid()]).numpy()
    return float(-logp[targets].mean())


def _translated(ids: tuple[Tensor, Tensor, Tensor]) -> Batch:
    return labelled(ids[:2], ids[2], Vocabulary.PAD)


def _chunks(pairs: tuple[Pair, ...], tokens: int) -> Iterator[list[Pair]]:
    """Cut pairs, short ones first, into lists whose rectangle holds at most so many tokens."""
    rows: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: (len(pair.target), len(pair.source))):
        if rows and (len(rows) + 1) * (len(pair.target) + 1) > tokens:
            yield rows
            rows = []
        rows.append(pair)
    if rows:
        yield rows
