"""Backward rules: the gradient before an op from that after it; squared norms of parameters are noted."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from meanfield import ops
from meanfield.errors import MissingRuleError
from meanfield.weight_free import attention
from meanfield.weight_free.activations import activate_back
from meanfield.weight_free.backend import Array
from meanfield.weight_free.forward import Saved, forward, times
from meanfield.weight_free.run import Run

INTERPRETER = "weight_free.backward"


@singledispatch
def backward(op: ops.Op, saved: Saved, g: Array, run: Run) -> Array:
    """Carry a gradient back through an op.

    Args:
        op: The op; its type selects the rule.
        saved: From the forward rule.
        g: Gradient of the op's output.
        run: The pass.

    Raises:
        MissingRuleError: If there is no rule for this op.
    """
    raise MissingRuleError(op, INTERPRETER)


@backward.register
def _linear(op: ops.Linear, saved: Saved, g: Array, run: Run) -> Array:
    """G W^T given X and X W. Source: definition."""
    return run.project_back(op.name, saved, {"": g})


@backward.register
def _norm(op: ops.Norm, saved: Saved, g: Array, run: Run) -> Array:
    """(g - x^ mean(g x^) [- mean(g)]) / sqrt(mean square + eps), g times gain. Source: xiong2020, Lemma 3."""
    state, gain = saved
    before, of_gain, of_shift = run.backend.norm_back(op.kind, state, g, gain)
    if op.affine:
        if op.has_shift:
            run.add(op.name, "bias", run.backend.squared(of_shift))
        run.add(op.name, "weight", run.backend.squared(of_gain))
    return before


@backward.register
def _activation(op: ops.Activation, saved: Saved, g: Array, run: Run) -> Array:
    """Times phi'(x). Source: definition."""
    return activate_back(op.activation, saved, g, run.backend)


@backward.register
def _gain(op: ops.Gain, saved: Saved, g: Array, run: Run) -> Array:
    """Times value; a factor sees the sum of g x over all that share it. Source: definition."""
    xp, size = run.xp, g.shape[-1] // op.width
    total = xp.reshape(xp.sum(g * saved, axis=1), (g.shape[0], op.width, size))
    run.add(op.name, "weight", run.backend.squared(xp.sum(total, axis=-1)))
    return float(op.value) * g


@backward.register
def _scale(op: ops.Scale, saved: Saved, g: Array, run: Run) -> Array:
    """Times factor. Source: definition."""
    return float(op.factor) * g


@backward.register
def _dropout(op: ops.Dropout, saved: Saved, g: Array, run: Run) -> Array:
    """Times the same mask / (1 - rate). Source: definition."""
    return g if saved is None else g * saved


@backward.register
def _attention(op: ops.Attention, saved: Saved, g: Array, run: Run) -> Array:
    """The chain rule through mixing and scores. Source: vaswani2017, Eq. (1), differentiated."""
    read, norms, mixed, inner, output = saved
    if op.output is not None:
        g = run.project_back(op.name, output, {"o": g})
    if op.inner is not None:
        g = backward(op.inner, inner, g, run)
    of_q, of_k, of_v = attention.mix_back(op, mixed, attention.split(g, op.heads, run), run)
    gradients = {
        name: _heads_back(op, name, of, norms[name], run)
        for name, of in (("v", of_v), ("k", of_k), ("q", of_q))
        if of is not None
    }
    sources = [run.project_back(op.name, part, gradients) for part in reversed(read)]
    if not op.cross:
        return sources[0]
    assert run.memory is not None
    run.memory.gradient = run.memory.gradient + sources[0]
    return sources[1] if len(sources) > 1 else run.xp.zeros_like(g)


def _heads_back(op: ops.Attention, name: str, g: Array, saved: Saved, run: Run) -> Array:
    if op.rotary is not None and name != "v":
        g = attention.turn(op.rotary, g, run, back=True)
    norm = {"q": op.query_norm, "k": op.key_norm, "v": op.value_norm}[name]
    whole = norm is not None and norm.width == g.shape[-1] * g.shape[2]
    if norm is not None and not whole:
        g = backward(norm, saved, g, run)
    g = attention.join(g, run)
    return backward(norm, saved, g, run) if norm is not None and whole else g


@backward.register
def _feed_forward(op: ops.FeedForward, saved: Saved, g: Array, run: Run) -> Array:
    """Down, the hidden layer, up (and gate). Source: definition."""
    read, hidden, factors, inner, down = saved
    g = run.project_back(op.name, down, {"down": g})
    if op.inner is not None:
        g = backward(op.inner, inner, g, run)
    if factors is None:
        return run.project_back(op.name, read, {"up": activate_back(op.activation, hidden, g, run.backend)})
    gate, up = factors
    gradients = {"gate": activate_back(op.activation, hidden, g * up, run.backend), "up": g * gate}
    return run.project_back(op.name, read, gradients)


@backward.register
def _residual(op: ops.Residual, saved: Saved, g: Array, run: Run) -> Array:
    """G of the skip plus that of the branch. Source: definition."""
    return times(op.skip_scale, g) + backward(op.branch, saved, times(op.branch_scale, g), run)


@backward.register
def _parallel(op: ops.Parallel, saved: Saved, g: Array, run: Run) -> Array:
    """Sum over the branches. Source: definition."""
    parts = list(zip(op.branches, saved, strict=True))
    return sum(backward(branch, kept, g, run) for branch, kept in reversed(parts))


@backward.register
def _sequential(op: ops.Sequential, saved: Saved, g: Array, run: Run) -> Array:
    """The last op first. Source: definition."""
    for child, kept in reversed(list(zip(op.ops, saved, strict=True))):
        g = backward(child, kept, g, run)
    return g


@backward.register
def _fork(op: ops.Fork, saved: Saved, g: Array, run: Run) -> Array:
    """Sum of both streams. Source: definition."""
    first, second = g
    return first + second


@backward.register
def _dual_residual(op: ops.DualResidual, saved: Saved, g: Array, run: Run) -> Array:
    """The branch gets what both streams have of it. Source: definition."""
    first, second = g
    saved_branch, saved_norm = saved
    first = backward(op.norm, saved_norm, first, run)
    return first + backward(op.branch, saved_branch, first + second, run), second


@backward.register
def _merge(op: ops.Merge, saved: Saved, g: Array, run: Run) -> Array:
    """(g, the norm's gradient). Source: definition."""
    return g, backward(op.norm, saved, g, run)


@backward.register
def _repeat(op: ops.Repeat, saved: Saved, g: Array, run: Run) -> Array:
    """The last layer first. Source: definition."""
    return run.repeat_back(op, saved, g, forward, backward)


@backward.register
def _embedding(op: ops.Embedding, saved: Saved, g: Array, run: Run) -> Array:
    """Gradients of tokens of one id add, and those of a tied head to them. Source: definition."""
    xp = run.xp
    table, slot = saved
    places = run.backend.asarray(np.arange(table.slot.shape[1]))[None, :, None]
    reads = xp.astype(slot[:, None, :] == places, g.dtype)  # (seeds or 1, slots, tokens)
    table.gradient = table.gradient + float(op.scale) * (reads @ g)
    common = table is run.common
    if not common or run.prefix == "encoder.":  # the encoder is the last to come back
        square = run.backend.squared(table.gradient) + table.others
        run.add(op.name, "weight", square, prefix="" if common else None)
    return g


@backward.register
def _head(op: ops.Head, saved: Saved, g: Array, run: Run) -> Array:
    """The map's gradient; that of a tied head is kept for the embedding. Source: definition."""
    x, read, slope, inner = saved
    g = float(op.scale) * (g if slope is None else g * slope)
    g = run.logits_back(op, x, read, g)
    return g if op.transform is None else backward(op.transform, inner, g, run)
