"""Attention between its projections: heads, positions, scores, weights and the mixing, with exact gradients.

Heads are laid out as (seeds, batch, heads, tokens, head size). Query heads that share a key head lie one
after another, so that their tokens may be read as more tokens of one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.errors import InputError
from meanfield.moments.masks import bucket as bucket_of_pairs
from meanfield.moments.masks import distances
from meanfield.ops import Attention, RelativeBias, Rotary
from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import Run, Table


@dataclass(frozen=True, slots=True)
class Mixed:
    """What the backward pass through the weights needs."""

    q: Array | None
    k: Array | None
    v: Array
    weights: Array
    kept: Array | None
    slope: Array | None
    table: Table | None


def split(x: Array, heads: int, run: Run) -> Array:
    """(seeds, T, heads * size) -> (seeds, batch, heads, tokens, size)."""
    x = run.xp.reshape(x, (x.shape[0], run.batch, -1, heads, x.shape[-1] // heads))
    return run.backend.packed(run.xp.permute_dims(x, (0, 1, 3, 2, 4)))


def join(x: Array, run: Run) -> Array:
    """(seeds, batch, heads, tokens, size) -> (seeds, T, heads * size)."""
    seeds, batch, heads, tokens, size = x.shape
    return run.xp.reshape(run.xp.permute_dims(x, (0, 1, 3, 2, 4)), (seeds, batch * tokens, heads * size))


def turn(rotary: Rotary, x: Array, run: Run, *, back: bool = False) -> Array:
    """Turn plane m of each head by the angle t base^(-2m/r) at position t, or back by it.

    Args:
        rotary: Share of the coordinates that turn, and the base.
        x: Heads (seeds, batch, heads, tokens, size).
        run: The pass.
        back: Whether to turn the other way, as gradients do.

    Returns:
        The turned heads.

    Raises:
        InputError: If the number of coordinates that turn is odd, or 0.

    Source:
        definition; coordinates m and m + r/2 make a plane.
    """
    xp, turned = run.xp, int(rotary.fraction * x.shape[-1])
    if turned < 2 or turned % 2:
        raise InputError(
            f"rotary fraction={rotary.fraction} turns {turned} of {x.shape[-1]} coordinates of a head: "
            "give a fraction that makes their number even"
        )
    half = turned // 2
    angle = np.arange(x.shape[-2])[:, None] * float(rotary.base) ** (-np.arange(half) / half)
    cos, sin = (run.backend.asarray(f(angle)) for f in (np.cos, np.sin))
    sin = -sin if back else sin
    a, b = x[..., :half], x[..., half : 2 * half]
    return xp.concat([a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]], axis=-1)


def mix(op: Attention, q: Array | None, k: Array | None, v: Array, run: Run) -> tuple[Array, Mixed]:
    """Mix values by the softmax of scores.

        weights = dropout(softmax(mask(c tanh((score_scale q k^T + bias - slope |i - j|) / c)))),
        y = weights v

    Args:
        op: The attention op.
        q: Query heads; None for uniform attention.
        k: Key heads; None for uniform attention.
        v: Value heads.
        run: The pass.

    Returns:
        Mixed heads (seeds, batch, heads, tokens, value size), and what the backward pass needs.
    """
    xp = run.xp
    slope: Array | None = None
    table: Table | None = None
    shape = (v.shape[0], run.batch, op.heads, run.tokens, v.shape[-2])
    if q is None or k is None:
        s = run.backend.asarray(np.zeros((1, 1, 1, *shape[3:])))
    else:
        s = float(op.score_scale) * xp.reshape(_grouped(q, op, xp) @ xp.matrix_transpose(k), shape)
    if op.relative_bias is not None:
        table = _table(op.relative_bias, op, run)
        s = s + _bias(op.relative_bias, table, op, run)
    if op.alibi is not None:
        s = s + run.backend.asarray(distances(op, run.tokens)[None, None])  # (1, 1, heads, tokens, tokens)
    if op.softcap is not None:
        t = xp.tanh(s / float(op.softcap))
        s, slope = float(op.softcap) * t, 1 - t * t
    mask = _mask(op, run)
    if mask is not None:
        s = xp.where(mask, s, -xp.inf)
    weights = run.backend.softmax(s)
    kept = run.keep(float(op.dropout), shape[1:]) if op.dropout else None
    used = xp.broadcast_to(weights if kept is None else weights * kept, shape)
    y = xp.reshape(_grouped(used, op, xp) @ v, (*shape[:4], v.shape[-1]))
    return y, Mixed(q, k, v, weights, kept, slope, table)


def mix_back(op: Attention, saved: Mixed, g: Array, run: Run) -> tuple[Array | None, Array | None, Array]:
    """Carry the gradient of mixed heads back to queries, keys and values.

        dS = weights o (dW - sum_j weights_j dW_j),  dW = g v^T

    Args:
        op: The attention op.
        saved: From the forward pass.
        g: Gradient of the mixed heads.
        run: The pass.

    Returns:
        The gradients of query, key and value heads.
    """
    xp, v = run.xp, saved.v
    shape = (*g.shape[:4], v.shape[-2])
    weights, kept = saved.weights, saved.kept
    used = xp.broadcast_to(weights if kept is None else weights * kept, shape)
    grouped = _grouped(g, op, xp)
    of_v = xp.matrix_transpose(_grouped(used, op, xp)) @ grouped
    if saved.q is None or saved.k is None:
        return None, None, of_v
    of_weights = xp.reshape(grouped @ xp.matrix_transpose(v), shape)
    if kept is not None:
        of_weights = of_weights * kept
    ds = run.backend.softmax_back(weights, of_weights)
    if saved.slope is not None:
        ds = ds * saved.slope
    if op.relative_bias is not None and saved.table is not None:
        _bias_back(op.relative_bias, saved.table, ds, run)
    ds = float(op.score_scale) * _grouped(ds, op, xp)
    of_q = xp.reshape(ds @ saved.k, saved.q.shape)
    return of_q, xp.matrix_transpose(ds) @ _grouped(saved.q, op, xp), of_v


def _grouped(x: Array, op: Attention, xp: Any) -> Array:
    """(..., heads, tokens, size) -> (..., kv_heads, group * tokens, size)."""
    if op.heads == op.kv_heads:
        return x
    return xp.reshape(x, (x.shape[0], x.shape[1], op.kv_heads, -1, x.shape[-1]))


def _mask(op: Attention, run: Run) -> Array | None:
    """Which keys a query sees, (1, batch or 1, 1, tokens, source tokens); None where all are."""
    source = run.feed if run.memory is None or not op.cross else run.memory.feed
    if not op.masked and source.real is None:
        return None
    key = (run.prefix, op.causal, op.window, op.cross)
    if key not in run.masks:
        gap = np.arange(run.tokens)[:, None] - np.arange(source.tokens)  # (tokens, source tokens), i - j
        seen = np.ones((1, *gap.shape), dtype=bool)
        if op.causal:
            seen &= gap >= 0
        if op.window is not None:
            seen &= np.abs(gap) < op.window
        if source.real is not None:
            # A padded token sees itself at least: nobody reads its output, and it has to be a number.
            keys = source.real[:, None, :]
            seen = seen & (keys if op.cross else keys | (gap == 0))
        run.masks[key] = run.backend.asarray(seen[None, :, None])
    return run.masks[key]


def _one_hot(bias: RelativeBias, run: Run) -> Array:
    """(tokens^2, buckets)."""
    key = (run.prefix, bias.buckets, bias.max_distance, bias.bidirectional)
    if key not in run.masks:
        bucket = bucket_of_pairs(bias, run.tokens)
        run.masks[key] = run.backend.asarray(np.eye(bias.buckets)[bucket.reshape(-1)])
    return run.masks[key]


def _table(bias: RelativeBias, op: Attention, run: Run) -> Table:
    """The layer's own table, or the one it shares."""
    name = run.prefix + bias.name
    table = run.tables.get(name)
    if bias.shared:
        if table is None:
            raise InputError(f"{bias.name} is shared, and no earlier layer has it: let the first one own it")
        return table
    if table is None or table.layer != run.layer:  # a layer that is computed again keeps what it has received
        values = run.draw(bias.name, "weight", bias.weight, bias.buckets, op.heads)
        table = run.tables[name] = Table(run.layer, values, run.xp.zeros_like(values))
    return table


def _bias(bias: RelativeBias, table: Table, op: Attention, run: Run) -> Array:
    """Scores' term b[bucket, head], (seeds, 1, heads, tokens, tokens)."""
    xp = run.xp
    term = _one_hot(bias, run) @ table.values  # (seeds, tokens^2, heads)
    term = xp.reshape(term, (run.seeds, 1, run.tokens, run.tokens, op.heads))
    return xp.permute_dims(term, (0, 1, 4, 2, 3))


def _bias_back(bias: RelativeBias, table: Table, ds: Array, run: Run) -> None:
    """Add the gradient of the table; the layer that owns it notes the sum, after all that share it."""
    xp = run.xp
    flat = xp.permute_dims(xp.sum(ds, axis=1), (0, 2, 3, 1))  # (seeds, tokens, tokens, heads)
    flat = xp.reshape(flat, (ds.shape[0], -1, ds.shape[2]))
    table.gradient = table.gradient + xp.matrix_transpose(_one_hot(bias, run)) @ flat
    if not bias.shared:
        run.add(bias.name, "weight", run.backend.squared(table.gradient))
