"""What a cell can be measured with, and what that takes: memory and work, one function of each per method.

A new method is one entry of `METHODS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import empirical
from empirical.backend import TorchBackend
from empirical.measure import Measurement
from empirical.passes import AT_ONCE, MATRIX, TOKENS
from empirical.streamed import STATES
from empirical.sweep.sizes import Sizes

ENTRY = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2}  # bytes


@dataclass(frozen=True, slots=True)
class Method:
    """One way to measure a cell.

    Args:
        measure: Takes an architecture, and keywords among `empirical.setting.Setting`'s fields, seeds and
            progress.
        memory: (sizes, bytes of a number, mini-batches, seeds) -> bytes at the peak, above an idle process.
        work: (sizes, mini-batches) -> multiplications of one seed, or what takes as long.
    """

    measure: Callable[..., Measurement]
    memory: Callable[[Sizes, int, int, int], float]
    work: Callable[[Sizes, int], float]

    @property
    def keywords(self) -> frozenset[str]:
        """Names of the keywords that it takes."""
        return frozenset(inspect.signature(self.measure).parameters)


def measure_memory(sizes: Sizes, entry: int, minibatches: int, seeds: int) -> float:
    """Estimate the memory of `empirical.measure`.

        entry (2 W + 2.7 S + A),   W weights, S hidden states, A attention weights; 3 W with mini-batches

    The model and all of its gradients are there at once. States are kept for the backward pass, some of them
    with their gradients.

    Args:
        sizes: What is measured.
        entry: Bytes of a number.
        minibatches: Mini-batches per seed; the mean gradient is one more copy.
        seeds: Not read: one runs after another.

    Returns:
        Bytes above an idle process.
    """
    copies = 3 if minibatches > 1 else 2
    return entry * (copies * sizes.weights + 2.7 * sizes.states + sizes.scores)


def ensemble_memory(sizes: Sizes, entry: int, minibatches: int, seeds: int) -> float:
    """Estimate the memory of `empirical.ensemble`, which keeps weights and states, and no gradient.

        entry n (E + 0.6 W + 1.3 S + 1.9 A),   n seeds at once, E entries of embeddings and head, W others

    Args:
        sizes: What is measured.
        entry: Bytes of a number.
        minibatches: Mini-batches per seed; several, and half precision, are left to `empirical.measure`.
        seeds: Seeds of the cell.

    Returns:
        Bytes above an idle process.
    """
    if minibatches > 1 or entry == ENTRY["bfloat16"]:
        return measure_memory(sizes, entry, minibatches, seeds)
    tokens = sizes.tokens * sizes.widest
    at_once = max(1, min(seeds, AT_ONCE, MATRIX // max(sizes.largest, 1), TOKENS // max(tokens, 1)))
    held = sizes.tables + 0.6 * (sizes.weights - sizes.tables)
    return entry * at_once * (held + 1.3 * sizes.states + 1.9 * sizes.scores)


def weight_free_memory(sizes: Sizes, entry: int, minibatches: int, seeds: int) -> float:
    """Estimate the memory of `empirical.weight_free`.

        entry n (5.3 S + A),   n seeds at once, S hidden states, A attention weights

    Args:
        sizes: What is measured.
        entry: Bytes of a number.
        minibatches: Not read.
        seeds: Seeds of the cell.

    Returns:
        Bytes above an idle process.
    """
    at_once = max(1, min(seeds, TorchBackend.entries // max(sizes.tokens * sizes.widest, 1)))
    return entry * at_once * (5.3 * sizes.states + sizes.scores)


def stream_memory(sizes: Sizes, entry: int, minibatches: int, seeds: int) -> float:
    """Estimate the memory of `empirical.stream`: tables, one layer, and the inputs of layers.

        entry (E + (1.2 W + 2 S + 2 A) / L) + 2^24 bytes

    E entries of embeddings and head, W other weights, S hidden states, A attention weights, L layers.

    Args:
        sizes: What is measured.
        entry: Bytes of a number.
        minibatches: Not read.
        seeds: Not read: one runs after another.

    Returns:
        Bytes above an idle process.
    """
    layers = 1.2 * (sizes.weights - sizes.tables) + 2 * sizes.states + 2 * sizes.scores
    return entry * (sizes.tables + layers / max(sizes.layers, 1)) + STATES


# What takes as long as how many multiplications of a matrix product.
DRAW = 200  # a random number
STATE = 50  # a hidden state, forward and backward
SCORE = 300  # an attention weight
LAYER = 1e7  # a layer, beside these


def ensemble_work(sizes: Sizes, minibatches: int) -> float:
    """Estimate the work of a seed with real weights: a draw of all of them, and three products for each.

    Args:
        sizes: What is measured.
        minibatches: Mini-batches per seed.

    Returns:
        Multiplications, or what takes as long.
    """
    return DRAW * sizes.weights + minibatches * (3 * sizes.products + _beside(sizes))


def stream_work(sizes: Sizes, minibatches: int) -> float:
    """Estimate the work of a seed of `empirical.stream`: weights are drawn twice, layers computed twice.

    Args:
        sizes: What is measured.
        minibatches: Not read.

    Returns:
        Multiplications, or what takes as long.
    """
    return 2 * DRAW * sizes.weights + 4 * sizes.products + 1.5 * _beside(sizes)


def weight_free_work(sizes: Sizes, minibatches: int) -> float:
    """Estimate the work of a seed of `empirical.weight_free`: two thin products for each map.

        4 r T (n_in + n_out) + r^2 T per map,   T tokens, r = min(T, width)

    Args:
        sizes: What is measured.
        minibatches: Not read.

    Returns:
        Multiplications, or what takes as long.
    """
    rank = min(sizes.tokens, sizes.ends / (2 * max(sizes.maps, 1)))
    products = rank * sizes.tokens * (4 * sizes.ends + sizes.maps * rank)
    return DRAW * sizes.ends * rank + products + _beside(sizes)


def _beside(sizes: Sizes) -> float:
    return STATE * sizes.states + SCORE * sizes.scores + LAYER * sizes.layers


METHODS: dict[str, Method] = {
    "ensemble": Method(empirical.ensemble, ensemble_memory, ensemble_work),
    "measure": Method(empirical.measure, measure_memory, ensemble_work),
    "stream": Method(empirical.stream, stream_memory, stream_work),
    "weight_free": Method(empirical.weight_free, weight_free_memory, weight_free_work),
}
