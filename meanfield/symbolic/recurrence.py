"""The map of one layer in the paper's setting, read off the interpreters, and its iteration over depth.

The map is small and exact; iterating it in floating point gives numbers at any depth without giant
expressions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import sympy as sp

from meanfield.claims import Setting
from meanfield.ops import ParameterKey, Transformer
from meanfield.presets import paper_post_ln, paper_pre_ln
from meanfield.symbolic.backward import backward
from meanfield.symbolic.forward import forward
from meanfield.symbolic.state import GradMoments, Moments, Pullback, Trace

Q, N, D = sp.symbols("q n d", positive=True)
RHO = sp.Symbol("rho", nonnegative=True)
A, B = sp.symbols("A B", real=True)
MIXING = (1 + (N - 1) * RHO) / N
PRESETS: dict[str, Callable[..., Transformer]] = {"post": paper_post_ln, "pre": paper_pre_ln}
DOWN = ParameterKey(0, "ffn.down", "weight")


@dataclass(frozen=True, slots=True)
class LayerMap:
    """One layer of the paper's setting at width d, in symbols q, rho, n and, backward, A, B."""

    trace: Trace
    back: Pullback

    @property
    def sublayers(self) -> tuple[Trace, ...]:
        """The traces inside the layer: residual and norm in turn for Post-LN, two residuals for Pre-LN."""
        return self.trace.inner


def layer_map(placement: str, q: sp.Expr, rho: sp.Expr, tokens: sp.Expr) -> LayerMap:
    """Read the map of one layer off the two interpreters.

    Args:
        placement: ``"post"`` or ``"pre"``.
        q: Second moment at the layer's input.
        rho: Correlation of two tokens at the layer's input.
        tokens: Number of tokens.

    Returns:
        The map, with weight gradients of one coordinate (width 1, where d_in is 1).
    """
    block = PRESETS[placement](width=1, depth=1).layers[0].block
    trace = forward(block, Moments(q, rho * q, tokens))
    return LayerMap(trace, backward(block, trace, GradMoments(A, B)))


@dataclass(frozen=True, slots=True)
class Profile:
    """Moments by layer at a setting, for a gradient at the output of unit mean square for every token.

    Args:
        q: Second moment after layer 0 ... L.
        rho: Correlation after layer 0 ... L.
        q_grad: Mean square gradient at the output of layer 0 ... L.
        down: grad_sq of W2 in layer 1 ... L.
    """

    q: list[float]
    rho: list[float]
    q_grad: list[float]
    down: list[float]


@cache
def _functions(placement: str) -> tuple[Callable[..., tuple[float, float]], Callable[..., tuple[float, ...]]]:
    one = layer_map(placement, Q, RHO, N)
    # Rounding may carry a correlation past 1, where the kernels end.
    safe = {"sqrt": lambda x: math.sqrt(max(x, 0.0)), "acos": lambda x: math.acos(min(x, 1.0))}
    after = one.trace.after
    step = sp.lambdify((Q, RHO, N), (after.q, after.cov), modules=[safe, "math"], cse=True)
    grads = (one.back.grad.q_grad, one.back.grad.cov_grad, one.back.grad_sq[DOWN])
    pull = sp.lambdify((Q, RHO, N, A, B), grads, modules=[safe, "math"], cse=True)
    return step, pull


def profile(placement: str, setting: Setting, rho: float = 0.0, cov_grad: float = 0.0) -> Profile:
    """Iterate the layer map forward and back in floating point.

    Token gradients have unit mean square at the output, A = 1; the input has q = 1.

    Args:
        placement: ``"post"`` or ``"pre"``.
        setting: Width, depth and tokens.
        rho: Correlation of two input tokens.
        cov_grad: Product of two token gradients at the output, B: 0 where they are incoherent, 1 where equal.

    Returns:
        The moments by layer.

    Example:
        >>> [round(x, 3) for x in profile("pre", Setting(width=8, depth=2, tokens=1)).down]
        [1.6, 1.0]
    """
    step, pull = _functions(placement)
    n = float(setting.tokens)
    qs, rhos = [1.0], [rho if setting.tokens > 1 else 1.0]
    for _ in range(setting.depth):
        q, cov = step(qs[-1], rhos[-1], n)
        qs.append(q)
        rhos.append(min(cov / q, 1.0))
    scale = 1.0 / qs[-1] if placement == "pre" else 1.0  # the final norm
    a, b = scale, scale * cov_grad
    q_grad, down = [a], []
    for q, r in zip(reversed(qs[:-1]), reversed(rhos[:-1]), strict=True):
        a, b, w = pull(q, r, n, a, b)
        q_grad.append(a)
        down.append(setting.width * w)
    return Profile(qs, rhos, q_grad[::-1], down[::-1])
