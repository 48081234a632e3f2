"""Every family of foreign models is read as its configuration says, or refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("benchmarks.audit.xt")

from benchmarks.audit.families import families, untuned
from benchmarks.audit.family import SMALL, Model, output
from empirical import build
from empirical.names import named_parameters
from empirical.readers import Reading, UnsupportedModuleError, read_module
from meanfield import ops
from meanfield.huggingface import architecture
from tests.empirical.readers.zoo import READ, REFUSED, Expected, pattern

TUNED, UNTUNED = families(SMALL), untuned(SMALL)
ALL = TUNED | UNTUNED
VARIANTS = [(name, variant) for name, family in ALL.items() for variant in family.variants]


@cache
def read(name: str, variant: str) -> tuple[Model, nn.Module, Reading]:
    """Read a module, once for all tests."""
    model = ALL[name].variants[variant]
    module = model.build(0)
    return model, module, read_module(module, model.batch())


def stacks(arch: Any) -> list[ops.Transformer]:
    return [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]


def found(arch: ops.Transformer) -> Expected:
    """Describe an architecture in the words of an expectation."""
    block = arch.layers[0].block
    attention = arch.attention
    feed_forward = next((op for op in ops.walk(block) if isinstance(op, ops.FeedForward)), None)
    inside = {op for op in (attention.query_norm, attention.key_norm) if op is not None}
    norm = next(op for op in ops.walk(block) if isinstance(op, ops.Norm) and op not in inside)
    assert attention.query is not None
    return Expected(
        pattern(block),
        norm.kind,
        norm.eps,
        None if feed_forward is None else feed_forward.activation,
        feed_forward is not None and feed_forward.gate is not None,
        256 if feed_forward is None else feed_forward.up.d_out,
        attention.kv_heads,
        attention.causal,
        None if attention.rotary is None else float(attention.rotary.fraction),
        round(float(attention.score_scale), 6),
        None if attention.query_norm is None else attention.query_norm.width,
        attention.query.bias is not None,
        None if attention.softcap is None else float(attention.softcap),
        None if (attention.window or SMALL.tokens) >= SMALL.tokens else attention.window,
        arch.final_norm is not None,
        arch.entry is not None,
        None if arch.embedding is None else round(float(arch.embedding.scale), 6),
        arch.position is not None,
        arch.segment is not None,
        attention.alibi is not None,
    )


def gradients(module: nn.Module, model: Model) -> dict[str, torch.Tensor]:
    """Return the gradient of every tensor under a generic loss, by all of its names."""
    result = output(module(**model.batch()))
    torch.autograd.backward(result, torch.randn_like(result))
    named = module.named_parameters(remove_duplicate=False)
    return {name: tensor.grad for name, tensor in named if tensor.grad is not None and tensor.grad.any()}


def is_shift(key: ops.ParameterKey) -> bool:
    return key.parameter == "bias" and "norm" in key.module


def check_slots(module: nn.Module, model: Model, reading: Reading) -> None:
    """Check that the slots fit the architecture, and that one of them holds each entry with a gradient.

    A tied head is a slot and no parameter of the architecture; a shared tensor counts where it is first. The
    architecture's norms have shifts where the module's have none.
    """
    features = {label for stream in reading.streams for label in stream.features}
    shared = {label for group in reading.shared for label in group}
    inputs = [slot for slot in reading.slots if re.sub(r"^(en|de)coder\.", "", slot.key.module) in features]
    built = {p.key: tuple(p.tensor.shape) for p in named_parameters(build(reading.arch, seed=0))}
    own = [
        slot
        for slot in reading.slots
        if slot not in inputs and not (slot.label in shared and slot.key not in built)
    ]
    slots = {slot.key: tuple(slot.index.shape) for slot in own}
    assert slots == {key: shape for key, shape in built.items() if key in slots or not is_shift(key)}
    assert len(own) == len(slots)
    tensors = dict(module.named_parameters(remove_duplicate=False))
    held = {id(tensor): torch.zeros(tensor.numel(), dtype=torch.long) for tensor in tensors.values()}
    seen: set[str] = set()
    for slot in reading.slots:
        if slot.label not in seen and slot.name in tensors:
            times = held[id(tensors[slot.name])]
            times += torch.bincount(slot.index.flatten(), minlength=len(times))
        seen.add(slot.label)
    assert all((times <= 1).all() for times in held.values())
    missing = {
        name
        for name, gradient in gradients(module, model).items()
        if not held[id(tensors[name])][gradient.flatten() != 0].all()
    }
    assert not missing


@pytest.mark.parametrize("name", READ)
def test_a_family_is_read_as_its_configuration_says(name: str) -> None:
    _, _, reading = read(name, "linear")
    (arch,) = stacks(reading.arch)
    assert arch.depth == SMALL.depth
    for run in arch.layers:
        assert found(replace(arch, layers=(run,))) == READ[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_without_ops_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModuleError):
        read(name, "linear")


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_slots_hold_every_gradient_or_the_module_is_refused(name: str, variant: str) -> None:
    try:
        model, module, reading = read(name, variant)
    except UnsupportedModuleError:
        assert name not in READ or variant != "linear"
        return
    check_slots(module, model, reading)


def test_controls_are_rejected() -> None:
    model, module, reading = read("gpt2", "linear")
    assert isinstance(reading.arch, ops.Transformer)
    assert found(reading.arch) != READ["opt"]
    with pytest.raises(AssertionError):
        check_slots(module, model, replace(reading, slots=reading.slots[:-1]))
    wide = next(slot for slot in reading.slots if slot.key.module == "ffn.up" and slot.index.ndim == 2)
    turned = replace(wide, index=wide.index.T)
    with pytest.raises(AssertionError):
        check_slots(
            module, model, replace(reading, slots=tuple(turned if s is wide else s for s in reading.slots))
        )


CONFIGURED = (
    *("bert", "roberta", "gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen3", "olmo2", "gemma2"),
    "t5_encoder",
)
"""Families whose configuration files are read elsewhere, without a module."""


def laws(arch: Any) -> dict[ops.ParameterKey, tuple[tuple[int, ...], ops.Draw]]:
    return {p.key: (tuple(p.tensor.shape), p.law) for p in named_parameters(build(arch, seed=0))}


@pytest.mark.parametrize("name", CONFIGURED)
def test_module_and_configuration_are_read_alike(name: str) -> None:
    _, module, reading = read(name, "linear")
    config: Any = module.config
    configured = architecture(config.to_dict(), encoder_only=name == "t5_encoder")
    own, theirs = laws(reading.arch), laws(configured)
    shapes = [{key: shape for key, (shape, _) in side.items()} for side in (own, theirs)]
    assert shapes[0] == shapes[1]
    for key, (shape, law) in own.items():
        expected = theirs[key][1]
        if expected.variance == 0:
            assert (law.variance, law.mean) == (0, expected.mean), key
        else:  # five standard errors of a sample variance
            ratio = float(law.variance / expected.variance)
            assert abs(ratio - 1) < 5 * (2 / math.prod(shape)) ** 0.5, (key, ratio)
    (stack,), (other,) = stacks(reading.arch), stacks(configured)
    assert found(stack) == found(other)
