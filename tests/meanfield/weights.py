"""The sampler's forward and backward rules on weights that exist: the two oracles of `meanfield.weight_free`.

`Dense` draws every weight and multiplies by it. `Given` takes weights, masks and targets from a torch
model, so that automatic differentiation must find the same gradients, number by number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from empirical import build
from empirical.layers import Context
from empirical.names import dropouts, named_parameters
from empirical.probe import one_thread
from meanfield import ops
from meanfield.moments.loss import Loss
from meanfield.weight_free import Backend, linear, sample
from meanfield.weight_free.backend import Array, Streams
from meanfield.weight_free.matrices import WeightFree
from meanfield.weight_free.run import Feed, Run
from meanfield.weight_free.stack import Data, squares


@dataclass
class Dense:
    """Linear maps of some tokens, with their weights."""

    maps: dict[str, ops.Linear]
    x: Array
    weights: dict[str, Array]


def dense_project(
    module: str, maps: dict[str, ops.Linear], x: Any, run: Run
) -> tuple[dict[str, Array], Dense]:
    tokens = x.rows @ x.basis if hasattr(x, "rows") else x
    weights = {name: run.draw(module, "weight", op.weight, op.d_in, op.d_out) for name, op in maps.items()}
    outputs = {name: tokens @ weights[name] for name in maps}
    for name, op in maps.items():
        bias = run.bias(module, name, op)
        outputs[name] = outputs[name] if bias is None else outputs[name] + bias
    return outputs, Dense(maps, tokens, weights)


def dense_project_back(saved: Dense, gradients: dict[str, Array], run: Run) -> tuple[Array, dict[str, Array]]:
    found = {name: np.swapaxes(saved.x, 1, 2) @ gradients[name] for name in saved.maps}
    before = sum(gradients[name] @ np.swapaxes(saved.weights[name], 1, 2) for name in saved.maps)
    return before, {name: (found[name] ** 2).sum((1, 2)) for name in saved.maps}


def distinct(value: Any, counter: Iterator[int]) -> Any:
    """Give every law in an architecture a variance of its own, by which its tensor can be found."""
    if isinstance(value, ops.Draw):
        return ops.Draw((1 + next(counter) / 1000) / 16)
    if isinstance(value, tuple):
        return tuple(distinct(item, counter) for item in value)
    if isinstance(value, ops.EncoderDecoder) and value.shared_embedding:
        apart = distinct(dataclasses.replace(value, shared_embedding=False), counter)
        decoder = dataclasses.replace(apart.decoder, embedding=apart.encoder.embedding)
        return dataclasses.replace(apart, decoder=decoder, shared_embedding=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept: set[str] = set()
        if isinstance(value, ops.Norm):  # only what is there has a law
            kept = {name for name, there in (("gain", value.affine), ("shift", value.has_shift)) if not there}
        changed = {
            f.name: distinct(getattr(value, f.name), counter)
            for f in dataclasses.fields(value)
            if f.name not in kept
        }
        return dataclasses.replace(value, **changed)
    return value


def bare(arch: ops.EncoderDecoder) -> ops.EncoderDecoder:
    """Both stacks without embedding and head, as torch.nn.Transformer is."""
    encoder, decoder = (
        dataclasses.replace(stack, embedding=None, head=None) for stack in (arch.encoder, arch.decoder)
    )
    return ops.EncoderDecoder("bare", encoder, decoder)


def with_hidden_layer(
    arch: ops.Transformer, activation: str = "gelu", *, norm: bool = True
) -> ops.Transformer:
    """Give a head the hidden layer that BERT's has, x -> norm(activation(x W + b)), and a bias of its own."""
    assert arch.head is not None
    law = ops.Draw(1 / arch.width)
    parts: list[ops.Op] = [ops.Linear(arch.width, arch.width, law, law), ops.Activation(activation)]
    parts += [ops.Norm("head.norm", arch.width)] if norm else []
    linear = dataclasses.replace(arch.head.linear, bias=ops.Draw(0.5))
    head = dataclasses.replace(arch.head, linear=linear, transform=ops.Sequential(tuple(parts)))
    return dataclasses.replace(arch, head=head)


def stacks(arch: Any) -> list[ops.Transformer]:
    return [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]


class Given(WeightFree):
    """A pass of one seed whose weights, masks and normals are those of a torch model."""

    def __init__(
        self, arch: Any, model: Any, feeds: list[Feed], normals: list[np.ndarray], batch: int
    ) -> None:
        super().__init__(Backend(), 1, batch, feeds[0], streams=Streams(Backend(), []))
        self.given = iter(normals)
        self.mask_stream = np.random.default_rng(0)
        self.values = {(p.key.layer, p.law): p.tensor.detach().numpy() for p in named_parameters(model)}
        self.read: dict[ops.Draw, np.ndarray] = {}  # of the row that each token reads
        for stack, feed in zip(stacks(arch), feeds, strict=True):
            places = np.tile(np.arange(feed.tokens), batch)
            for table, read in (
                (stack.embedding, feed.ids), (stack.position, places), (stack.segment, 0 * places)
            ):  # fmt: skip
                if table is not None:
                    assert read is not None
                    # a table that encoder and decoder share is drawn once, for the tokens of both
                    before = self.read.get(table.weight, read.reshape(-1)[:0])
                    self.read[table.weight] = np.concatenate([before, read.reshape(-1)])

    def normal(self, *shape: int) -> Array:
        return next(self.given).reshape(1, *shape)

    def keep(self, rate: float, shape: tuple[int, ...]) -> Array:
        return (self.mask_stream.random(shape, dtype=np.float32) >= rate)[None] / (1 - rate)

    def draw(self, module: str, parameter: str, law: ops.Draw, *shape: int) -> Array:
        if law not in self.read:
            return self.values[self.layer, law].reshape(1, *shape)
        table = self.values[0, law]
        return table.T[None] if self.layer else table[self.read[law]][None]  # a tied head, or an embedding


@one_thread()  # threads cost more than such small products
def both_ways(
    arch: Any,
    loss: str,
    *,
    tokens: int,
    batch: int,
    source_tokens: int | None = None,
    padding: np.ndarray | None = None,
    source_padding: np.ndarray | None = None,
    smoothing: float = 0.0,
) -> tuple[dict[ops.ParameterKey, float], dict[ops.ParameterKey, float]]:
    """Squared gradient norms of one model by the sampler's rules, and by automatic differentiation."""
    arch = distinct(arch, itertools.count())
    model = build(arch, dtype="float64")
    shared = np.random.default_rng(0)
    for module in dropouts(model):
        module.generator = shared
    stream, parts, stack = np.random.default_rng(1), stacks(arch), stacks(arch)[-1]
    lengths = [tokens] if len(parts) == 1 else [source_tokens or tokens, tokens]
    masks = [padding] if len(parts) == 1 else [source_padding, padding]
    feeds, fed, normals = [], [], []
    for part, length, mask in zip(parts, lengths, masks, strict=True):
        ids = None
        if part.embedding is None:
            x = stream.standard_normal((batch, length, part.width))
            normals.append(x)
            fed.append(torch.from_numpy(x))
        else:
            ids = stream.integers(part.embedding.vocab, size=(1, batch * length))
            ids[0, -1] = ids[0, 0]  # a token that occurs twice
            fed.append(torch.from_numpy(ids.reshape(batch, length)))
        feeds.append(Feed(length, mask, ids))
    r = stream.standard_normal((batch * tokens, stack.width))
    labels = stream.integers(1 if stack.head is None else stack.head.linear.d_out, size=(1, batch * tokens))
    if ids is not None:
        labels[0, 0] = ids[0, 0]

    run = Given(arch, model, feeds, [*normals, r], batch)
    with mock.patch.multiple(linear, project=dense_project, project_back=dense_project_back):
        squares(arch, Data(Loss(loss, smoothing), feeds, labels), run)
    ours = {key: float(value[0]) for key, value in run.squares.items()}

    real = np.ones((batch, tokens), dtype=bool) if padding is None else padding
    of_target, of_source = (
        None if mask is None else torch.from_numpy(mask) for mask in (padding, source_padding)
    )
    hidden = model.hidden(*fed, context=Context(of_target, memory_padding=of_source))
    kept = torch.from_numpy(real.reshape(-1))
    y, targets = hidden.flatten(0, 1)[kept], torch.from_numpy(r)[kept]
    if loss == "linear":
        value = (y * targets).sum() / len(y) / stack.width**0.5
    elif loss == "mse":
        value = (y - targets).square().mean()
    else:
        logits = model.head(hidden).flatten(0, 1)[kept]
        value = F.cross_entropy(logits, torch.from_numpy(labels[0])[kept], label_smoothing=smoothing)
    parameters = named_parameters(model)
    gradients = torch.autograd.grad(value, [p.tensor for p in parameters], allow_unused=True)
    theirs = {
        p.key: float(g.square().sum()) for p, g in zip(parameters, gradients, strict=True) if g is not None
    }
    return ours, theirs


def dense_sample(arch: Any, **how: Any) -> dict[ops.ParameterKey, np.ndarray]:
    """`meanfield.weight_free.sample`, but with weights that are drawn and multiplied by."""
    with mock.patch.multiple(linear, project=dense_project, project_back=dense_project_back):
        return sample(arch, **how)
