"""What a cell can be measured with, and what that takes: memory and work, one function of each per method.

A new method is one entry of `METHODS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import empirical
from empirical.measure import Measurement
from empirical.sweep.sizes import Sizes

ENTRY = {"float64": 8, "float32": 4, "bfloat16": 2}  # bytes


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


def ensemble_memory(sizes: Sizes, entry: int, minibatches: int, seeds: int) -> float:
    """Estimate the memory of `empirical.ensemble`.

        entry (2 W + 3 S + 4 A),   W weights, S hidden states, A attention weights; 3 W with mini-batches

    The model and all of its gradients are there at once; states are kept for the backward pass, with their
    gradients.

    Args:
        sizes: What is measured.
        entry: Bytes of a number.
        minibatches: Mini-batches per seed; the mean gradient is one more copy.
        seeds: Seeds of a cell; they run one after another.

    Returns:
        Bytes above an idle process.
    """
    copies = 3 if minibatches > 1 else 2
    return entry * (copies * sizes.weights + 3 * sizes.states + 4 * sizes.scores)


def weight_free_memory(sizes: Sizes, entry: int, minibatches: int, seeds: int) -> float:
    """Estimate the memory of `empirical.weight_free`.

        entry (6 S + 6 A + ends T),   S hidden states, A attention weights, T tokens

    Args:
        sizes: What is measured.
        entry: Bytes of a number.
        minibatches: Not read.
        seeds: Seeds of a cell.

    Returns:
        Bytes above an idle process.
    """
    return entry * (6 * sizes.states + 6 * sizes.scores + sizes.ends * sizes.tokens)


DRAW = 200  # multiplications that take as long as one random number
LAYER = 1e7  # and as one layer takes beside its products


def ensemble_work(sizes: Sizes, minibatches: int) -> float:
    """Estimate the work of a seed of `empirical.ensemble`: a draw of all weights, and three passes.

    Args:
        sizes: What is measured.
        minibatches: Mini-batches per seed.

    Returns:
        Multiplications, or what takes as long.
    """
    return DRAW * sizes.weights + minibatches * (3 * sizes.products + LAYER * sizes.layers)


def weight_free_work(sizes: Sizes, minibatches: int) -> float:
    """Estimate the work of a seed of `empirical.weight_free`: T x T products at both ends of every map.

    Args:
        sizes: What is measured.
        minibatches: Not read.

    Returns:
        Multiplications, or what takes as long.
    """
    pairs = sizes.tokens**2
    return (
        DRAW * sizes.ends * sizes.tokens
        + 4 * pairs * sizes.ends
        + sizes.maps * sizes.tokens**3
        + LAYER * sizes.layers
    )


METHODS: dict[str, Method] = {
    "ensemble": Method(empirical.ensemble, ensemble_memory, ensemble_work),
    "weight_free": Method(empirical.weight_free, weight_free_memory, weight_free_work),
}
