"""One component alone at many random settings: what the theory says of the moments before and after it.

The errors have the layout in which others state the accuracy of such formulas: percentiles over settings of
the error of the forward variance, forward covariance, gradient variance and gradient covariance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meanfield import ops
from meanfield.gaussian import dual, dual_grad
from meanfield.moments.backward import backward
from meanfield.moments.forward import forward
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable

WIDTH, SETTINGS = 512, 100
# The linear map is exact up to O(1/d): 100 draws leave a standard error above the error that others state.
DRAWS = {"linear": 400, "activation": 100, "norm": 100, "attention": 100}
MEASURED = Path(__file__).parent / "measured" / "components.csv"
QUANTITIES = ["q", "cov", "q_grad", "cov_grad"]
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh", "relu_squared", "quick_gelu", "sigmoid")
Setting = dict[str, Any]
Values = tuple[float, float, float, float]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


COMPONENTS: dict[str, Callable[[np.random.Generator], Setting]] = {
    "linear": lambda rng: {
        "d_out": int(rng.choice([256, 512, 1024])),
        "sigma_w_sq": _log_uniform(rng, 0.25, 4),
        "sigma_b_sq": float(rng.choice([0, 0.1, 1])),
    },
    "activation": lambda rng: {"activation": str(rng.choice(ACTIVATIONS))},
    "norm": lambda rng: {
        "norm": str(rng.choice(["layernorm", "rmsnorm"])),
        "eps": float(rng.choice([1e-12, 1e-5])),
    },
    "attention": lambda rng: {
        "heads": int(rng.choice([4, 8, 16])),
        "sigma_w_sq": _log_uniform(rng, 0.25, 4),
        "sigma_q_sq": _log_uniform(rng, 0.25, 1.5),
        "sigma_k_sq": _log_uniform(rng, 0.25, 1.5),
    },
}


def settings(component: str) -> list[Setting]:
    """Return the random settings of a component, always the same."""
    rng = np.random.default_rng([2020, *map(ord, component)])
    return [
        {
            "tokens": int(rng.choice([8, 16, 32, 64])),
            "q": _log_uniform(rng, 0.5, 2),
            "rho": float(rng.uniform(0, 0.9)),
            "rho_grad": float(rng.uniform(0, 0.9)),
            **COMPONENTS[component](rng),
        }
        for _ in range(SETTINGS)
    ]


def _op(component: str, s: Setting) -> ops.Op:
    def linear(d_out: int, sigma_w_sq: float, sigma_b_sq: float = 0.0) -> ops.Linear:
        return ops.Linear(WIDTH, d_out, ops.Draw(sigma_w_sq / WIDTH), ops.Draw(sigma_b_sq))

    if component == "linear":
        return linear(s["d_out"], s["sigma_w_sq"], s["sigma_b_sq"])
    if component == "norm":
        return ops.Norm("norm", WIDTH, s["norm"], s["eps"])
    return ops.Attention(
        "attention",
        "softmax",
        s["heads"],
        s["heads"],
        linear(WIDTH, s["sigma_w_sq"]),
        query=linear(WIDTH, s["sigma_q_sq"]),
        key=linear(WIDTH, s["sigma_k_sq"]),
        output=linear(WIDTH, 1.0),
        score_scale=(WIDTH / s["heads"]) ** -0.5,
    )


def predicted(component: str, s: Setting) -> Values:
    """Return what the theory finds: the limit of infinite width."""
    layout = Exchangeable(tokens=s["tokens"], batch=1)
    kernel = np.array([s["q"], s["q"] * s["rho"], 0.0])
    gradient = np.array([1.0, s["rho_grad"], 0.0])
    if component == "activation":
        after = dual(s["activation"], s["q"], s["q"], kernel)
        before = gradient * dual_grad(s["activation"], s["q"], s["q"], kernel)
    else:
        op = _op(component, s)
        step = forward(op, kernel, layout)
        after, before = step.after, backward(op, step, gradient, layout, Record())
    return float(after[0]), float(after[1]), float(before[0]), float(before[1])


def errors(component: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return |predicted - measured| over the variance of the same pass, and its standard error.

    Args:
        component: A key of `COMPONENTS`.
        table: Measured values of its settings, in order; columns `QUANTITIES` and the same with ``_se``.

    Returns:
        The same columns, one row per setting.
    """
    theory = np.array([predicted(component, s) for s in settings(component)])  # (settings, quantities)
    variance = table[["q", "q", "q_grad", "q_grad"]].to_numpy()
    errors_se = [f"{quantity}_se" for quantity in QUANTITIES]
    found = pd.DataFrame(np.abs(theory - table[QUANTITIES]) / variance, columns=QUANTITIES)
    found[errors_se] = table[errors_se].to_numpy() / variance
    return found
