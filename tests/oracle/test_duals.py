"""Dual functions against quadrature in two dimensions, Price's theorem and hand values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from meanfield.errors import InputError, UnknownNameError
from meanfield.gaussian import dual, dual_grad
from meanfield.gaussian.activations import ACTIVATION
from meanfield.ops import ACTIVATIONS

SERIES = ["gelu_tanh", "quick_gelu", "sigmoid", "silu", "tanh"]


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


PHI: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "identity": lambda x: x,
    "quick_gelu": lambda x: x * _logistic(1.702 * x),
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
    "sigmoid": _logistic,
    "silu": lambda x: x * _logistic(x),
    "tanh": math.tanh,
}
PAIRS = [(1.0, 1.0, 0.0), (1.0, 1.0, 0.6), (0.5, 2.0, -0.7), (3.0, 0.2, 0.95), (1.0, 4.0, -1.0)]


def _pdf(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _adaptive(activation: str, q_u: float, q_v: float, cov: float) -> float:
    """E[phi(u) phi(v)] by nested adaptive quadrature, split at the kink of relu."""
    phi = PHI[activation]
    slope, rest = cov / q_u, math.sqrt(max(q_v - cov * cov / q_u, 0.0))

    def inner(z: float) -> float:
        u = math.sqrt(q_u) * z
        mean = slope * u
        if rest < 1e-9:
            return phi(mean) * phi(u) * _pdf(z)
        kink = min(max(-mean / rest, -10.0), 10.0)
        f = lambda w: phi(mean + rest * w) * _pdf(w)  # noqa: E731 (the integrand, where it is used)
        return (
            float(quad(f, -10, kink, epsabs=1e-10)[0] + quad(f, kink, 10, epsabs=1e-10)[0]) * phi(u) * _pdf(z)
        )

    return float(quad(inner, -10, 0, epsabs=1e-10)[0] + quad(inner, 0, 10, epsabs=1e-10)[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("q_u", "q_v", "rho"), PAIRS)
def test_dual_is_the_integral(activation: str, q_u: float, q_v: float, rho: float) -> None:
    cov = rho * math.sqrt(q_u * q_v)
    expected = _adaptive(activation, q_u, q_v, cov)
    assert float(dual(activation, q_u, q_v, cov)) == pytest.approx(expected, abs=1e-9)
    if abs(expected) > 1e-6:
        assert float(dual(activation, q_u, q_v, cov)) != pytest.approx(1.05 * expected, rel=1e-3)


def _dense(activation: str, which: int, q_u: float, q_v: float, rho: float) -> float:
    """E[phi(u) phi(v)], or of phi', by the trapezoid rule in two dimensions; it resolves the poles of phi."""
    step = min(0.15, 0.3 / math.sqrt(max(q_u, q_v)))
    x = np.arange(-9, 9 + step, step)
    weights = step * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    phi = ACTIVATION[activation][which]  # which tests/oracle/test_activations.py compares with PyTorch
    v = math.sqrt(q_v) * (rho * x[:, None] + math.sqrt(1 - rho**2) * x)
    return float(weights * phi(math.sqrt(q_u) * x) @ phi(v) @ weights)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("activation", SERIES)
@pytest.mark.parametrize(
    ("q_u", "q_v"), [(1e-4, 1e-4), (0.03, 0.03), (1.0, 1.0), (10.0, 10.0), (1e-3, 5.0), (2.0, 35.0)]
)
def test_a_series_keeps_ten_digits(activation: str, which: int, q_u: float, q_v: float) -> None:
    """The error is measured as the docstring states it: beside the largest value that a correlation gives."""
    scale = math.sqrt(_dense(activation, which, q_u, q_u, 1.0) * _dense(activation, which, q_v, q_v, 1.0))
    rho = np.array([-1.0, -0.99, -0.3, 0.0, 0.7, 0.9999, 1.0])
    expected = np.array([_dense(activation, which, q_u, q_v, r) for r in rho])
    found = (dual, dual_grad)[which](activation, q_u, q_v, rho * math.sqrt(q_u * q_v))
    assert (np.abs(found - expected) < 2e-10 * scale).all()
    assert (np.abs(1.05 * found - expected) > 2e-10 * scale)[[0, -1]].all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(q_u=st.floats(0.05, 20), q_v=st.floats(0.05, 20), rho=st.floats(-0.98, 0.98))
def test_dual_grad_is_the_derivative(activation: str, q_u: float, q_v: float, rho: float) -> None:
    scale = math.sqrt(q_u * q_v)
    cov, h = rho * scale, 1e-5 * scale
    slope = float(dual(activation, q_u, q_v, cov + h) - dual(activation, q_u, q_v, cov - h)) / (2 * h)
    assert float(dual_grad(activation, q_u, q_v, cov)) == pytest.approx(slope, rel=3e-6, abs=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_gram_matrix_is_what_its_entries_are(activation: str) -> None:
    x = np.random.default_rng(0).standard_normal((9, 12)) * np.linspace(0.2, 2, 9)[:, None]
    cov = x @ x.T / 12
    q = np.diag(cov)
    for function in (dual, dual_grad):
        matrix = function(activation, q[:, None], q[None, :], cov)
        entries = [[float(function(activation, q[i], q[j], cov[i, j])) for j in range(9)] for i in range(9)]
        np.testing.assert_allclose(matrix, entries, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
        assert np.linalg.eigvalsh(matrix).min() > -1e-8


def test_known_values() -> None:
    assert float(dual("relu", 1, 1, 0)) == pytest.approx(1 / (2 * math.pi), abs=1e-15)
    assert float(dual("gelu", 1, 1, 1)) == pytest.approx(1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), abs=1e-15)
    assert float(dual_grad("relu", 5, 5, 5)) == 0.5
    assert float(dual("relu_squared", 2, 2, 2)) == pytest.approx(6.0)  # half of E x^4 = 3 q^2
    assert float(dual("relu_squared", 1, 1, 0)) == pytest.approx(0.25)  # (E relu^2)^2
    assert float(dual_grad("relu_squared", 3, 3, 3)) == pytest.approx(6.0)  # 4 E relu^2
    assert float(dual("identity", 2, 3, -1.5)) == -1.5
    assert float(dual("sigmoid", 4, 1, 0)) == pytest.approx(0.25, abs=1e-12)  # odd beside 1/2
    assert float(dual("tanh", 4, 1, 0)) == pytest.approx(0.0, abs=1e-12)
    assert float(dual("silu", 0, 0, 0)) == 0.0


@given(q=st.floats(0.01, 100), rho=st.floats(-1, 1))
def test_relu_is_homogeneous(q: float, rho: float) -> None:
    assert float(dual("relu", q, q, rho * q)) == pytest.approx(q * float(dual("relu", 1, 1, rho)), rel=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_arrays_broadcast(activation: str) -> None:
    for function in (dual, dual_grad):
        assert function(activation, 1.0, 1.0, np.linspace(-1, 1, 7)).shape == (7,)
        assert function(activation, np.ones((3, 1)), np.ones((1, 2)), 0.5).shape == (3, 2)


def test_impossible_values_and_unknown_names_are_refused() -> None:
    for activation in ACTIVATIONS:
        for cov in (1.1, -1.1, float("nan")):
            with pytest.raises(InputError, match=r"outside \[-1, 1\]"):
                dual(activation, 1.0, 1.0, cov)
        with pytest.raises(InputError, match="negative"):
            dual_grad(activation, -1.0, 1.0, 0.0)
    with pytest.raises(InputError, match="outside"):
        dual("relu", 0.0, 1.0, 0.5)
    with pytest.raises(UnknownNameError, match="accepted are gelu, gelu_tanh"):
        dual("softplus", 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("activation", "limit"),
    [("tanh", 40), ("quick_gelu", 55), ("gelu_tanh", 123), ("silu", 160), ("sigmoid", 160)],
)
def test_a_series_refuses_what_it_cannot_average(activation: str, limit: float) -> None:
    scale = _dense(activation, 1, limit, limit, 1.0)
    assert float(dual_grad(activation, limit, limit, limit)) == pytest.approx(scale, rel=1e-9)
    with pytest.raises(InputError, match=f"second moment {limit + 1} is above {limit}"):
        dual(activation, limit + 1, 1.0, 0.0)


def test_rounding_at_the_edge_is_no_error() -> None:
    assert float(dual("relu", 1.0, 1.0, 1.0 + 1e-13)) == 0.5
