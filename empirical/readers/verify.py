"""The proof of a reading: built anew and given other weights, it computes what the module computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from empirical.build import Architecture, build
from empirical.layers import Context, Transformer
from empirical.names import named_parameters
from empirical.readers.assemble import Placed
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.terms import Root
from empirical.readers.trace import Graph, Node
from meanfield import ops

TOLERANCE = 1e-4
"""Of the output's size. Constants of the pass, such as angles, have the precision of its type."""


def other_weights(graph: Graph, placed: Iterable[Placed]) -> dict[Node, Tensor]:
    """Draw other values for all parameters, so large that every part of the function shows.

    Args:
        graph: The pass.
        placed: The parameters.

    Returns:
        Values by node.
    """
    matrices = {p.weight.name: p.weight.index.shape[0] for p in placed if p.weight.index.dim() == 2}
    tables = {p.weight.name for p in placed if p.key.module.endswith("relative_bias")}
    gains = {
        p.weight.name: p.weight.offset
        for p in placed
        if p.weight.index.dim() == 1 and p.key.parameter == "weight"
    }
    values = {}
    for number, node in enumerate(n for n in graph.nodes if n.leaf == "parameter"):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(node.value.shape, generator=generator, dtype=torch.float64)
        if node.name in tables:
            values[node] = x
        elif node.name in matrices:
            values[node] = (1.4 / matrices[node.name]) ** 0.5 * x
        elif node.name in gains:
            values[node] = 1 - gains[node.name] + 0.3 * x
        else:
            values[node] = 0.3 * x
    return values


def check(
    graph: Graph,
    output: tuple[Node, Tensor],
    arch: Architecture,
    roots: list[tuple[Root, Tensor, Tensor | None]],
    placed: list[Placed],
) -> None:
    """Compare a module with the architecture that was read, on other weights and other input.

    Args:
        graph: The pass of the module.
        output: Its output's node, (..., width or vocabulary), and the row of each of its tokens.
        arch: The architecture.
        roots: What enters each stack, the row numbers (batch, tokens) of its tokens, and which are real.
        placed: All parameters.

    Raises:
        UnsupportedModuleError: If they differ.
    """
    given = other_weights(graph, placed)
    model = build(_on_vectors(arch), dtype="float64")
    own = {p.key: p.tensor for p in named_parameters(model)}
    values = {node.name: value for node, value in given.items()}
    with torch.no_grad():
        for place in placed:
            tensor = own.get(place.key)
            if tensor is not None:
                entries = values[place.weight.name].reshape(-1)[place.weight.index] + place.weight.offset
                tensor.copy_(entries.reshape(tensor.shape))
    inputs, masks = [], []
    for number, (root, order, real) in enumerate(roots):
        generator = torch.Generator().manual_seed(1000 + number)
        rows = int(root.layout.max()) // root.width + 1
        x = torch.randn(rows, root.width, generator=generator, dtype=torch.float64)
        given[root.at] = x.reshape(-1)[root.layout]
        inputs.append(x[order])
        masks.append(None if real is None or bool(real.all()) else real)
    with torch.no_grad():
        node, at = output
        theirs = graph.run(given, [node])[0].flatten(0, -2)
        theirs = torch.empty_like(theirs).index_copy(0, at.reshape(-1), theirs)
        if isinstance(model, Transformer):
            ours = model(inputs[0], context=Context(masks[0]))
        else:
            memory = model.encoder.hidden(inputs[0], context=Context(masks[0]))
            ours = model.decoder(inputs[1], context=Context(masks[1], memory, masks[0]))
    theirs = theirs[roots[-1][1]]  # (batch, tokens, width)
    if masks[-1] is not None:
        ours, theirs = ours[masks[-1]], theirs[masks[-1]]
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    if not worst < TOLERANCE:
        raise UnsupportedModuleError(
            "",
            "what was read in it computes something else: on random weights the outputs differ by "
            f"{worst:.1e} of their size, so a part was not understood",
        )


def _on_vectors(arch: Architecture) -> Architecture:
    """The architecture without its embeddings."""
    if isinstance(arch, ops.EncoderDecoder):
        return ops.EncoderDecoder(arch.name, _bare(arch.encoder), _bare(arch.decoder))
    return _bare(arch)


def _bare(stack: ops.Transformer) -> ops.Transformer:
    """A stack without its embeddings, a tied head with a matrix of its own."""
    head = stack.head if stack.head is None or not stack.head.tied else replace(stack.head, tied=False)
    return replace(stack, embedding=None, position=None, segment=None, head=head)
