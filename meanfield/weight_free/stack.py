"""A whole model: inputs, embeddings, layers, head and loss, forward and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from meanfield import ops
from meanfield.errors import InputError
from meanfield.moments.loss import Loss
from meanfield.weight_free import losses
from meanfield.weight_free.backend import Array
from meanfield.weight_free.backward import backward
from meanfield.weight_free.forward import forward
from meanfield.weight_free.run import Feed, Memory, Run

Kept: TypeAlias = list[tuple[int, ops.Op, Any]]
"""Layer, op and what its forward rule has saved, in order."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a pass is fed with.

    Attributes:
        loss: The loss.
        feeds: What each stack is fed with.
        labels: Classes (seeds, T), or None.
    """

    loss: Loss
    feeds: list[Feed]
    labels: NDArray[Any] | None


def squares(arch: ops.Transformer | ops.EncoderDecoder, data: Data, run: Run) -> None:
    """Run a model forward and back; ||dL/dtheta||^2 of every parameter is noted in ``run.squares``.

    Args:
        arch: The architecture.
        data: Inputs and targets.
        run: The pass.
    """
    if isinstance(arch, ops.Transformer):
        y, saved = _up(arch, run)
        _down(saved, _top(arch, y, data, run), run)
        return
    source, target = data.feeds
    if arch.shared_embedding and arch.encoder.embedding is not None:
        ids = np.concatenate([feed.ids for feed in data.feeds if feed.ids is not None], axis=1)
        run.common = run.look_up(arch.encoder.embedding, run.backend.asarray(ids))
    run.prefix, run.feed = "encoder.", source
    y, saved = _up(arch.encoder, run)
    run.memory = Memory(source, run.span(y), run.xp.zeros_like(y))
    run.prefix, run.feed = "decoder.", target
    z, saved_decoder = _up(arch.decoder, run)
    _down(saved_decoder, _top(arch.decoder, z, data, run), run)
    run.prefix, run.feed = "encoder.", source
    _down(saved, run.memory.gradient, run)


def _parts(arch: ops.Transformer) -> list[tuple[int, ops.Op]]:
    """What acts on tokens one after another, from the entry to the last norm, with the layer it starts at."""
    parts: list[tuple[int, ops.Op]] = [] if arch.entry is None else [(0, arch.entry)]
    layer = 0
    for part in arch.layers:
        parts.append((layer, part))  # a run counts its own layers
        layer += part.times
    return parts if arch.final_norm is None else [*parts, (layer + 1, arch.final_norm)]


def _embeddings(
    arch: ops.Transformer, ids: NDArray[Any], run: Run
) -> list[tuple[ops.Embedding, NDArray[Any]]]:
    """Each embedding with what it looks up for each token."""
    places = np.tile(np.arange(run.tokens), run.batch)[None]
    looked_up = ((arch.embedding, ids), (arch.position, places), (arch.segment, np.zeros_like(places)))
    return [(part, own) for part, own in looked_up if part is not None]


def _up(arch: ops.Transformer, run: Run) -> tuple[Array, Kept]:
    """Last hidden states, and what each embedding and each part has saved."""
    run.layer, run.tied = 0, None
    kept: Kept = []
    ids = run.feed.ids
    if ids is None:
        x = _vectors(arch.width, run)
    else:
        x = 0.0
        for embedding, own in _embeddings(arch, ids, run):
            y, saved = forward(embedding, run.backend.asarray(own), run)
            kept.append((0, embedding, saved))
            x = x + y
        if arch.head is not None and arch.head.tied:
            run.tied = kept[0][2][0]
    for run.layer, part in _parts(arch):
        first = run.layer
        x, saved = forward(part, x, run)
        kept.append((first, part, saved))
    return x, kept


def _vectors(width: int, run: Run) -> Array:
    """Input vectors: Gaussian, or in a random position with exactly the Gram matrix that is given."""
    root, name = run.feed.root, "input1" if run.prefix == "decoder." else "input0"
    if root is None:
        return run.noise(name, run.batch * run.tokens, width)
    if not run.feed.fixed:
        return run.backend.asarray(root) @ run.noise(name, len(root), width)
    root = root[:, root.any(axis=0)]
    if root.shape[1] > width:
        raise InputError(
            f"gram has rank {root.shape[1]} and vectors of width {width} have at most {width}: give X X^T / "
            f"{width}, or fixed=False"
        )
    frame, _ = run.xp.linalg.qr(run.xp.matrix_transpose(run.noise(name, root.shape[1], width)))
    return width**0.5 * (run.backend.asarray(root) @ run.xp.matrix_transpose(frame))


def _top(arch: ops.Transformer, y: Array, data: Data, run: Run) -> Array:
    """Gradient of the last hidden states."""
    run.layer = arch.depth + 1
    real = np.ones((run.batch, run.tokens), dtype=bool) if run.feed.real is None else run.feed.real
    share = run.backend.asarray(real.reshape(-1, 1) / real.sum())
    if data.loss.name == "linear":
        return losses.linear(y, share, run)
    if data.loss.name == "mse":
        return losses.mse(y, share, run)
    assert arch.head is not None
    assert data.labels is not None
    logits, saved = forward(arch.head, y, run)
    g = losses.cross_entropy(logits, data.labels, share, data.loss.label_smoothing, run)
    return backward(arch.head, saved, g, run)


def _down(kept: Kept, g: Array, run: Run) -> None:
    for first, part, saved in reversed(kept):
        run.layer = first + part.times if isinstance(part, ops.Repeat) else first
        before = backward(part, saved, g, run)
        g = g if isinstance(part, ops.Embedding) else before  # embeddings are summed: each gets all of g
    run.layer = 0
    for name, features in run.feed.features.items():  # dL/dtheta = sum_i f(i)^T g_i
        of_pairs = run.backend.asarray(features) * (g @ run.xp.matrix_transpose(g))
        run.add(name, "weight", run.xp.sum(of_pairs, axis=(1, 2)))
