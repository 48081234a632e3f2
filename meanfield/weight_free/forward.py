"""Forward rules: the tokens after an op, (seeds, T, d), and what its backward rule needs.

A second stream makes the value a pair of such arrays.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, TypeAlias

from meanfield import ops
from meanfield.errors import MissingRuleError
from meanfield.weight_free import attention
from meanfield.weight_free.activations import activate
from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import INTERPRETER, Run

Saved: TypeAlias = Any


@singledispatch
def forward(op: ops.Op, x: Array, run: Run) -> tuple[Array, Saved]:
    """Apply an op with fresh weights.

    Args:
        op: The op; its type selects the rule.
        x: Tokens (seeds, T, d); for an embedding their ids (seeds, T).
        run: The pass.

    Raises:
        MissingRuleError: If there is no rule for this op.
    """
    raise MissingRuleError(op, INTERPRETER)


@forward.register
def _linear(op: ops.Linear, x: Array, run: Run) -> tuple[Array, Saved]:
    """X W + b. Source: definition."""
    outputs, saved = run.project(op.name, {"": op}, x)
    return outputs[""], saved


@forward.register
def _norm(op: ops.Norm, x: Array, run: Run) -> tuple[Array, Saved]:
    """x^ gain + shift, x^ = (x - mean) / sqrt(mean square + eps). Source: xiong2020, Sec. 3.1."""
    y, saved = run.backend.norm(op.kind, x, op.eps)
    if op.plain:
        return y, (saved, 1.0)
    gain, shift = (_entries(op, *part, y, run) for part in (("weight", op.gain), ("bias", op.shift)))
    return gain * y + shift, (saved, gain)


def _entries(op: ops.Norm, parameter: str, law: ops.Draw, x: Array, run: Run) -> Array | float:
    """One gain or shift per coordinate, the same for all tokens; a number where all agree."""
    if not law.variance:
        return float(law.mean)
    drawn = run.draw(op.name, parameter, law, x.shape[-1])
    return run.xp.reshape(drawn, (-1, *[1] * (x.ndim - 2), x.shape[-1]))


@forward.register
def _activation(op: ops.Activation, x: Array, run: Run) -> tuple[Array, Saved]:
    """phi(x). Source: definition."""
    return activate(op.activation, x, run.backend)


@forward.register
def _gain(op: ops.Gain, x: Array, run: Run) -> tuple[Array, Saved]:
    """Times value. Source: definition."""
    return float(op.value) * x, x


@forward.register
def _scale(op: ops.Scale, x: Array, run: Run) -> tuple[Array, Saved]:
    """Times factor. Source: definition."""
    return float(op.factor) * x, None


@forward.register
def _dropout(op: ops.Dropout, x: Array, run: Run) -> tuple[Array, Saved]:
    """Times a mask / (1 - rate). Source: definition."""
    if not op.rate:
        return x, None
    kept = run.keep(float(op.rate), x.shape[1:])
    return x * kept, kept


@forward.register
def _attention(op: ops.Attention, x: Array, run: Run) -> tuple[Array, Saved]:
    """Projections, heads, mixing, output projection. Source: vaswani2017, Eq. (1)."""
    maps = {
        name: part for name, part in (("q", op.query), ("k", op.key), ("v", op.value)) if part is not None
    }
    read: list[Saved] = []
    heads: dict[str, Array | None] = {"q": None, "k": None}
    norms: dict[str, Saved] = {}
    projected: dict[str, Array] = {}
    for source, names in _sources(op, x, run):
        read_here = {name: maps[name] for name in names if name in maps}
        outputs, saved = run.project(op.name, read_here, source)
        projected |= outputs
        read.append(saved)
    for name, y in projected.items():
        heads[name], norms[name] = _heads(op, name, y, run)
    mixed, saved_mix = attention.mix(op, heads["q"], heads["k"], heads["v"], run)
    y, inner = attention.join(mixed, run), None
    if op.inner is not None:
        y, inner = forward(op.inner, y, run)
    output = None
    if op.output is not None:
        outputs, output = run.project(op.name, {"o": op.output}, y)
        y = outputs["o"]
    return y, (read, norms, saved_mix, inner, output)


def _sources(op: ops.Attention, x: Array, run: Run) -> list[tuple[Any, tuple[str, ...]]]:
    """Which tokens queries, keys and values are made of."""
    if not op.cross:
        return [(x, ("q", "k", "v"))]
    assert run.memory is not None
    keys: tuple[Any, tuple[str, ...]] = (run.memory.span, ("k", "v"))
    return [keys] if op.query is None else [(x, ("q",)), keys]


def _heads(op: ops.Attention, name: str, y: Array, run: Run) -> tuple[Array, Saved]:
    """Norm and rotary positions of queries, keys or values: (seeds, batch, heads, tokens, size)."""
    count = op.heads if name == "q" else op.kv_heads
    norm = {"q": op.query_norm, "k": op.key_norm, "v": op.value_norm}[name]
    saved = None
    if norm is not None and norm.width == y.shape[-1]:
        y, saved = forward(norm, y, run)
    y = attention.split(y, count, run)
    if norm is not None and saved is None:
        y, saved = forward(norm, y, run)
    if op.rotary is not None and name != "v":
        y = attention.turn(op.rotary, y, run)
    return y, saved


@forward.register
def _feed_forward(op: ops.FeedForward, x: Array, run: Run) -> tuple[Array, Saved]:
    """down(inner(phi(up x))), or down(inner(phi(gate x) * up x)). Source: definition."""
    if op.gate is None:
        outputs, read = run.project(op.name, {"up": op.up}, x)
        y, saved = activate(op.activation, outputs["up"], run.backend)
        factors = None
    else:
        outputs, read = run.project(op.name, {"gate": op.gate, "up": op.up}, x)
        gate, saved = activate(op.activation, outputs["gate"], run.backend)
        y = gate * outputs["up"]
        factors = (gate, outputs["up"])
    inner = None
    if op.inner is not None:
        y, inner = forward(op.inner, y, run)
    outputs, down = run.project(op.name, {"down": op.down}, y)
    return outputs["down"], (read, saved, factors, inner, down)


@forward.register
def _residual(op: ops.Residual, x: Array, run: Run) -> tuple[Array, Saved]:
    """skip_scale x + branch_scale branch(x). Source: definition."""
    y, saved = forward(op.branch, x, run)
    return times(op.skip_scale, x) + times(op.branch_scale, y), saved


def times(factor: ops.Number, x: Array) -> Array:
    """Multiply, unless by 1: an array is read and written for it."""
    return x if factor == 1 else float(factor) * x


@forward.register
def _parallel(op: ops.Parallel, x: Array, run: Run) -> tuple[Array, Saved]:
    """Sum of the branches. Source: definition."""
    results = [forward(branch, x, run) for branch in op.branches]
    return sum(y for y, _ in results), [saved for _, saved in results]


@forward.register
def _sequential(op: ops.Sequential, x: Array, run: Run) -> tuple[Array, Saved]:
    """One op after another. Source: definition."""
    kept = []
    for child in op.ops:
        x, saved = forward(child, x, run)
        kept.append(saved)
    return x, kept


@forward.register
def _fork(op: ops.Fork, x: Array, run: Run) -> tuple[Array, Saved]:
    """Two streams from one, (x, x). Source: definition."""
    return (x, x), None


@forward.register
def _dual_residual(op: ops.DualResidual, x: Array, run: Run) -> tuple[Array, Saved]:
    """(x, r) -> (N(x + F(x)), r + F(x)). Source: definition."""
    first, second = x
    branch, saved_branch = forward(op.branch, first, run)
    first, saved_norm = forward(op.norm, first + branch, run)
    return (first, second + branch), (saved_branch, saved_norm)


@forward.register
def _merge(op: ops.Merge, x: Array, run: Run) -> tuple[Array, Saved]:
    """(x, r) -> x + N(r). Source: definition."""
    first, second = x
    second, saved = forward(op.norm, second, run)
    return first + second, saved


@forward.register
def _repeat(op: ops.Repeat, x: Array, run: Run) -> tuple[Array, Saved]:
    """The layers of a run. Source: definition."""
    return run.repeat(op, x, forward)


@forward.register
def _embedding(op: ops.Embedding, x: Array, run: Run) -> tuple[Array, Saved]:
    """Rows of the ids, times the scale. Source: definition."""
    xp, tokens = run.xp, x.shape[1]
    table = run.common if run.common is not None and run.common.op == op else run.look_up(op, x)
    # of a table that encoder and decoder share, what the present one's tokens read
    slot = table.slot[:, -tokens:] if run.prefix == "decoder." else table.slot[:, :tokens]
    index = xp.broadcast_to(slot[:, :, None], (run.seeds, tokens, op.width))
    return float(op.scale) * xp.take_along_axis(table.values, index, axis=1), (table, slot)


@forward.register
def _head(op: ops.Head, x: Array, run: Run) -> tuple[Array, Saved]:
    """Logits c tanh(scale (y W + b) / c), (seeds, T, vocab), y = transform(x). Source: definition."""
    xp, scale, inner = run.xp, float(op.scale), None
    if op.transform is not None:
        x, inner = forward(op.transform, x, run)
    logits, read = run.logits(op, x)
    logits, slope = scale * logits, None
    if op.softcap is not None:
        t = xp.tanh(logits / float(op.softcap))
        logits, slope = float(op.softcap) * t, 1 - t * t
    return logits, (x, read, slope, inner)
