"""Measure one component alone with torch, for `benchmarks.accuracy.components`.

Tokens, weights and gradients of the output are Gaussian, and new for each draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.accuracy.components import COMPONENTS, DRAWS, MEASURED, QUANTITIES, WIDTH, Setting, settings


def _weight(d_in: int, d_out: int, sigma_w_sq: float) -> Tensor:
    return torch.randn(d_in, d_out) * (sigma_w_sq / d_in) ** 0.5


def _linear(x: Tensor, s: Setting) -> Tensor:
    return x @ _weight(WIDTH, s["d_out"], s["sigma_w_sq"]) + s["sigma_b_sq"] ** 0.5 * torch.randn(s["d_out"])


def _activation(x: Tensor, s: Setting) -> Tensor:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu_tanh": lambda u: F.gelu(u, approximate="tanh"),
        "relu_squared": lambda u: F.relu(u).square(),
        "quick_gelu": lambda u: u * torch.sigmoid(1.702 * u),
    }
    name = s["activation"]
    return functions[name](x) if name in functions else getattr(F, name)(x)


def _norm(x: Tensor, s: Setting) -> Tensor:
    function = F.layer_norm if s["norm"] == "layernorm" else F.rms_norm
    return function(x, (WIDTH,), eps=s["eps"])


def _attention(x: Tensor, s: Setting) -> Tensor:
    def split(sigma_w_sq: float) -> Tensor:  # (heads, tokens, head size)
        y = x @ _weight(WIDTH, WIDTH, sigma_w_sq)
        return y.reshape(len(y), s["heads"], -1).transpose(0, 1)

    q, k, v = split(s["sigma_q_sq"]), split(s["sigma_k_sq"]), split(s["sigma_w_sq"])
    weights = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1)  # (heads, tokens, tokens)
    return (weights @ v).transpose(0, 1).flatten(1) @ _weight(WIDTH, WIDTH, 1.0)


RUN: dict[str, Callable[[Tensor, Setting], Tensor]] = {
    "linear": _linear,
    "activation": _activation,
    "norm": _norm,
    "attention": _attention,
}


def _vectors(tokens: int, width: int, q: float, rho: float) -> Tensor:
    """Gaussian tokens (tokens, width) with second moment q per coordinate and correlation rho."""
    return q**0.5 * (rho**0.5 * torch.randn(width) + (1 - rho) ** 0.5 * torch.randn(tokens, width))


def _moments(x: Tensor) -> tuple[float, float]:
    """Mean over tokens of ||x_i||^2, and over pairs of <x_i, x_j>."""
    own, total = float(x.square().sum()), float(x.sum(0).square().sum())
    return own / len(x), (total - own) / (len(x) * (len(x) - 1))


def measured(component: str, s: Setting) -> dict[str, Any]:
    """Return what torch finds, on the mean over draws, with standard errors."""
    draws = []
    for _ in range(DRAWS[component]):
        x = _vectors(s["tokens"], WIDTH, s["q"], s["rho"]).requires_grad_()
        y = RUN[component](x, s)
        gradient = _vectors(s["tokens"], y.shape[1], 1 / y.shape[1], s["rho_grad"])
        (before,) = torch.autograd.grad(y, x, gradient)
        q, cov = _moments(y.detach())
        draws.append((q / y.shape[1], cov / y.shape[1], *_moments(before)))
    table = pd.DataFrame(draws, columns=QUANTITIES)
    return {"component": component, **table.mean(), **table.sem().add_suffix("_se")}


def main() -> None:
    """Measure the components named on the command line, or all, into ``measured/components.csv``."""
    torch.set_num_threads(1)
    console = Console(stderr=True)
    kept = pd.read_csv(MEASURED)
    for component in sys.argv[1:] or COMPONENTS:
        torch.manual_seed(2020)
        rows = [measured(component, s) for s in track(settings(component), component, console=console)]
        others = kept[kept.component != component]
        kept = pd.concat([others, pd.DataFrame(rows)], ignore_index=True)
        kept.to_csv(MEASURED, index=False)


if __name__ == "__main__":
    main()
