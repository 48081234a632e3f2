"""Finding out what a piece of a pass computes, by running it on other values."""

from __future__ import annotations

import torch
from torch import Tensor

from empirical.layers import ACTIVATIONS
from empirical.readers.terms import Term
from empirical.readers.trace import Graph, Node

TIGHT = 1e-6
"""Largest relative difference at which two functions count as one; constants of the pass are float32."""


def respond(graph: Graph, term: Term, x: Tensor, node: Node) -> Tensor:
    """Compute a node with another matrix (rows, width) in the place of a term.

    Args:
        graph: The pass.
        term: The term.
        x: Its other value.
        node: A node behind it.

    Returns:
        The node's value.
    """
    with torch.no_grad():
        return graph.run({term.at: x.reshape(-1)[term.layout]}, [node])[0]


def noise(term: Term, seed: int = 0) -> Tensor:
    """Draw a matrix of standard normals in the shape of a term."""
    rows = int(term.layout.max()) // term.width + 1
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, term.width, generator=generator, dtype=torch.float64)


def _constant(ratio: Tensor) -> float | None:
    """The value that all entries have, if it is one."""
    middle = ratio.median()
    near = (ratio - middle).abs().max() <= TIGHT * middle.abs()
    return float(middle) if bool(near) and float(middle) != 0 else None


def norm_of(graph: Graph, term: Term, index: Tensor, node: Node) -> tuple[str, float, float] | None:
    """Tell whether a node is a norm over the last axis of a view of a term.

        y = factor (x - mean(x)) / sqrt(var(x) + eps),  y = factor x / sqrt(mean(x^2) + eps)

    Args:
        graph: The pass.
        term: The term.
        index: The view.
        node: What may be its norm.

    Returns:
        ``"layernorm"``, ``"rmsnorm"`` or ``"centred"`` (x - mean(x)), eps, and the factor; None if none fits.
    """
    noisy = noise(term) + 0.3  # a mean, so that the two kinds differ

    def pair(size: float) -> tuple[Tensor, Tensor]:
        x = size * noisy
        return x.reshape(-1)[index], respond(graph, term, x, node)

    x, y = pair(1e4)  # so large that eps does not show
    if y.shape != x.shape or not bool(torch.isfinite(y).all()):
        return None
    centred = x - x.mean(-1, keepdim=True)
    for kind, z in (("layernorm", centred), ("rmsnorm", x)):
        size = z.square().mean(-1, keepdim=True)
        factor = _constant(y / (z / (size + 1e-8).sqrt()))
        if factor is None:
            continue
        small, answer = pair(1e-3)
        if kind == "layernorm":
            small = small - small.mean(-1, keepdim=True)
        eps = float(((factor * small / answer).square() - small.square().mean(-1, keepdim=True)).median())
        eps = 0.0 if eps < 1e-15 else float(f"{eps:.5g}")
        between, answer = pair(0.05)
        if kind == "layernorm":
            between = between - between.mean(-1, keepdim=True)
        expected = factor * between / (between.square().mean(-1, keepdim=True) + eps).sqrt()
        if bool((answer - expected).abs().max() <= 10 * TIGHT * expected.abs().max()):
            return kind, eps, float(f"{factor:.6g}")
    if bool((y - centred).abs().max() <= TIGHT * y.abs().max()):
        return "centred", 0.0, 1.0
    return None


def activation_of(graph: Graph, term: Term, index: Tensor, node: Node) -> tuple[str, float] | None:
    """Tell which activation a node applies to every entry of a view of a term.

    Args:
        graph: The pass.
        term: The term.
        index: The view.
        node: What may be factor * activation(view).

    Returns:
        Name and factor; None if none fits.
    """
    x = 3 * noise(term)
    y = respond(graph, term, x, node).reshape(-1)
    given = x.reshape(-1)[index].reshape(-1)
    for name, activation in ACTIVATIONS.items():
        expected = activation(given)
        factor = float((y * expected).sum() / expected.square().sum())
        if bool((y - factor * expected).abs().max() <= TIGHT * y.abs().max()) and factor != 0:
            return name, float(f"{factor:.7g}")
    return None


def cap_of(graph: Graph, term: Term, index: Tensor, node: Node) -> tuple[float, float] | None:
    """Tell whether a node caps a view of a term softly, c tanh(slope x / c).

    Args:
        graph: The pass.
        term: The term.
        index: The view.
        node: What may be the capped view.

    Returns:
        c and slope; None if it is something else.
    """
    ones = torch.ones_like(noise(term))
    cap = float(respond(graph, term, 1e9 * ones, node).reshape(-1)[0])
    slope = float(respond(graph, term, 1e-4 * ones, node).reshape(-1)[0]) / 1e-4
    if not 0 < cap < 1e6 or slope == 0:
        return None
    x = 3 * cap / abs(slope) * noise(term)
    expected = cap * torch.tanh(slope * x.reshape(-1)[index] / cap)
    fits = (respond(graph, term, x, node) - expected).abs().max() <= TIGHT * cap
    return (float(f"{cap:.7g}"), float(f"{slope:.7g}")) if bool(fits) else None
