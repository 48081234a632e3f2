"""Non-linearities with their slopes, over any array namespace."""

from __future__ import annotations

import math
from collections.abc import Callable

from meanfield.weight_free.backend import Array, Backend


def activate(activation: str, u: Array, backend: Backend) -> tuple[Array, Array]:
    """Evaluate phi(u).

    Args:
        activation: One of `meanfield.ops.ACTIVATIONS`.
        u: Where.
        backend: Whose arrays.

    Returns:
        The value, and what `activate_back` needs.

    Example:
        >>> import numpy as np
        >>> value, saved = activate("sigmoid", np.zeros(1), Backend())
        >>> value.tolist(), activate_back("sigmoid", saved, np.ones(1), Backend()).tolist()
        ([0.5], [0.25])
    """
    if activation in backend.fused:
        return backend.fused[activation][0](u), u
    return _RULES[activation](u, backend)


def activate_back(activation: str, saved: Array, g: Array, backend: Backend) -> Array:
    """Multiply a gradient by phi'(u); at a kink by the left slope, as automatic differentiation does.

    Args:
        activation: One of `meanfield.ops.ACTIVATIONS`.
        saved: From `activate`.
        g: The gradient of the value.
        backend: Whose arrays.

    Returns:
        g phi'(u).
    """
    return backend.fused[activation][1](g, saved) if activation in backend.fused else g * saved


def _identity(u: Array, backend: Backend) -> tuple[Array, Array]:
    return u, backend.xp.ones_like(u)


def _relu(u: Array, backend: Backend) -> tuple[Array, Array]:
    slope = backend.xp.astype(u > 0, u.dtype)
    return u * slope, slope


def _relu_squared(u: Array, backend: Backend) -> tuple[Array, Array]:
    positive, _ = _relu(u, backend)
    return positive * positive, 2 * positive


def _sigmoid(u: Array, backend: Backend) -> tuple[Array, Array]:
    value = 0.5 * (1 + backend.xp.tanh(0.5 * u))
    return value, value * (1 - value)


def _tanh(u: Array, backend: Backend) -> tuple[Array, Array]:
    value = backend.xp.tanh(u)
    return value, 1 - value * value


def _sigmoid_gated(factor: float) -> Callable[[Array, Backend], tuple[Array, Array]]:
    """The product u sigmoid(factor u): SiLU for 1, quick-GELU for 1.702."""

    def rule(u: Array, backend: Backend) -> tuple[Array, Array]:
        gate, slope = _sigmoid(factor * u, backend)
        return u * gate, gate + factor * u * slope

    return rule


def _gelu(u: Array, backend: Backend) -> tuple[Array, Array]:
    gate = 0.5 * (1 + backend.erf(u * 0.5**0.5))
    return u * gate, gate + u * backend.xp.exp(-0.5 * u * u) * (2 * math.pi) ** -0.5


def _gelu_tanh(u: Array, backend: Backend) -> tuple[Array, Array]:
    a = (2 / math.pi) ** 0.5
    t = backend.xp.tanh(a * (u + 0.044715 * u * u * u))
    return 0.5 * u * (1 + t), 0.5 * (1 + t) + 0.5 * a * u * (1 - t * t) * (1 + 3 * 0.044715 * u * u)


_RULES: dict[str, Callable[[Array, Backend], tuple[Array, Array]]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "identity": _identity,
    "quick_gelu": _sigmoid_gated(1.702),
    "relu": _relu,
    "relu_squared": _relu_squared,
    "sigmoid": _sigmoid,
    "silu": _sigmoid_gated(1.0),
    "tanh": _tanh,
}
