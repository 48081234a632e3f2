"""Averages over two rows of softmax weights by another road: slow, without a Hermite series.

    z = sqrt(v) (sqrt(|r|) w + sqrt(1 - |r|) e): given the common w two logits are independent,

so the average over a pair is two averages over e and one over w, on grids that resolve everything.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray
END, LOG_STEP = 8.5, 0.25


def _gauss(variance: float) -> tuple[Array, Array]:
    half = math.ceil(END / min(0.25, 0.5 / math.sqrt(variance)))
    x = np.linspace(-END, END, 2 * half + 1)
    weights = np.exp(-(x**2) / 2)
    return x, weights / weights.sum()


def _tilted(t: Array, z: Array, weights: Array) -> list[Array]:
    """E[exp(a z) exp(-t exp(z))] over the last axis of z for a = 0, 1, 2; each of shape (t, w)."""
    e = np.exp(z)
    damped = np.exp(-t[:, None, None] * e)
    return [(damped * e**a) @ weights for a in (0, 1, 2)]


def pair_averages(n: int, v_u: float, v_v: float, r: float) -> tuple[float, float]:
    """E sum_j a_j a'_j and E sum_j a_j a'_j (1 - a_j - a'_j + sum_l a_l a'_l)."""
    largest = max(v_u, v_v)
    x, weights = _gauss(largest)
    t = np.exp(np.arange(-math.log(n) - largest / 2 - 22, END * math.sqrt(largest) + 4, LOG_STEP))
    common, rest = math.sqrt(abs(r)) * x[:, None], math.sqrt(1 - abs(r)) * x[None, :]
    u = _tilted(t, math.sqrt(v_u) * (common + rest), weights)
    v = _tilted(t, math.sqrt(v_v) * (math.copysign(1.0, r) * common + rest), weights)

    def joint(a: int, b: int) -> Array:
        return (u[a] * weights) @ v[b].T

    dt = t * LOG_STEP
    none, ones = joint(0, 0), joint(1, 1)
    others_but_two = none ** (n - 2)
    others = others_but_two * none
    products = n * (dt @ (ones * others) @ dt)
    thirds = n * ((dt * t) @ (joint(2, 1) * others) @ dt + dt @ (joint(1, 2) * others) @ (dt * t))
    both = n * joint(2, 2) * others + n * (n - 1) * ones**2 * others_but_two
    return float(products), float(products - thirds + (dt * t) @ both @ (dt * t))


def sampled_rows(n: int, v_u: float, v_v: float, r: float, samples: int) -> tuple[Array, Array]:
    """Weights of both rows, drawn; each of shape (samples, n)."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((samples, n))
    other = r * z + math.sqrt(1 - r**2) * rng.standard_normal((samples, n))
    a, b = np.exp(math.sqrt(v_u) * z), np.exp(math.sqrt(v_v) * other)
    return a / a.sum(axis=1, keepdims=True), b / b.sum(axis=1, keepdims=True)
