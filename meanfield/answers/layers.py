"""How gradients and the residual stream change from layer to layer and with depth."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.ops import Transformer
from meanfield.predict import predict
from meanfield.presets import PRESETS

if TYPE_CHECKING:
    import pandas as pd


def by_layer(df: pd.DataFrame) -> pd.DataFrame:
    """Add up the squared gradients of each layer's parameters.

    Args:
        df: The table of a `meanfield.Prediction`.

    Returns:
        One row per layer, ``stack, layer, grad_sq, grad_norm``; ``stack`` is ``encoder`` or ``decoder`` where
        there are two, and empty otherwise. Layer 0 is the embedding, depth + 1 what follows the last layer.

    Example:
        >>> from meanfield import paper_post_ln
        >>> df = predict(paper_post_ln(width=300, depth=3), tokens=1).df
        >>> down = df[(df.module == "ffn.down") & (df.parameter == "weight")]
        >>> [round(norm, 6) for norm in by_layer(down).grad_norm]
        [10.0, 10.0, 10.0]
    """
    stack = df.module.str.extract(r"^(encoder|decoder)\.", expand=False).fillna("")
    sums = df.assign(stack=stack).groupby(["stack", "layer"], as_index=False)[["grad_sq"]].sum()
    sums = sums.sort_values("stack", ascending=False, kind="stable", ignore_index=True)  # encoder first
    return sums.assign(grad_norm=np.sqrt(sums.grad_sq))


@dataclass(frozen=True, slots=True)
class Growth:
    """How the residual stream grows.

    Attributes:
        placement: Where the norms sit.
        q: Second moment per coordinate after layer 0 (the input), 1, ..., depth.
    """

    placement: str
    q: tuple[float, ...]

    @property
    def norms(self) -> tuple[float, ...]:
        """Root mean square of a coordinate after each layer: the norm of a token over sqrt(width)."""
        return tuple(math.sqrt(q) for q in self.q)

    @property
    def exponent(self) -> float:
        """The a of norm ~ layer^a between the middle and the last layer; 0.5 is growth like sqrt(layer)."""
        last = len(self.q) - 1
        middle = max(1, last // 2)
        return math.log(self.q[last] / self.q[middle]) / (2 * math.log(last / middle))


def residual_growth(arch: Transformer, *, tokens: int, batch: int = 1) -> Growth:
    """Follow the second moment of the residual stream from layer to layer.

        x + N(F(x)):  q_l = q_0 + 2 l, since each of two branches adds exactly 1

    Args:
        arch: The architecture, of two layers or more.
        tokens: Tokens in a sequence.
        batch: Sequences.

    Returns:
        q of every layer, the norms, and the exponent of their growth.

    Raises:
        InputError: If there are fewer than two layers.

    Assumes:
        What `predict` does; with a second stream, the one that the layers read.

    Source:
        xiong2020, Lemma 2, for Pre-LN.

    Example:
        One token in the paper's Pre-LN: q_l = 1 + 3 l / 2.

        >>> from meanfield import paper_pre_ln
        >>> [round(q, 9) for q in residual_growth(paper_pre_ln(width=64, depth=4), tokens=1).q]
        [1.0, 2.5, 4.0, 5.5, 7.0]
    """
    if arch.depth < 2:
        raise InputError(f"depth={arch.depth} shows no growth: give at least 2 layers")
    points = predict(arch, tokens=tokens, batch=batch).activations
    ends = points[points.layer <= arch.depth].groupby("layer").q.last()
    return Growth(arch.placement, tuple(float(q) for q in ends))


@dataclass(frozen=True, slots=True)
class GradientRatio:
    """The spread of the gradient over layers.

    Attributes:
        norms: Gradient norm of all parameters of layers 1, ..., depth.
    """

    norms: tuple[float, ...]

    @property
    def largest(self) -> int:
        """The layer with the largest gradient."""
        return 1 + int(np.argmax(self.norms))

    @property
    def smallest(self) -> int:
        """The layer with the smallest gradient."""
        return 1 + int(np.argmin(self.norms))

    @property
    def ratio(self) -> float:
        """Largest over smallest; infinite if a layer has no gradient at all."""
        return max(self.norms) / min(self.norms) if min(self.norms) else math.inf


def gradient_ratio(arch: Transformer, *, tokens: int, batch: int = 1, loss: str = "linear") -> GradientRatio:
    """Compare the gradients of the layers: the largest over the smallest.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence.
        batch: Sequences.
        loss: Name of the loss, as for `predict`.

    Returns:
        The norms, which layers are extreme, and their ratio.

    Assumes:
        What `predict` does.

    Source:
        xiong2020, Sec. 3.3 and Fig. 3, where the comparison is made.

    Example:
        Post-LN's layers are level for one token.

        >>> from meanfield import paper_post_ln
        >>> round(gradient_ratio(paper_post_ln(width=64, depth=6), tokens=1).ratio, 9)
        1.0
    """
    layers = by_layer(predict(arch, tokens=tokens, batch=batch, loss=loss).df)
    inner = layers[(layers.layer >= 1) & (layers.layer <= arch.depth)]
    return GradientRatio(tuple(float(norm) for norm in inner.grad_norm))


@dataclass(frozen=True, slots=True)
class DepthToShare:
    """At which depth the first layer's gradient falls below a share of the last layer's.

    Attributes:
        share: The share asked for.
        depth: The least depth, or None if there is none up to the longest model tried.
        reached: The share at that depth, or at the longest model.
        tried: Depth of the longest model tried.
    """

    share: float
    depth: int | None
    reached: float
    tried: int

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.depth is None:
            return (
                f"never up to depth {self.tried}: the first layer has {self.reached:.3g} of the last layer's"
            )
        return f"from depth {self.depth}: the first layer has {self.reached:.3g} of the last layer's"


def depth_to_share(
    preset: str,
    share: float,
    *,
    tokens: int,
    of: Literal["parameters", "token"] = "parameters",
    longest: int = 512,
    **options: Any,
) -> DepthToShare:
    """Find the depth from which the first layer's gradient norm is below a share of the last layer's.

        norm(layer 1) < share * norm(layer L)

    Args:
        preset: Name of a preset of one stack.
        share: The share, above 0.
        tokens: Tokens in a sequence.
        of: ``"parameters"``: the norm over all parameters of a layer; ``"token"``: that of the gradient with
            respect to one token's vector behind the layer.
        longest: Depth at which the search ends.
        options: As for the preset, without depth.

    Returns:
        The depth, or the statement that there is none.

    Raises:
        InputError: If the share is not above 0.
        UnknownNameError: If the preset is unknown.

    Assumes:
        What `predict` does; the share falls with depth, once it falls.

    Source:
        xiong2020, App. F, whose factor (2/3)^((L-l)/2) is that of a norm's Jacobian alone.

    Example:
        With aligned tokens Post-LN halves A - B, the part in which a token's gradient differs from its mean
        over tokens. Weights collect all tokens, and see nothing of it.

        >>> print(depth_to_share("paper_post_ln", 0.5, tokens=1, longest=64, width=64))
        never up to depth 64: the first layer has 1 of the last layer's
    """
    if not (math.isfinite(share) and share > 0):
        raise InputError(f"share={share} is no share: give a number above 0, such as 0.1")
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    positive_integer("longest", longest)

    @functools.cache
    def reached(depth: int) -> float:
        prediction = predict(PRESETS[preset](depth=depth, **options), tokens=tokens)
        if of == "token":
            points = prediction.activations
            ends = points[(points.layer >= 1) & (points.layer <= depth)].groupby("layer").q_grad.last()
            return math.sqrt(ends.iloc[0] / ends.iloc[-1])
        norms = by_layer(prediction.df).set_index("layer").grad_norm
        return float(norms[1] / norms[depth])

    depths = [2**k for k in range(1, longest.bit_length()) if 2**k < longest] + [longest]
    below = next((depth for depth in depths if reached(depth) < share), None)
    if below is None:
        return DepthToShare(share, None, reached(longest), longest)
    depth = _least(lambda depth: reached(depth) < share, below // 2 + 1, below)
    return DepthToShare(share, depth, reached(depth), depth)


def _least(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Find the least integer from low to high at which a monotone condition holds; it does at high."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
