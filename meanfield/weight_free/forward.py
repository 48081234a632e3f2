"""Forward rules: the tokens after an op, (seeds, T, d), and what its backward rule needs.

A second stream makes the value a pair of such arrays.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, TypeAlias

from meanfield import ops
from meanfield.errors import MissingRuleError
from meanfield.weight_free import attention, linear
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
    outputs, saved = linear.project({"": op}, x, run)
    return outputs[""], saved


@forward.register
def _norm(op: ops.Norm, x: Array, run: Run) -> tuple[Array, Saved]:
    """x^ gain + shift, x^ = (x - mean) / sqrt(mean square + eps). Source: xiong2020, Sec. 3.1."""
    xp = run.xp
    if op.kind == "layernorm":
        x = x - xp.mean(x, axis=-1, keepdims=True)
    inverse = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + op.eps)
    y = x * inverse
    if op.plain:
        return y, (y, inverse, 1.0)
    gain, shift = (_entries(law, y, run) for law in (op.gain, op.shift))
    return gain * y + shift, (y, inverse, gain)


def _entries(law: ops.Draw, x: Array, run: Run) -> Array | float:
    """One gain or shift per coordinate, the same for all tokens; a number where all agree."""
    if not law.variance:
        return float(law.mean)
    return run.xp.reshape(run.draw(law, x.shape[-1]), (-1, *[1] * (x.ndim - 2), x.shape[-1]))


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
        outputs, saved = linear.project({name: maps[name] for name in names if name in maps}, source, run)
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
        outputs, output = linear.project({"o": op.output}, y, run)
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
        outputs, read = linear.project({"up": op.up}, x, run)
        y, slope = activate(op.activation, outputs["up"], run.backend)
        factors = {"up": slope}
    else:
        outputs, read = linear.project({"gate": op.gate, "up": op.up}, x, run)
        gate, slope = activate(op.activation, outputs["gate"], run.backend)
        y = gate * outputs["up"]
        factors = {"gate": slope * outputs["up"], "up": gate}
    inner = None
    if op.inner is not None:
        y, inner = forward(op.inner, y, run)
    outputs, down = linear.project({"down": op.down}, y, run)
    return outputs["down"], (read, factors, inner, down)


@forward.register
def _residual(op: ops.Residual, x: Array, run: Run) -> tuple[Array, Saved]:
    """skip_scale x + branch_scale branch(x). Source: definition."""
    y, saved = forward(op.branch, x, run)
    return float(op.skip_scale) * x + float(op.branch_scale) * y, saved


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
    kept = []
    for _ in range(op.times):
        run.layer += 1
        x, saved = forward(op.block, x, run)
        kept.append(saved)
    return x, kept


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
    weights = op.linear
    if op.tied:
        assert run.tied is not None
        weights = ops.Linear(weights.d_in, weights.d_out, run.tied.op.weight)
    outputs, read = linear.project({"": weights}, x, run)
    logits = outputs[""]
    if op.tied:
        logits = _with_words(op, x, logits, run)
    logits, slope = scale * logits, None
    if op.softcap is not None:
        t = xp.tanh(logits / float(op.softcap))
        logits, slope = float(op.softcap) * t, 1 - t * t
    return logits, (x, read, slope, inner)


def _with_words(op: ops.Head, x: Array, logits: Array, run: Run) -> Array:
    """Put one column for each token, that of its id, before the logits of a tied head."""
    # The same id's column among the others is barred later, in `losses.cross_entropy`.
    xp, words = run.xp, run.tied
    assert words is not None
    known = x @ xp.matrix_transpose(words.values)
    if op.linear.bias is not None and op.linear.bias.variance:  # what all classes share is not seen
        bias = run.draw(op.linear.bias, op.linear.d_out)  # (seeds, vocab)
        ids = xp.broadcast_to(words.ids, (run.seeds, words.ids.shape[1]))
        known = known + xp.take_along_axis(bias, ids, axis=1)[:, None, :]
        logits = logits + bias[:, None, :]
    return xp.concat([known, logits], axis=-1)
