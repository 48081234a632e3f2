"""Dense weights: squared gradient norms of many models at once, by automatic differentiation.

The modules are those of `empirical.build`; weights are drawn here by torch. Nothing is shared with the
sampler but the architecture's value and the names in its tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.build import Architecture, build
from empirical.layers import Context, Dropout, Linear
from empirical.layers.base import ALONE
from empirical.names import Model, named_parameters
from meanfield import ops
from meanfield.given import PerStack

Squares = dict[ops.ParameterKey, NDArray[np.float64]]
"""||dL/dtheta||^2 of every parameter, one number per seed."""

BLOCK = 250  # seeds that run together


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What goes into a model and what comes out, in the words of `empirical.weight_free`.

    Args:
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence; as many as in the target if None.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``.
        label_smoothing: For cross entropy.
        gram: Second moments of the input vectors, (T, T); None for independent ones.
        padding: Which tokens are real, (batch, tokens); a pair (source, target) for an encoder-decoder.
    """

    tokens: int = 6
    batch: int = 1
    source_tokens: int | None = None
    loss: str = "linear"
    label_smoothing: float = 0.0
    gram: NDArray[Any] | None = None
    padding: PerStack | None = None


class _Dropout(nn.Module):
    """Dropout whose masks are torch's own, so that every seed has other ones."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        return F.dropout(x, self.rate)


class _Objective(nn.Module):
    """A model with its loss."""

    def __init__(self, model: Model, setting: Setting) -> None:
        super().__init__()
        self.model, self.setting = model, setting
        given = setting.padding if isinstance(setting.padding, tuple) else (None, setting.padding)
        source, target = (None if real is None else torch.from_numpy(np.asarray(real)) for real in given)
        self.context = Context(target, memory_padding=source)
        real = torch.ones(setting.batch, setting.tokens) if target is None else target.float()
        self.share = real / real.sum()  # (batch, tokens), a token's weight in the loss

    def forward(self, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Loss of one model."""
        y = self.model.hidden(*inputs, context=self.context)  # (batch, tokens, width)
        if self.setting.loss == "linear":
            of_token = (y * target).sum(-1) / math.sqrt(y.shape[-1])
        elif self.setting.loss == "mse":
            of_token = (y - target).square().mean(-1)
        else:
            surprise = -self.model.head(y).log_softmax(-1)  # (batch, tokens, classes)
            smoothing = self.setting.label_smoothing
            hit = surprise.gather(-1, target[..., None])[..., 0]
            of_token = (1 - smoothing) * hit + smoothing * surprise.mean(-1)
        return (self.share * of_token).sum()


def dense_squares(
    arch: Architecture,
    setting: Setting,
    *,
    seeds: int,
    key: int,
    own_law: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Squares:
    """Sample ||dL/dtheta||^2 of every parameter from models whose weights are drawn.

    Args:
        arch: The architecture.
        setting: Inputs, masks and loss.
        seeds: How many models.
        key: Where torch's generators start.
        own_law: Whether matrices of a law that is not normal keep it; otherwise they are normal, with its
            variance. All other tensors have their own law.
        progress: Called with the number of models done since the last call.

    Returns:
        Parameter -> one number per model.
    """
    objective = _Objective(build(arch), setting)
    for module in list(objective.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Dropout):
                setattr(module, name, _Dropout(child.rate))
    matrices = {id(module.weight) for module in objective.modules() if isinstance(module, Linear)}
    names = {id(tensor): name for name, tensor in objective.named_parameters()}
    parameters = named_parameters(objective.model)
    generator = torch.Generator().manual_seed(key)
    found: list[dict[ops.ParameterKey, Tensor]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key + 1)  # of the masks of dropout alone
        for start in range(0, seeds, BLOCK):
            count = min(BLOCK, seeds - start)
            drawn = {}
            for p in parameters:
                normal = p.law.law == "normal" or (id(p.tensor) in matrices and not own_law)
                entries = _entries(p.law, normal, (count, *p.tensor.shape), generator)
                drawn[names[id(p.tensor)]] = entries.requires_grad_()
            inputs, target = _inputs(arch, setting, count, generator)
            gradients = _gradients(objective, drawn, inputs, target)
            found.append({
                p.key: gradients[name].double().flatten(1).square().sum(1)
                for p in parameters
                if (name := names[id(p.tensor)]) in gradients
            })
            if progress is not None:
                progress(count)
    return {each: torch.cat([block[each] for block in found]).numpy() for each in found[0]}


def _gradients(
    objective: _Objective, drawn: dict[str, Tensor], inputs: tuple[Tensor, ...], target: Tensor
) -> dict[str, Tensor]:
    """Gradient of every parameter that the loss reads, (seeds, *shape)."""

    def one(parameters: dict[str, Tensor], inputs: tuple[Tensor, ...], target: Tensor) -> Any:
        return torch.func.functional_call(objective, parameters, (inputs, target))

    losses = torch.vmap(one, randomness="different")(drawn, inputs, target)  # (seeds,)
    found = torch.autograd.grad(losses.sum(), list(drawn.values()), allow_unused=True)
    return {name: g for name, g in zip(drawn, found, strict=True) if g is not None}


def _entries(law: ops.Draw, normal: bool, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if not law.variance:
        return torch.full(shape, float(law.mean))
    deviation = float(law.variance) ** 0.5
    if normal:
        return torch.randn(shape, generator=generator).mul_(deviation).add_(float(law.mean))
    unit = torch.rand(shape, generator=generator).sub_(0.5).mul_(math.sqrt(12))
    return unit.mul_(deviation).add_(float(law.mean))


def _inputs(
    arch: Architecture, setting: Setting, seeds: int, generator: torch.Generator
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Arguments of the models, (seeds, batch, tokens[, width]), and their targets."""
    pair = isinstance(arch, ops.EncoderDecoder)
    stacks = [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]
    lengths = [setting.source_tokens or setting.tokens, setting.tokens] if pair else [setting.tokens]
    inputs = []
    for stack, tokens in zip(stacks, lengths, strict=True):
        shape = (seeds, setting.batch, tokens)
        if stack.embedding is not None:
            inputs.append(torch.randint(stack.embedding.vocab, shape, generator=generator))
            continue
        x = torch.randn(*shape, stack.width, generator=generator)
        if setting.gram is not None:
            values, vectors = np.linalg.eigh(setting.gram)
            root = torch.from_numpy(vectors * np.sqrt(values.clip(0))).float()  # (T, T)
            x = (root @ x.flatten(1, 2)).view_as(x)
        inputs.append(x)
    shape = (seeds, setting.batch, setting.tokens)
    if setting.loss == "cross_entropy":
        assert stacks[-1].head is not None
        return tuple(inputs), torch.randint(stacks[-1].head.linear.d_out, shape, generator=generator)
    out = inputs[-1].shape[-1] if inputs[-1].is_floating_point() else stacks[-1].width
    return tuple(inputs), torch.randn(*shape, out, generator=generator)
