"""Tensors: the reading of an architecture as a `torch.nn.Module`, one handler per op.

Named ops keep their names, so that every parameter and every point of a block has the key columns of the
tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import TypeAlias

from torch import nn

from empirical import layers
from empirical.device import torch_device, torch_dtype
from empirical.draws import NamedParameter, draw, seed_number
from meanfield import ops
from meanfield.errors import MissingRuleError
from meanfield.predict import check_architecture

Architecture: TypeAlias = ops.Transformer | ops.EncoderDecoder
Model: TypeAlias = layers.Transformer | layers.EncoderDecoder


@singledispatch
def build_op(op: ops.Op) -> nn.Module:
    """Turn one op into a module whose parameters are not drawn yet.

    Args:
        op: Any op.

    Raises:
        MissingRuleError: If the op type has no handler.
    """
    raise MissingRuleError(op, "empirical.build")


@build_op.register
def _linear(op: ops.Linear) -> nn.Module:
    return layers.Linear(op)


@build_op.register
def _norm(op: ops.Norm) -> nn.Module:
    return layers.Norm(op)


@build_op.register
def _attention(op: ops.Attention) -> nn.Module:
    return layers.Attention(op)


@build_op.register
def _feed_forward(op: ops.FeedForward) -> nn.Module:
    return layers.FeedForward(op)


@build_op.register
def _residual(op: ops.Residual) -> nn.Module:
    return layers.Residual(op, build_op(op.branch))


@build_op.register
def _sequential(op: ops.Sequential) -> nn.Module:
    return layers.Sequential(build_op(child) for child in op.ops)


@build_op.register
def _repeat(op: ops.Repeat) -> nn.Module:
    return nn.ModuleList(build_op(op.block) for _ in range(op.times))


@build_op.register
def _embedding(op: ops.Embedding) -> nn.Module:
    return layers.Embedding(op)


@build_op.register
def _head(op: ops.Head) -> nn.Module:
    return layers.Linear(op.linear)


def _transformer(arch: ops.Transformer) -> layers.Transformer:
    return layers.Transformer(
        embedding=build_op(arch.embedding) if arch.embedding is not None else None,
        blocks=[build_op(block) for _, block in arch.blocks()],
        final_norm=build_op(arch.final_norm) if arch.final_norm is not None else None,
        head=build_op(arch.head) if arch.head is not None else None,
    )


def build(arch: Architecture, *, seed: int = 0, device: str = "cpu", dtype: str = "float32") -> Model:
    """Build a Transformer and draw its parameters.

    Args:
        arch: The architecture.
        seed: Every parameter has a stream of random numbers of its own, keyed by this seed and its name.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.

    Returns:
        The model: it takes vectors (batch, tokens, width), or ids (batch, tokens) where there is an
        embedding, or source and target ids for an encoder-decoder.

    Raises:
        InputError: If this is no architecture, LayerNorm has one coordinate, the seed is no integer of at
            least 0, or the device or type is not there.

    Example:
        >>> import meanfield as mf
        >>> model = build(mf.paper_post_ln(width=8, depth=2))
        >>> [tuple(p.shape) for p in model.layers[0].parameters()][:2]
        [(8, 8), (8,)]
    """
    arch = check_architecture(arch)
    where = torch_device(device)
    model: Model
    if isinstance(arch, ops.EncoderDecoder):
        model = layers.EncoderDecoder(_transformer(arch.encoder), _transformer(arch.decoder))
    else:
        model = _transformer(arch)
    model.to(where, torch_dtype(dtype, where))
    draw(named_parameters(model), seed_number(seed))
    return model


def _stacks(model: Model) -> list[tuple[str, layers.Transformer]]:
    if isinstance(model, layers.EncoderDecoder):
        return [("encoder.", model.encoder), ("decoder.", model.decoder)]
    return [("", model)]


def _named_modules(model: Model) -> Iterator[tuple[int, str, nn.Module]]:
    for prefix, stack in _stacks(model):
        yield 0, f"{prefix}embedding", stack.embedding
        for layer, block in enumerate(stack.layers, start=1):
            for module in block.modules():
                if isinstance(module, layers.NAMED):
                    yield layer, prefix + module.name, module
        yield len(stack.layers) + 1, f"{prefix}final_norm", stack.final_norm
        yield len(stack.layers) + 1, f"{prefix}head", stack.head


def points(model: Model) -> list[tuple[ops.ParameterKey, nn.Module]]:
    """List the points at which hidden states are recorded: the outputs of the named modules below the head.

    Args:
        model: A model made by `build`.

    Returns:
        (key, module whose output it is); the output of the embedding, or the input where there is none, is
        called ``input``.
    """
    return [
        (ops.ParameterKey(layer, name.replace("embedding", "input"), "activation"), module)
        for layer, name, module in _named_modules(model)
        if layer == 0 or isinstance(module, layers.NAMED)
    ]


def named_parameters(model: Model) -> list[NamedParameter]:
    """List every parameter with its key columns and the law from which it is drawn.

    Args:
        model: A model made by `build`.

    Returns:
        One entry per tensor, in the order of the layers.

    Example:
        >>> import meanfield as mf
        >>> [p.key.module for p in named_parameters(build(mf.paper_pre_ln(width=8, depth=1)))][:4]
        ['norm1', 'norm1', 'attention.v', 'norm2']
    """
    found = []
    for layer, name, module in _named_modules(model):
        if isinstance(module, layers.Residual):  # its branch is named itself
            continue
        for path, leaf in module.named_modules():
            if not isinstance(leaf, layers.DRAWN):
                continue
            for parameter, tensor in leaf.named_parameters(recurse=False):
                key = ops.ParameterKey(layer, f"{name}.{path}" if path else name, parameter)
                found.append(NamedParameter(key, tensor, leaf.laws[parameter]))
    return found
