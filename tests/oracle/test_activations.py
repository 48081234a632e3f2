"""Activations and their derivatives against PyTorch's own functions and its automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from meanfield.gaussian.activations import ACTIVATION
from meanfield.ops import ACTIVATIONS

TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "identity": lambda x: x,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "relu_squared": lambda x: functional.relu(x) ** 2,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


def test_every_activation_of_the_ops_is_here() -> None:
    assert set(ACTIVATION) == set(ACTIVATIONS) == set(TORCH)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_derivative_are_those_of_torch(activation: str) -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    expected = TORCH[activation](x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    points = x.detach().numpy()
    value, derivative = (f(points) for f in ACTIVATION[activation])
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(derivative, slope.numpy(), rtol=1e-12, atol=1e-13)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1.05 * derivative, slope.numpy(), rtol=1e-12, atol=1e-13)
