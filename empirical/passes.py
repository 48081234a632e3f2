"""Passes over blocks of seeds: how many run at once, what they are fed with, what is beyond their range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.backend import TorchBackend
from empirical.build import Architecture
from empirical.dense import Dense
from empirical.losses import READ_THE_HEAD
from empirical.matrices import Matrices
from empirical.setting import Conditions, Setting
from meanfield import ops
from meanfield.errors import InputError
from meanfield.moments.loss import Loss
from meanfield.random import stream
from meanfield.weight_free.blocks import Numbers, in_blocks
from meanfield.weight_free.room import numbers_kept
from meanfield.weight_free.run import Feed
from meanfield.weight_free.sample import check_range
from meanfield.weight_free.stack import Data, squares

MATRIX = 2**21  # numbers of the largest matrix, of all seeds that run at once: they share a cache
TOKENS = 2**19  # the same of the widest tokens
AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Squares:
    """Squared gradient norms of some seeds.

    Args:
        keys: The parameters.
        values: (seeds, parameters).
    """

    keys: list[ops.ParameterKey]
    values: NDArray[np.float64]


class Pass:
    """Measures blocks of seeds of one architecture.

    Args:
        arch: The architecture.
        setting: What is measured; one mini-batch.
        fixed: What is not drawn.
        run: The kind of pass.

    Raises:
        InputError: If the loss needs a head and there is none.
    """

    def __init__(
        self, arch: Architecture, setting: Setting, fixed: Conditions, run: type[Dense] = Dense
    ) -> None:
        self.arch, self.setting, self.run = arch, setting, run
        self.stacks = [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]
        self.fixed = [fixed] if fixed.source is None else [fixed.source, fixed]
        lengths = [setting.tokens] if len(self.stacks) == 1 else [setting.source_tokens or setting.tokens]
        self.lengths = [*lengths, setting.tokens][: len(self.stacks)]
        if setting.loss in READ_THE_HEAD and self.stacks[-1].head is None:
            raise InputError(
                f"loss={setting.loss!r} needs an output head and {arch.name} has none: give vocab=..."
            )
        self.backend = TorchBackend(setting.dtype, setting.device)
        self.matrices = Matrices(self.backend)
        self.at_once = self._at_once()
        self.keys: list[ops.ParameterKey] = []

    def _at_once(self) -> int:
        maps = [op for stack in self.stacks for op in _maps(stack, self.setting.loss)]
        largest = max((op.d_in * op.d_out for op in maps), default=1)
        widest = max([op.d_out for op in maps] + [stack.width for stack in self.stacks])
        if self.backend.remote:
            head = self.setting.loss in READ_THE_HEAD
            rows = [self.setting.batch * length for length in self.lengths]
            kept = sum(
                numbers_kept(stack, own, length, head=head)
                for stack, own, length in zip(self.stacks, rows, self.lengths, strict=True)
            )
            weights = sum(run.times * _weights(run.block) for stack in self.stacks for run in stack.layers)
            return self.backend.together(max(largest, max(rows) * widest), kept + weights + 2 * largest)
        room = min(MATRIX // largest, TOKENS // (self.setting.batch * max(self.lengths) * widest), AT_ONCE)
        return max(1, room)

    def __call__(self, seeds: list[int], report: Callable[[int], None] = lambda _: None) -> Squares:
        """Measure seeds, as many at once as is good; where memory ends, half of them at a time.

        Args:
            seeds: The seeds.
            report: Called with the number of seeds finished since the last call; on a device, of those that
                are under way.

        Returns:
            Their squared gradient norms.

        Raises:
            InputError: If a gradient is not finite, too small for its type, or a seed alone needs too much
                memory.
        """
        values = in_blocks(
            self._numbers, seeds, self.at_once, self.backend, self.arch.name, self._check, report
        )
        return Squares(self.keys, values)

    def _check(self, values: NDArray[np.float64], seeds: list[int]) -> None:
        check_range(dict(zip(self.keys, values.T, strict=True)), seeds, self.backend)

    def _numbers(self, seeds: list[int], looks: bool) -> Numbers:
        try:
            return Numbers(self._measure(seeds))
        except (MemoryError, RuntimeError):
            self.matrices = Matrices(self.backend)  # the other one holds what the pass has drawn
            self.at_once = max(1, len(seeds) // 2)
            raise

    def _measure(self, seeds: list[int]) -> torch.Tensor:
        data = self._data(seeds)
        self.matrices.clear()
        run = self.run(
            backend=self.backend,
            seeds=len(seeds),
            batch=self.setting.batch,
            feed=data.feeds[0],
            numbers=seeds,
            matrices=self.matrices,
        )
        with torch.no_grad():
            squares(self.arch, data, run)
        self.keys = list(reversed(run.squares))
        return torch.stack([run.squares[key].expand(len(seeds)) for key in self.keys], 1)

    def _data(self, seeds: list[int]) -> Data:
        """Ids and labels, each from the stream that `empirical.measure` reads them from."""
        feeds = []
        for k, (stack, fixed, length) in enumerate(zip(self.stacks, self.fixed, self.lengths, strict=True)):
            ids = None
            if stack.embedding is not None:
                total = self.setting.batch * length
                ids = np.stack([
                    stream(seed, f"input{k}").integers(stack.embedding.vocab, size=total)
                    if fixed.ids is None
                    else fixed.ids.reshape(-1)
                    for seed in seeds
                ])
            feeds.append(Feed(length, fixed.padding, ids, fixed.root))
        labels = None
        head = self.stacks[-1].head
        if self.setting.loss in READ_THE_HEAD and head is not None:
            real = feeds[-1].real
            real = (
                np.ones(self.setting.batch * self.setting.tokens, dtype=bool)
                if real is None
                else real.ravel()
            )
            labels = np.zeros((len(seeds), real.size), dtype=np.int64)
            for row, seed in zip(labels, seeds, strict=True):
                row[real] = stream(seed, "target").integers(head.linear.d_out, size=int(real.sum()))
        return Data(Loss(self.setting.loss, self.setting.label_smoothing), feeds, labels)


def _maps(stack: ops.Transformer, loss: str) -> list[ops.Linear]:
    parts: list[ops.Op] = [run.block for run in stack.layers]
    parts += [part for part in (stack.entry, stack.final_norm) if part is not None]
    if stack.head is not None and loss in READ_THE_HEAD:
        parts.append(stack.head.linear)
    maps = [op for part in parts for op in ops.walk(part) if isinstance(op, ops.Linear)]
    if stack.embedding is not None:
        maps.append(ops.Linear(stack.embedding.vocab, stack.embedding.width, stack.embedding.weight))
    return maps


def _weights(block: ops.Op) -> int:
    return sum(op.d_in * op.d_out for op in ops.walk(block) if isinstance(op, ops.Linear))
