"""One model at one seed: the gradient of every parameter, the hidden state at every point."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.build import Architecture
from empirical.device import torch_dtype
from empirical.draws import draw
from empirical.frobenius import frobenius_norms
from empirical.inputs import Inputs
from empirical.layers import Context, Transformer
from empirical.losses import LOSSES, READ_THE_HEAD
from empirical.names import Model, dropouts, named_parameters, open_streams, points
from empirical.setting import Conditions, Setting
from meanfield import ops
from meanfield.errors import InputError
from meanfield.random import Stream, stream

GRADIENTS = ["grad_sq_hat", "mean_grad_sq_hat", "grad_norm_hat"]
MOMENTS = ["q_hat", "cov_hat", "cov_across_hat", "q_grad_hat", "cov_grad_hat", "cov_grad_across_hat"]


Values = NDArray[np.float64]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch's own loops use one thread: sums split over threads would depend on their number.

    Yields:
        Nothing; the number of threads is set back afterwards.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def recorded(model: Model) -> Iterator[dict[ops.ParameterKey, Tensor]]:
    """Record the output of every point of a model, in the order of computation.

    Args:
        model: A model made by `build`.

    Yields:
        Point -> output of the last forward pass; clear it between passes.
    """
    outputs: dict[ops.ParameterKey, Tensor] = {}

    def hook(key: ops.ParameterKey) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, output: outputs.update({key: output})

    handles = [module.register_forward_hook(hook(key)) for key, module in points(model)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class Probe:
    """One built model, measured at one seed after another.

    Args:
        arch: The architecture.
        model: The model built from it.
        setting: What is measured.
        outputs: Where `recorded` puts hidden states.
        fixed: What is held fixed over seeds.
    """

    def __init__(
        self,
        arch: Architecture,
        model: Model,
        setting: Setting,
        outputs: dict[ops.ParameterKey, Tensor],
        fixed: Conditions,
    ) -> None:
        self.arch, self.model, self.setting, self.outputs, self.fixed = arch, model, setting, outputs, fixed
        self.all_parameters = named_parameters(model)
        self.dropouts = dropouts(model)
        # A tied head's table is the embedding's.
        head = [] if setting.loss in READ_THE_HEAD else list(model.head.parameters())
        tables = [tensor for stack in _stacks(model) for tensor in stack.embeddings.parameters()]
        unread = {id(tensor) for tensor in head} - {id(tensor) for tensor in tables}
        self.parameters = [p for p in self.all_parameters if id(p.tensor) not in unread]
        self.keys: list[ops.ParameterKey] = []
        device = self.all_parameters[0].tensor.device
        source = None if fixed.source is None else fixed.source.padding
        self.padding, self.source_padding = (
            None if real is None else torch.from_numpy(real).to(device) for real in (fixed.padding, source)
        )

    def sample(self, seed: int) -> Values:
        """Draw the model for a seed and measure it.

        Args:
            seed: The seed.

        Returns:
            One row per key, columns GRADIENTS + MOMENTS.
        """
        setting, k = self.setting, self.setting.minibatches
        draw(self.all_parameters, seed)
        open_streams(self.dropouts, seed)
        inputs = Inputs(self.arch, seed, self.parameters[0].tensor, self.fixed)
        targets = stream(seed, "target")
        norms, moments = [], []
        total: list[Tensor] = []
        for _ in range(k):
            drawn = inputs.draw(setting.batch, setting.tokens, setting.source_tokens)
            gradients, found = self._backward(drawn, targets)
            norms.append(frobenius_norms(gradients))
            moments.append(found)
            if k > 1:
                gradients = [g.float() if g.dtype == torch.bfloat16 else g for g in gradients]
                total = [t + g for t, g in zip(total, gradients, strict=True)] if total else gradients
        norm = np.stack(norms)  # (minibatches, parameters)
        mean_norm = frobenius_norms(total) / k if k > 1 else norm[0]
        gradient_rows = np.stack([np.mean(norm**2, axis=0), mean_norm**2, np.mean(norm, axis=0)], axis=1)
        moment_rows = np.mean(moments, axis=0)  # (points, 6)
        self._check(seed, gradient_rows, moment_rows)
        rows = np.full((len(self.keys), len(GRADIENTS) + len(MOMENTS)), np.nan)
        rows[: len(self.parameters), : len(GRADIENTS)] = gradient_rows
        rows[len(self.parameters) :, len(GRADIENTS) :] = moment_rows
        return rows

    def _check(self, seed: int, gradient_rows: Values, moment_rows: Values) -> None:
        """Refuse numbers beyond the range of the type: no infinity and no false zero is a measurement."""
        run = f"{self.arch.name} at seed={seed}"
        q_grad = moment_rows[:, MOMENTS.index("q_grad_hat")]
        q = moment_rows[:, MOMENTS.index("q_hat")]
        if not (np.isfinite(gradient_rows).all() and np.isfinite(q).all() and np.isfinite(q_grad).all()):
            raise InputError(
                f"{run} has a hidden state or gradient that is not finite in {self.setting.dtype}: "
                "use dtype='float64' or smaller variances"
            )
        tiny = max(torch.finfo(torch_dtype(self.setting.dtype, torch.device("cpu"))).tiny ** 2, 1e-300)
        if ((q_grad > 0) & (q_grad < tiny)).any():
            raise InputError(
                f"{run} has a gradient of square norm below {tiny:.0e}, too small for {self.setting.dtype}: "
                "use dtype='float64', a greater width or a smaller depth"
            )

    def _backward(self, inputs: list[Tensor], targets: Stream) -> tuple[list[Tensor], Values]:
        """Run one mini-batch: the gradient of every parameter, and the moments of every point."""
        self.outputs.clear()
        context = Context(self.padding, memory_padding=self.source_padding)
        last = self.model.hidden(*inputs, context=context)  # (batch, tokens, width)
        if self.setting.loss in READ_THE_HEAD:
            last = self.model.head(last)  # (batch, tokens, vocab)
        if self.padding is not None:
            last = last[self.padding][None]  # (1, real tokens, width or vocab)
        loss = LOSSES[self.setting.loss](last, torch.nn.Identity(), targets, self.setting.label_smoothing)
        if not self.keys:  # the order of computation is known once the model has run
            self.keys = [p.key for p in self.parameters] + list(self.outputs)
        states = list(self.outputs.values())
        gradients = torch.autograd.grad(loss, [p.tensor for p in self.parameters] + states)
        split = len(self.parameters)
        own = list(zip(self.outputs, states, gradients[split:], strict=True))
        encoded = [point for point in own if point[0].module.startswith("encoder.")]
        parts = (encoded, self.source_padding), (own[len(encoded) :], self.padding)
        rows = [
            _moments([x.detach() for _, x, _ in part], [g for *_, g in part], mask)
            for part, mask in parts
            if part
        ]
        return list(gradients[:split]), np.concatenate(rows)


def _stacks(model: Model) -> list[Transformer]:
    return [model] if isinstance(model, Transformer) else [model.encoder, model.decoder]


def _sums(states: list[Tensor], padding: Tensor | None) -> Tensor:
    """Square norms per coordinate of the real tokens, of their sums by sequence, and of the sum of all."""
    dtype = torch.float32 if states[0].device.type == "mps" else torch.float64
    sums = []
    for _, run in itertools.groupby(states, lambda x: x.shape):  # neighbours of one shape at once
        alike = list(run)
        for start in range(0, len(alike), 64):  # some at a time: fewer calls, and copies of some states alone
            x = torch.stack(alike[start : start + 64]).to(dtype).flatten(3)  # (points, batch, tokens, width)
            if padding is not None:
                x = x * padding[:, :, None]
            by_sequence = x.sum(2)  # (points, batch, width)
            levels = (x, by_sequence, by_sequence.sum(1))
            squares = [torch.linalg.vector_norm(level.flatten(1), dim=1) ** 2 for level in levels]
            sums.append(torch.stack(squares, 1) / x.shape[3])
    return torch.cat(sums)  # (points, 3)


def _counts(state: Tensor, padding: Tensor | None) -> tuple[int, int, int]:
    """Count real tokens, ordered pairs of them within sequences, and ordered pairs across sequences."""
    batch, tokens = state.shape[:2]
    real = np.ones((batch, tokens), dtype=bool) if padding is None else padding.cpu().numpy()
    by_sequence = real.sum(1)
    total, same = int(by_sequence.sum()), int((by_sequence**2).sum())
    return total, same - total, total**2 - same


def _moments(states: list[Tensor], gradients: list[Tensor], padding: Tensor | None) -> Values:
    """Average over tokens, over pairs within a sequence and over pairs across sequences, (points, 6)."""
    forward, backward = _sums(states, padding), _sums(gradients, padding)
    widths = torch.tensor([x[0, 0].numel() for x in states]).to(forward)  # (points,)
    sums = torch.stack([forward, widths[:, None] * backward], 1)  # (points, 2, 3)
    total, same, across = _counts(states[0], padding)
    token, sequence, everything = np.moveaxis(sums.cpu().numpy().astype(np.float64), 2, 0)  # each (points, 2)
    nothing = np.full_like(token, np.nan)
    q = token / total
    cov = (sequence - token) / same if same else nothing
    cov_across = (everything - sequence) / across if across else nothing
    return np.stack([q, cov, cov_across], axis=2).reshape(len(q), len(MOMENTS))
