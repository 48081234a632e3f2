"""Tensors: the reading of an architecture as a `torch.nn.Module`, one handler per op."""

from __future__ import annotations

from functools import singledispatch
from typing import TypeAlias

from torch import nn

from empirical import layers
from empirical.device import torch_device, torch_dtype
from empirical.draws import draw, seed_number
from empirical.names import Model, check_names, dropouts, named_parameters, open_streams, points
from meanfield import ops
from meanfield.checks import check_architecture
from meanfield.errors import InputError, MissingRuleError

Architecture: TypeAlias = ops.Transformer | ops.EncoderDecoder


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
def _activation(op: ops.Activation) -> nn.Module:
    return layers.Activation(op)


@build_op.register
def _gain(op: ops.Gain) -> nn.Module:
    return layers.Gain(op)


@build_op.register
def _scale(op: ops.Scale) -> nn.Module:
    return layers.Scale(op)


@build_op.register
def _dropout(op: ops.Dropout) -> nn.Module:
    return layers.Dropout(op.rate)


@build_op.register
def _attention(op: ops.Attention) -> nn.Module:
    return layers.Attention(op, _optional(op.inner))


@build_op.register
def _feed_forward(op: ops.FeedForward) -> nn.Module:
    return layers.FeedForward(op, _optional(op.inner))


@build_op.register
def _residual(op: ops.Residual) -> nn.Module:
    return layers.Residual(op, build_op(op.branch))


@build_op.register
def _parallel(op: ops.Parallel) -> nn.Module:
    return layers.Parallel(build_op(branch) for branch in op.branches)


@build_op.register
def _sequential(op: ops.Sequential) -> nn.Module:
    return layers.Sequential(build_op(child) for child in op.ops)


@build_op.register
def _fork(op: ops.Fork) -> nn.Module:
    return layers.Fork()


@build_op.register
def _dual_residual(op: ops.DualResidual) -> nn.Module:
    return layers.DualResidual(op, build_op(op.branch))


@build_op.register
def _merge(op: ops.Merge) -> nn.Module:
    return layers.Merge(op)


@build_op.register
def _repeat(op: ops.Repeat) -> nn.Module:
    return nn.ModuleList(build_op(op.block) for _ in range(op.times))


@build_op.register
def _embedding(op: ops.Embedding) -> nn.Module:
    return layers.Embedding(op)


@build_op.register
def _head(op: ops.Head) -> nn.Module:
    return layers.Head(op, _optional(op.transform))


def _optional(op: ops.Op | None) -> nn.Module | None:
    return None if op is None else build_op(op)


def _embeddings(arch: ops.Transformer) -> layers.Embeddings:
    tables = arch.embedding, arch.position, arch.segment
    return layers.Embeddings(*[None if table is None else layers.Embedding(table) for table in tables])


def _transformer(arch: ops.Transformer) -> layers.Transformer:
    stack = layers.Transformer(
        embeddings=_embeddings(arch),
        entry=_optional(arch.entry),
        blocks=[build_op(block) for _, block in arch.blocks()],
        final_norm=_optional(arch.final_norm),
        head=_optional(arch.head),
    )
    if isinstance(stack.head, layers.Head) and stack.head.tied:
        stack.head.embedding = stack.embeddings.token
    _share_biases(stack)
    return stack


def _share_biases(stack: layers.Transformer) -> None:
    """Give shared relative biases the table of the first layer that has one of their name."""
    first: dict[str, layers.RelativeBias] = {}
    for module in stack.layers.modules():
        bias = module.relative_bias if isinstance(module, layers.Attention) else None
        if bias is not None and not bias.shared:
            first.setdefault(bias.name, bias)
        elif bias is not None and bias.name in first:
            module.relative_bias = first[bias.name]
        elif bias is not None:
            raise InputError(f"{bias.name} is shared and no earlier layer has it: give the first one its own")


def _share_embedding(model: layers.EncoderDecoder) -> None:
    """Give the decoder, and its head where that is tied, the table of the encoder."""
    token = model.decoder.embeddings.token = model.encoder.embeddings.token
    assert token is not None
    token.common = True
    if isinstance(model.head, layers.Head) and model.head.tied:
        model.head.embedding = token


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
            least 0, two ops of a layer have one name, or the device or type is not there.

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
        if arch.shared_embedding:
            _share_embedding(model)
    else:
        model = _transformer(arch)
    model.to(where, torch_dtype(dtype, where))
    parameters = named_parameters(model)
    check_names(arch.name, [p.key for p in parameters] + [key for key, _ in points(model)])
    seed = seed_number(seed)
    draw(parameters, seed)
    open_streams(dropouts(model), seed)
    return model
