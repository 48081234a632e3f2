"""Closed forms of the dual functions against adaptive quadrature, Price's theorem and hand values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import erf

from meanfield.errors import InputError, UnknownNameError
from meanfield.gaussian import dual, dual_grad


def _relu(x: float) -> float:
    return max(x, 0.0)


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


PHI = {"relu": _relu, "gelu": _gelu}


def _pdf(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _quadrature(activation: str, q_u: float, q_v: float, cov: float) -> float:
    """E[phi(u) phi(v)] by nested adaptive quadrature, split at the kink of relu."""
    phi = PHI[activation]
    slope, rest = cov / q_u, math.sqrt(max(q_v - cov * cov / q_u, 0.0))

    def inner(z: float) -> float:
        u = math.sqrt(q_u) * z
        mean = slope * u
        kink = min(max(-mean / rest, -12.0), 12.0) if rest else 0.0
        f = lambda w: phi(mean + rest * w) * _pdf(w)  # noqa: E731 (the integrand, where it is used)
        return float(quad(f, -12, kink)[0] + quad(f, kink, 12)[0]) * phi(u) * _pdf(z)

    return float(quad(inner, -12, 0, epsabs=1e-11)[0] + quad(inner, 0, 12, epsabs=1e-11)[0])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(
    ("q_u", "q_v", "rho"),
    [(1.0, 1.0, 0.0), (1.0, 1.0, 0.6), (0.5, 2.0, -0.7), (3.0, 0.2, 0.95), (1.0, 4.0, -1.0)],
)
def test_dual_is_the_integral(activation: str, q_u: float, q_v: float, rho: float) -> None:
    cov = rho * math.sqrt(q_u * q_v)
    expected = _quadrature(activation, q_u, q_v, cov)
    assert float(dual(activation, q_u, q_v, cov)) == pytest.approx(expected, abs=1e-9)
    if abs(expected) > 1e-6:
        assert float(dual(activation, q_u, q_v, cov)) != pytest.approx(1.05 * expected, rel=1e-3)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@given(q_u=st.floats(0.05, 20), q_v=st.floats(0.05, 20), rho=st.floats(-0.98, 0.98))
def test_dual_grad_is_the_derivative(activation: str, q_u: float, q_v: float, rho: float) -> None:
    scale = math.sqrt(q_u * q_v)
    cov, h = rho * scale, 1e-5 * scale
    slope = float(dual(activation, q_u, q_v, cov + h) - dual(activation, q_u, q_v, cov - h)) / (2 * h)
    assert float(dual_grad(activation, q_u, q_v, cov)) == pytest.approx(slope, rel=2e-6, abs=1e-8)


def test_known_values() -> None:
    assert float(dual("relu", 1, 1, 0)) == pytest.approx(1 / (2 * math.pi), abs=1e-15)
    assert float(dual("gelu", 1, 1, 1)) == pytest.approx(1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), abs=1e-15)
    assert float(dual_grad("relu", 5, 5, 5)) == 0.5


@given(q=st.floats(0.01, 100), rho=st.floats(-1, 1))
def test_relu_is_homogeneous(q: float, rho: float) -> None:
    assert float(dual("relu", q, q, rho * q)) == pytest.approx(q * float(dual("relu", 1, 1, rho)), rel=1e-12)


def test_arrays_broadcast() -> None:
    assert dual("gelu", 1.0, 1.0, np.linspace(-1, 1, 7)).shape == (7,)


def test_impossible_covariances_and_unknown_names_are_refused() -> None:
    for activation in ("relu", "gelu"):
        with pytest.raises(InputError, match=r"outside \[-1, 1\]"):
            dual(activation, 1.0, 1.0, 1.1)
    with pytest.raises(UnknownNameError, match="accepted are gelu, relu"):
        dual("softplus", 1.0, 1.0, 0.0)


def test_rounding_at_the_edge_is_no_error() -> None:
    assert float(dual("relu", 1.0, 1.0, 1.0 + 1e-13)) == 0.5
