"""Means over the coordinates of a token: what LayerNorm subtracts.

Fresh weights of mean 0 leave none. An activation does, and a bias or a shift whose entries have one: token i
is then m_i 1 + what has mean 0, with one number m_i for each token, and its kernel holds m_i m_j.
`Step.mean` carries m, a number per token or one for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.gaussian import dual
from meanfield.moments.state import Kernel, Layout

_ROUNDING = 1e-10


def mean_free(*means: Any) -> bool:
    """Say whether means are 0 for certain, as nearly all are: their terms then cost nothing.

    Args:
        means: m of every token, of several states.

    Returns:
        True where each is the number 0.

    Example:
        >>> mean_free(0.0, 0.0), mean_free(0.0, np.zeros(2))
        (True, False)
    """
    return all(type(mean) is float and mean == 0 for mean in means)


def refuse_mean(what: str, mean: Any, remedy: str) -> None:
    """Refuse coordinates that share a mean where there is no rule for them.

    Args:
        what: What acts on them, for the message.
        mean: m of every token.
        remedy: What to do instead.

    Raises:
        MissingRuleError: If a mean is not 0.
    """
    if not mean_free(mean) and np.any(mean):
        raise MissingRuleError(f"{what} where coordinates share a mean", "moments.forward", remedy)


def products(first: Any, second: Any, layout: Layout) -> Any:
    """Compute a_i b_j of every pair of tokens.

    Args:
        first: a of every token.
        second: b of every token.
        layout: Layout of the tokens.

    Returns:
        A factor for every pair.
    """
    a, _ = layout.pair(first)
    _, b = layout.pair(second)
    return a * b


def activated(activation: str, kernel: Kernel, mean: Any, layout: Layout) -> Kernel:
    """Compute the kernel behind an activation, E[phi(u_i) phi(u_j)].

    Args:
        activation: Name of phi.
        kernel: Kernel of u.
        mean: Mean over coordinates of u.
        layout: Layout of the tokens.

    Returns:
        The kernel.

    Raises:
        MissingRuleError: If u has a mean: its law is then no centred Gaussian.

    Source:
        cho2009, Eq. (3).
    """
    if activation == "identity":
        return kernel
    refuse_mean(activation, mean, "give the bias before it entries of mean 0")
    first, second = layout.pair(layout.own(kernel))
    return dual(activation, first, second, kernel)


def activated_mean(activation: str, kernel: Kernel, mean: Any, layout: Layout) -> Any:
    """Compute the mean over coordinates behind an activation, E phi(u_i).

    Args:
        activation: Name of phi.
        kernel: Kernel of u.
        mean: Mean over coordinates of u.
        layout: Layout of the tokens.

    Returns:
        The mean of every token.

    Source:
        definition.

    Example:
        >>> from meanfield.moments.state import Exchangeable
        >>> mean = activated_mean("relu", np.array([1.0, 0.0, 0.0]), 0.0, Exchangeable(2, 1))
        >>> bool(np.isclose(mean, (2 * np.pi) ** -0.5))
        True
    """
    if activation == "identity":
        return mean
    own = layout.own(kernel)
    # Two coordinates are independent: they give the square of the mean, which no activation has below 0.
    square = dual(activation, own, own, np.zeros_like(own))
    return np.sqrt(np.where(square > _ROUNDING * dual(activation, own, own, own), square, 0.0))
