"""Gradients of every parameter and hidden states at every point of a block, over seeds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.build import Architecture, Model, build, named_parameters, points
from empirical.device import torch_device, torch_dtype
from empirical.draws import draw, normal, stream
from empirical.losses import LOSSES
from meanfield import ops
from meanfield.errors import InputError, UnknownNameError, positive_integer

SETTING_KEYS = [
    "arch", "placement", "init", "activation", "width", "depth", "heads", "d_ff", "tokens", "batch", "loss",
    "minibatches", "dtype",
]  # fmt: skip
KEYS = [*SETTING_KEYS, *ops.ParameterKey._fields]
GRADIENTS = ["grad_sq_hat", "mean_grad_sq_hat", "grad_norm_hat"]
MOMENTS = ["q_hat", "cov_hat", "cov_across_hat", "q_grad_hat", "cov_grad_hat", "cov_grad_across_hat"]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured on an architecture: data, loss and precision.

    Args:
        tokens: Tokens in a sequence.
        batch: Sequences in a mini-batch.
        loss: ``"linear"`` or ``"cross_entropy"``.
        minibatches: Mini-batches per seed, all on the same weights.
        label_smoothing: For cross entropy, in [0, 1].
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.

    Raises:
        InputError: If a size is below 1, or label smoothing does not fit.
        UnknownNameError: If the loss has no such name.
    """

    tokens: int = 16
    batch: int = 1
    loss: str = "linear"
    minibatches: int = 1
    label_smoothing: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for size in ("tokens", "batch", "minibatches"):
            object.__setattr__(self, size, positive_integer(size, getattr(self, size)))
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if not 0 <= self.label_smoothing <= 1:
            raise InputError(
                f"label_smoothing={self.label_smoothing} is outside [0, 1]: give a number between"
            )
        if self.label_smoothing and self.loss != "cross_entropy":
            raise InputError(
                f"label_smoothing={self.label_smoothing} means nothing for loss={self.loss!r}: "
                "give 0, or loss='cross_entropy'"
            )
        object.__setattr__(self, "device", torch_device(self.device).type)
        torch_dtype(self.dtype, torch.device(self.device))

    def keys(self, arch: Architecture) -> dict[str, str | int]:
        """Name the setting: one value for each of the key columns that all rows share.

        Args:
            arch: The architecture; sizes of an encoder-decoder are those of its encoder.

        Returns:
            Column name -> value.
        """
        stack = arch.encoder if isinstance(arch, ops.EncoderDecoder) else arch
        values = (
            arch.name, stack.placement, stack.init, stack.feed_forward.activation, stack.width, stack.depth,
            stack.attention.heads, stack.feed_forward.up.d_out, self.tokens, self.batch, self.loss,
            self.minibatches, self.dtype,
        )  # fmt: skip
        return dict(zip(SETTING_KEYS, values, strict=True))


@dataclass(frozen=True)
class Measurement:
    """Measured gradients and hidden states, by seed and aggregated.

    Args:
        samples: One row per key and seed; rows with ``parameter == "activation"`` hold moments of hidden
            states, all others squared gradient norms.
    """

    samples: pd.DataFrame

    @cached_property
    def df(self) -> pd.DataFrame:
        """Per parameter: means over seeds with standard error (``_se``) and seed-to-seed spread (``_sd``)."""
        rows = self.samples[self.samples["parameter"] != "activation"].groupby(KEYS, sort=False)
        square, mean_square, norm = (rows[column] for column in GRADIENTS)
        table = pd.DataFrame({
            "grad_sq_hat": square.mean(),
            "grad_sq_hat_se": square.sem(),
            "grad_sq_hat_sd": square.std(),
            "grad_norm_hat": square.mean() ** 0.5,
            "mean_norm_hat": norm.mean(),
            "mean_grad_sq_hat": mean_square.mean(),
            "mean_grad_sq_hat_se": mean_square.sem(),
        })
        return table.reset_index()

    @cached_property
    def activations(self) -> pd.DataFrame:
        """Per point of the model: means over seeds of its six moments, each with its standard error."""
        rows = self.samples[self.samples["parameter"] == "activation"].groupby(KEYS, sort=False)
        columns = {}
        for moment in MOMENTS:
            columns[moment] = rows[moment].mean()
            columns[f"{moment}_se"] = rows[moment].sem()
        return pd.DataFrame(columns).reset_index()


def measure(
    arch: Architecture,
    *,
    tokens: int = 16,
    batch: int = 1,
    seeds: Iterable[int] = range(64),
    loss: str = "linear",
    minibatches: int = 1,
    label_smoothing: float = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure ||dL/dtheta||_F^2 and the moments of hidden states and their gradients on real models.

        grad_sq_hat = mean_k ||g_k||_F^2,   mean_grad_sq_hat = ||mean_k g_k||_F^2,   k over mini-batches

    Weights, inputs and targets are drawn anew for every seed, inputs and targets for every mini-batch too:
    vectors N(0, I), or uniform ids where there is an embedding. A seed gives the same numbers in any company.
    With the linear loss the head has no gradient and no rows.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence, of source and target alike.
        batch: Sequences in a mini-batch.
        seeds: Distinct integers of at least 0.
        loss: ``"linear"`` (`empirical.losses.linear`) or ``"cross_entropy"``, which needs a head.
        minibatches: Mini-batches per seed.
        label_smoothing: For cross entropy.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        The measurement.

    Raises:
        InputError: If the setting cannot be measured, or a loss or gradient is not finite.

    Source:
        xiong2020, Sec. 3.3 ("expected gradient": average the gradient, then take the norm).

    Example:
        >>> import meanfield as mf
        >>> post = measure(mf.paper_post_ln(width=32, depth=2), tokens=4, seeds=range(3))
        >>> last = post.activations.iloc[-1]
        >>> last["module"], round(float(last["q_hat"]), 4)  # the norm's output has unit second moment
        ('norm2', 1.0)
    """
    setting = Setting(tokens, batch, loss, minibatches, label_smoothing, device, dtype)
    seeds = seed_list(seeds)
    model = build(arch, seed=seeds[0], device=setting.device, dtype=dtype)
    if loss == "cross_entropy" and isinstance(model.head, torch.nn.Identity):
        raise InputError(
            f"loss='cross_entropy' needs an output head and {arch.name} has none: give vocab=..."
        )
    rows = []
    with recorded(model) as outputs:
        probe = _Probe(arch, model, setting, outputs)
        for seed in seeds:
            rows.append(probe.sample(seed))
            if progress is not None:
                progress(1)
    return Measurement(_table(setting.keys(arch), probe.keys, seeds, np.stack(rows)))


def seed_list(seeds: Iterable[int]) -> list[int]:
    """Check seeds.

    Args:
        seeds: Distinct integers of at least 0.

    Returns:
        The seeds as ints.

    Raises:
        InputError: If there are none, or one is no integer, negative or repeated.

    Example:
        >>> seed_list(range(3))
        [0, 1, 2]
    """
    checked: list[int] = []
    for seed in seeds:
        if isinstance(seed, bool) or not hasattr(seed, "__index__") or operator.index(seed) < 0:
            raise InputError(f"seed={seed!r} is not an integer of at least 0: give distinct integers >= 0")
        checked.append(operator.index(seed))
    if not checked:
        raise InputError("seeds is empty: give at least one integer >= 0")
    if len(set(checked)) < len(checked):
        twice = next(seed for seed in checked if checked.count(seed) > 1)
        raise InputError(f"seed={twice} is given more than once: give distinct integers >= 0")
    return checked


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


class Inputs:
    """Random inputs of one seed, mini-batch after mini-batch: k batches of B are one batch of k B.

    Args:
        arch: The architecture, which says whether inputs are vectors or ids.
        seed: The seed of the run.
        like: Gives dtype and device.
    """

    def __init__(self, arch: Architecture, seed: int, like: Tensor) -> None:
        stacks = [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]
        self.streams = [(stack, stream(seed, f"input{k}")) for k, stack in enumerate(stacks)]
        self.like = like

    def draw(self, batch: int, tokens: int) -> list[Tensor]:
        """Draw the next mini-batch.

        Args:
            batch: Sequences.
            tokens: Tokens in a sequence.

        Returns:
            The arguments of the model.
        """
        inputs = []
        for stack, generator in self.streams:
            if stack.embedding is None:
                x = normal(generator, (batch, tokens, stack.width), self.like).requires_grad_()
            else:
                ids = generator.integers(stack.embedding.vocab, size=(batch, tokens))
                x = torch.from_numpy(ids).to(self.like.device)
            inputs.append(x)  # (batch, tokens, width) or (batch, tokens)
        return inputs


class _Probe:
    """One built model, measured at one seed after another."""

    def __init__(
        self, arch: Architecture, model: Model, setting: Setting, outputs: dict[ops.ParameterKey, Tensor]
    ) -> None:
        self.arch, self.model, self.setting, self.outputs = arch, model, setting, outputs
        self.all_parameters = named_parameters(model)
        unread = list(model.head.parameters()) if setting.loss == "linear" else []
        self.parameters = [p for p in self.all_parameters if not any(p.tensor is q for q in unread)]
        self.keys: list[ops.ParameterKey] = []

    def sample(self, seed: int) -> Values:
        """Draw the model for a seed and measure it: one row per key, columns GRADIENTS + MOMENTS."""
        setting, k = self.setting, self.setting.minibatches
        draw(self.all_parameters, seed)
        inputs = Inputs(self.arch, seed, self.parameters[0].tensor)
        targets = stream(seed, "target")
        norms, moments = [], []
        total: list[Tensor] = []
        for _ in range(k):
            gradients, sums = self.backward(inputs.draw(setting.batch, setting.tokens), targets)
            norms.append(_norms(gradients))
            moments.append(_moments(sums, setting.batch, setting.tokens))
            if k > 1:
                gradients = [g.float() if g.dtype == torch.bfloat16 else g for g in gradients]
                total = [t.add_(g) for t, g in zip(total, gradients, strict=True)] if total else gradients
        norm = np.stack(norms)  # (minibatches, parameters)
        mean_norm = _norms(total) / k if k > 1 else norm[0]
        gradient_rows = np.stack([np.mean(norm**2, axis=0), mean_norm**2, np.mean(norm, axis=0)], axis=1)
        moment_rows = np.mean(moments, axis=0)  # (points, 6)
        if not np.isfinite(gradient_rows).all():
            raise InputError(
                f"{self.arch.name} has a gradient that is not finite at seed={seed} in {setting.dtype}: "
                "use dtype='float64' or a smaller variance"
            )
        rows = np.full((len(self.keys), len(GRADIENTS) + len(MOMENTS)), np.nan)
        rows[: len(self.parameters), : len(GRADIENTS)] = gradient_rows
        rows[len(self.parameters) :, len(GRADIENTS) :] = moment_rows
        return rows

    def backward(self, inputs: list[Tensor], targets: np.random.Generator) -> tuple[list[Tensor], Tensor]:
        """Run one mini-batch: the gradient of every parameter, and the sums of `_sums` at every point."""
        self.outputs.clear()
        hidden = self.model.hidden(*inputs)
        loss = LOSSES[self.setting.loss](hidden, self.model.head, targets, self.setting.label_smoothing)
        if not self.keys:  # the order of computation is known once the model has run
            self.keys = [p.key for p in self.parameters] + list(self.outputs)
        states = list(self.outputs.values())
        gradients = torch.autograd.grad(loss, [p.tensor for p in self.parameters] + states)
        split = len(self.parameters)
        pairs = zip(states, gradients[split:], strict=True)
        sums = torch.stack([torch.stack([_sums(x.detach()), _sums(g) * g.shape[2]]) for x, g in pairs])
        return list(gradients[:split]), sums  # (points, 2, 3)


def _norms(gradients: list[Tensor]) -> Values:
    """Frobenius norms, summed in float32 or better."""
    dtype = torch.float64 if gradients[0].dtype == torch.float64 else torch.float32
    norms = [torch.linalg.vector_norm(g, dtype=dtype) for g in gradients]
    return torch.stack(norms).cpu().numpy().astype(np.float64)


def _sums(x: Tensor) -> Tensor:
    """Square norms per coordinate of the tokens, of their sums by sequence, and of the sum of all."""
    x = x.to(torch.float32 if x.device.type == "mps" else torch.float64)  # (batch, tokens, width)
    by_sequence = x.sum(1)  # (batch, width)
    levels = (x, by_sequence, by_sequence.sum(0))
    return torch.stack([torch.linalg.vector_norm(level) ** 2 for level in levels]) / x.shape[2]


def _moments(sums: Tensor, batch: int, tokens: int) -> Values:
    """Turn sums into averages over tokens, over pairs within a sequence and over pairs across sequences."""
    token, sequence, everything = np.moveaxis(sums.cpu().numpy().astype(np.float64), 2, 0)  # each (points, 2)
    same, across = batch * tokens * (tokens - 1), batch * (batch - 1) * tokens**2  # ordered pairs
    nothing = np.full_like(token, np.nan)
    q = token / (batch * tokens)
    cov = (sequence - token) / same if same else nothing
    cov_across = (everything - sequence) / across if across else nothing
    return np.stack([q, cov, cov_across], axis=2).reshape(len(q), len(MOMENTS))


def _table(
    setting: dict[str, str | int], keys: list[ops.ParameterKey], seeds: list[int], values: Values
) -> pd.DataFrame:
    """Lay out values (seeds, keys, columns) as tidy rows."""
    table = pd.DataFrame(keys * len(seeds), columns=list(ops.ParameterKey._fields))
    for position, (column, value) in enumerate(setting.items()):
        table.insert(position, column, value)
    table["seed"] = np.repeat(seeds, len(keys))
    table[[*GRADIENTS, *MOMENTS]] = values.reshape(-1, values.shape[2])
    return table
