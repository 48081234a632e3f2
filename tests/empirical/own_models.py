"""Readings of this project's own models, whose laws are known: what a reader would find in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import empirical
from empirical.layers import Context
from empirical.names import named_parameters
from empirical.readers.reading import Reading, Slot, Stream, whole
from meanfield import ops


class Masked(nn.Module):
    """A model that takes ids or vectors, and which tokens are real."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        return self.model(x, context=Context(real))


def builder(arch: ops.Transformer, change: Callable[[Any], None] | None = None) -> Callable[[int], nn.Module]:
    """Build masked models of an architecture; ``change`` may plant a fault."""

    def build(seed: int) -> nn.Module:
        model = empirical.build(arch, seed=seed)
        if change is not None:
            change(model)
        return Masked(model)

    return build


def slots_of(module: nn.Module) -> tuple[tuple[Slot, ...], tuple[tuple[str, ...], ...]]:
    model: Any = module.model
    names: dict[int, list[str]] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    own = [(parameter, names[id(parameter.tensor)]) for parameter in named_parameters(model)]
    slots = tuple(whole(name, p.key, tuple(p.tensor.shape)) for p, found in own for name in found)
    return slots, tuple(tuple(found) for _, found in own if len(found) > 1)


def reader(arch: ops.Transformer) -> Callable[[nn.Module, Any], Reading]:
    """A reader that knows the architecture, and finds names and data."""

    def read(module: nn.Module, batch: Any) -> Reading:
        tensors = list(batch.values()) if isinstance(batch, dict) else batch
        x, *rest = [tensors] if isinstance(tensors, Tensor) else tensors
        slots, shared = slots_of(module)
        given: dict[str, Any] = {"padding": rest[0].numpy()} if rest else {}
        if x.is_floating_point():
            flat = x.double().flatten(0, 1)
            given["gram"] = (flat @ flat.T / flat.shape[1]).numpy()
        else:
            given["ids"] = x.numpy().astype(np.intp)
        return Reading(arch, slots, (Stream(*x.shape[:2], **given),), shared)

    return read


def ids(batch: int, tokens: int, vocab: int) -> Tensor:
    return torch.randint(vocab, (batch, tokens), generator=torch.Generator().manual_seed(2020))


def vectors(batch: int, tokens: int, width: int) -> Tensor:
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(2020))


def encoder(seed: int) -> nn.Module:
    """An encoder of torch, of one layer: more would be copies of each other."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def uneven(seed: int) -> nn.Module:
    """The same with weights whose scale is drawn too: no independent entries of one law."""
    module = encoder(seed)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "linear" in name:
                tensor.mul_(6.0 if seed % 2 else 0.1)
    return module


def cloned(seed: int) -> nn.Module:
    """Torch's own way to make two layers of one."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
