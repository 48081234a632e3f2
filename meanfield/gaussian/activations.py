"""The activations phi as numpy functions, each with its derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

_SLOPE, _CUBE = math.sqrt(2 / math.pi), 0.044715  # of the tanh approximation to gelu
_QUICK = 1.702


class Activation(NamedTuple):
    """A function of one variable, elementwise.

    Attributes:
        value: phi.
        derivative: phi', with phi'(0) = 0 at the kink of relu.
    """

    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


def _expit(x: Array) -> Array:
    from scipy.special import expit  # a tenth of a second: not at import

    return np.asarray(expit(x))


def _ndtr(x: Array) -> Array:
    from scipy.special import ndtr  # as above

    return np.asarray(ndtr(x))


def _gelu_grad(x: Array) -> Array:
    return np.asarray(_ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(_SLOPE * (x + _CUBE * x * x * x))))


def _gelu_tanh_grad(x: Array) -> Array:
    gate = np.tanh(_SLOPE * (x + _CUBE * x * x * x))
    return np.asarray(0.5 * (1 + gate + x * (1 - gate**2) * _SLOPE * (1 + 3 * _CUBE * x**2)))


def _gated(steepness: float) -> Activation:
    """Give x s(b x) with the logistic function s: silu for b = 1, quick_gelu for b = 1.702."""

    def derivative(x: Array) -> Array:
        gate = _expit(steepness * x)
        return np.asarray(gate * (1 + steepness * x * (1 - gate)))

    return Activation(lambda x: x * _expit(steepness * x), derivative)


ACTIVATION: dict[str, Activation] = {
    "gelu": Activation(lambda x: x * _ndtr(x), _gelu_grad),
    "gelu_tanh": Activation(_gelu_tanh, _gelu_tanh_grad),
    "identity": Activation(lambda x: x, np.ones_like),
    "quick_gelu": _gated(_QUICK),
    "relu": Activation(lambda x: np.maximum(x, 0.0), lambda x: (x > 0).astype(np.float64)),
    "relu_squared": Activation(lambda x: np.maximum(x, 0.0) ** 2, lambda x: 2 * np.maximum(x, 0.0)),
    "sigmoid": Activation(_expit, lambda x: _expit(x) * _expit(-x)),
    "silu": _gated(1.0),
    "tanh": Activation(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
}
"""Every activation of `meanfield.ops.ACTIVATIONS` by name."""
