"""From steps to ops: names, sizes and laws, and which tensor of the module each parameter is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from empirical.readers.masks import Mask, read_mask
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.structure import Add, Attend, Gate, Single, Step, Steps
from empirical.readers.terms import (
    Activated,
    Capped,
    Gained,
    Map,
    Mixed,
    Normed,
    Operand,
    Scaled,
    Term,
    Weight,
)
from meanfield import ops
from meanfield.ops import Draw, ParameterKey

Laws = Callable[[ParameterKey, Weight], Draw]


@dataclass(frozen=True, eq=False, slots=True)
class Placed:
    """A parameter of the architecture and where its entries stand in the module."""

    key: ParameterKey
    weight: Weight


@dataclass(slots=True)
class Assembler:
    """Turns steps into ops.

    Attributes:
        laws: The law of a parameter, given its key and place.
        prefix: In front of module names, ``"encoder."`` or ``"decoder."``.
        layer: Number of the present layer.
        placed: Every parameter, in the order in which it was met.
        masks: What was read of each attention's mask, with whether it is cross-attention.
        queries: Row numbers (batch, tokens) of the tokens, as the first attention has them.
        memories: What cross-attention reads.
        memory_rows: Row numbers (batch, source tokens) of its tokens.
        biases: Tables of relative positions met so far, by name of the tensor.
        names: How many ops of each kind the present layer has.
    """

    laws: Laws
    prefix: str = ""
    layer: int = 0
    placed: list[Placed] = field(default_factory=list)
    masks: list[tuple[bool, Mask]] = field(default_factory=list)
    queries: Tensor | None = None
    memories: list[Term] = field(default_factory=list)
    memory_rows: Tensor | None = None
    biases: dict[str, ParameterKey] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)

    def start(self, layer: int) -> None:
        """Begin a layer: names are counted anew."""
        self.layer = layer
        self.names = Counter()

    def name(self, kind: str, *, numbered: bool = False) -> str:
        """The next name of a kind in this layer: norm1, norm2; ffn, ffn2."""
        self.names[kind] += 1
        count = self.names[kind]
        return f"{kind}{count}" if numbered or count > 1 else kind

    def draw(self, module: str, parameter: str, weight: Weight) -> Draw:
        """Note a parameter and return its law."""
        if weight.scale != 1:
            raise UnsupportedModuleError(weight.name, f"it is used {weight.scale:g} times as large as it is")
        key = ParameterKey(self.layer, self.prefix + module, parameter)
        self.placed.append(Placed(key, weight))
        return self.laws(key, weight)

    def linear(self, term: Map, name: str) -> ops.Linear:
        """A linear map."""
        d_in, d_out = term.weight.index.shape
        weight = self.draw(name, "weight", term.weight)
        bias = None if term.bias is None else self.draw(name, "bias", term.bias)
        return ops.Linear(d_in, d_out, weight, bias)

    def norm(self, term: Normed, name: str, order: Tensor | None = None) -> ops.Norm:
        """A norm; ``order`` says which of its coordinates comes first, second, ..."""
        if term.kind == "centred":
            raise UnsupportedModuleError(
                term.at.module, "tokens have their mean taken out and are not normed"
            )
        width = term.groups.shape[1]
        options: dict[str, Any] = {}
        affine = term.gain is not None
        for parameter, weight, field_name in (("weight", term.gain, "gain"), ("bias", term.shift, "shift")):
            if weight is None:
                continue
            ordered = weight if order is None else replace(weight, index=weight.index[order])
            law = self.draw(name, parameter, ordered)
            if law != (ops.ONES if parameter == "weight" else ops.ZEROS):
                options[field_name] = law
        kind: Any = term.kind
        return ops.Norm(name, width, kind, term.eps, affine, **options)

    def many(self, steps: Steps, role: str = "") -> ops.Op:
        """Steps as one op."""
        found = self.series(steps, role)
        return found[0] if len(found) == 1 else ops.Sequential(tuple(found))

    def series(self, steps: Steps, role: str = "") -> list[ops.Op]:
        """Steps as ops; what stands inside attention or a feed-forward op has names with its role."""
        found: list[ops.Op] = []
        at = 0
        while at < len(steps):
            step = steps[at]
            end = _map_after(steps, at)
            match step:
                case Attend():
                    inner = steps[at + 1 : end] if end else ()
                    output = steps[end] if end else None
                    found.append(self.attention(step, inner, output))
                    at = (end or at) + 1
                case Gate() if end:
                    found.append(self.gated(step, steps[at + 1 : end], steps[end]))
                    at = end + 1
                case Single(term=Map()) if end and _activated(steps[at + 1]):
                    found.append(self.feed_forward(step, steps[at + 1], steps[at + 2 : end], steps[end]))
                    at = end + 1
                case _:
                    found.append(self.one(step, role))
                    at += 1
        return found

    def one(self, step: Step, role: str) -> ops.Op:
        """A step that is an op by itself."""
        match step:
            case Add():
                return self.residual(step)
            case Single(term=Normed() as term):
                return self.norm(term, f"{role}.norm" if role else self.name("norm", numbered=True))
            case Single(term=Gained() as term):
                name = f"{role}.head_scale" if role else self.name("gain", numbered=True)
                value = self.draw(name, "weight", term.gain)
                if value.variance:
                    raise UnsupportedModuleError(
                        term.gain.name, "learned factors that differ from each other"
                    )
                return ops.Gain(name, len(term.gain.index), value.mean)
            case Single(term=Scaled(factor=factor)):
                return ops.Scale(factor)
            case Single(term=Map() as term):
                return self.linear(term, self.name("linear"))
            case Single(term=Activated() as term):
                return ops.Activation(term.activation)
            case Gate(first=_, second=second):
                raise UnsupportedModuleError(
                    _place(second), "two branches multiplied and no linear map after them"
                )
            case Single(term=term):
                raise UnsupportedModuleError(
                    term.at.module, f"{type(term).__name__.lower()} tokens stand by themselves"
                )
            case _:
                raise UnsupportedModuleError("", f"{type(step).__name__} stands by itself")

    def residual(self, step: Add) -> ops.Op:
        """A sum of branches with what they read."""
        if step.skip and len(step.branches) == 1:
            ((factor, steps),) = step.branches
            branch = self.many(steps)
            return ops.Residual(
                self.name("residual", numbered=True), branch, _number(step.skip), _number(factor)
            )
        branches = []
        for factor, steps in step.branches:
            found = self.series(steps)
            found += [] if factor == 1 else [ops.Scale(_number(factor))]
            branches.append(found[0] if len(found) == 1 else ops.Sequential(tuple(found)))
        parallel = ops.Parallel(tuple(branches)) if len(branches) > 1 else branches[0]
        if not step.skip:
            return parallel
        return ops.Residual(self.name("residual", numbered=True), parallel, _number(step.skip))

    def feed_forward(self, up: Step, act: Step, inner: Steps, down: Step) -> ops.FeedForward:
        """A plain feed-forward op."""
        name = self.name("ffn")
        assert isinstance(up, Single)
        assert isinstance(act, Single)
        assert isinstance(down, Single)
        assert isinstance(act.term, Activated)
        first = self.linear(_map(up.term), f"{name}.up")
        middle = self.many(inner, name) if inner else None
        return ops.FeedForward(
            name, first, act.term.activation, self.linear(_map(down.term), f"{name}.down"), None, middle
        )

    def gated(self, gate: Gate, inner: Steps, down: Step) -> ops.FeedForward:
        """A gated feed-forward op."""
        name = self.name("ffn")
        first, second = gate.first, gate.second
        if len(second) == 2:
            first, second = second, first
        match first, second:
            case (Single(term=Map() as gate_term), Single(term=Activated(activation=found))), (
                Single(term=Map() as up_term),
            ):
                activation = found
            case (Single(term=Map() as gate_term),), (Single(term=Map() as up_term),):
                activation = "identity"
            case _:
                raise UnsupportedModuleError(
                    _place(first), "a product of two branches that is no gated network"
                )
        assert isinstance(down, Single)
        gate_map = self.linear(gate_term, f"{name}.gate")
        up = self.linear(up_term, f"{name}.up")
        middle = self.many(inner, name) if inner else None
        return ops.FeedForward(
            name, up, activation, self.linear(_map(down.term), f"{name}.down"), gate_map, middle
        )

    def attention(self, step: Attend, inner: Steps, output: Step | None) -> ops.Attention:
        """Multi-head attention."""
        cross = step.memory is not None
        name = self.name("cross_attention" if cross else "attention")
        mixed, heads = step.mixed, step.mixed.heads
        scores = mixed.probabilities.scores
        query, query_norm = self.projection(scores.query, heads.query, f"{name}.q")
        key, key_norm = self.projection(scores.key, heads.key, f"{name}.k")
        value, value_norm = self.projection(mixed.value, heads.value, f"{name}.v")
        mask = read_mask(heads.visible, cross=cross, module=mixed.at.module)
        self.masks.append((cross, mask))
        self.order(heads.queries, mixed)
        if cross:
            assert step.memory is not None
            self.memories.append(step.memory)
            self.memory_rows = heads.keys
        elif not torch.equal(heads.queries, heads.keys):
            raise UnsupportedModuleError(
                mixed.at.module, "queries and keys are different tokens of one stack"
            )
        options: dict[str, Any] = {}
        if heads.slopes is not None:
            options["alibi"] = heads.slopes
        middle = self.many(inner, name) if inner else None
        out = None
        if output is not None:
            assert isinstance(output, Single)
            out = self.linear(_map(output.term), f"{name}.o")
        return ops.Attention(
            name,
            "softmax",
            heads=len(heads.query),
            kv_heads=len(heads.key),
            value=value,
            query=query,
            key=key,
            output=out,
            score_scale=_number(
                float(f"{mixed.probabilities.scale * scores.query.scale * scores.key.scale:.6g}")
            ),
            causal=mask.causal,
            cross=cross,
            window=mask.window,
            query_norm=query_norm,
            key_norm=key_norm,
            value_norm=value_norm,
            rotary=_rotary(scores.query, scores.key, mixed),
            relative_bias=self.relative_bias(mixed, name),
            softcap=mixed.probabilities.softcap,
            inner=middle,
            **options,
        )

    def order(self, queries: Tensor, mixed: Mixed) -> None:
        """All attention of a stack must see the same sequences."""
        if self.queries is None:
            self.queries = queries
        elif not torch.equal(self.queries, queries):
            raise UnsupportedModuleError(mixed.at.module, "layers that see tokens in different sequences")

    def projection(self, operand: Operand, columns: Tensor, name: str) -> tuple[ops.Linear, ops.Norm | None]:
        """Queries, keys or values: the columns of a linear map, head by head, and the norm behind it."""
        term, norm = operand.term, None
        flat = columns.reshape(-1)
        if isinstance(term, Normed):
            per_head = term.groups.shape[1] == columns.shape[1]
            place = {int(column): k for group in term.groups for k, column in enumerate(group)}
            wanted = columns[0] if per_head else flat
            order = torch.tensor([place[int(column)] for column in wanted])
            for head in columns if per_head else ():
                if [place[int(column)] for column in head] != order.tolist():
                    raise UnsupportedModuleError(
                        term.at.module, "heads whose norms have their gains in different order"
                    )
            norm = self.norm(term, f"{name}_norm", order)
            term = term.x
        if not isinstance(term, Map):
            raise UnsupportedModuleError(
                term.at.module, "queries, keys or values that are no linear map of the tokens"
            )
        bias = (
            None
            if term.bias is None
            else Weight(term.bias.name, term.bias.index[flat], term.bias.scale, term.bias.offset)
        )
        weight = Weight(term.weight.name, term.weight.index[:, flat])
        linear = Map(width=len(flat), at=term.at, layout=term.layout, x=term.x, weight=weight, bias=bias)
        return self.linear(linear, name), norm

    def relative_bias(self, mixed: Mixed, name: str) -> ops.RelativeBias | None:
        """T5's table, one for all layers or one for each."""
        bias = mixed.probabilities.bias
        if bias is None:
            return None
        shared = bias.weight.name in self.biases
        module = f"{name}.relative_bias"
        key = self.biases.setdefault(
            bias.weight.name, ParameterKey(self.layer, self.prefix + module, "weight")
        )
        law = self.laws(key, bias.weight) if shared else self.draw(module, "weight", bias.weight)
        buckets = len(bias.weight.index)
        return ops.RelativeBias(module, law, buckets, bias.max_distance, bias.bidirectional, shared)


def _rotary(query: Operand, key: Operand, mixed: Mixed) -> ops.Rotary | None:
    if query.rotary != key.rotary:
        raise UnsupportedModuleError(mixed.at.module, "queries and keys that turn differently")
    return query.rotary


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _map(term: Term) -> Map:
    assert isinstance(term, Map)
    return term


def _activated(step: Step) -> bool:
    return isinstance(step, Single) and isinstance(step.term, Activated)


def _map_after(steps: Steps, at: int) -> int | None:
    """The next linear map, with nothing in between but what may stand inside an op."""
    for k in range(at + 1, len(steps)):
        step = steps[k]
        if not isinstance(step, Single) or isinstance(step.term, Capped):
            return None
        if isinstance(step.term, Map):
            return k
        if isinstance(step.term, Activated) and k > at + 1:
            return None
    return None


def _place(steps: Steps) -> str:
    return next((step.term.at.module for step in steps if isinstance(step, Single)), "")
