"""Presets that differ in where their norms sit."""

from __future__ import annotations

from typing import Any

from meanfield.ops import Transformer
from meanfield.presets.builder import stack
from meanfield.presets.options import options_from
from meanfield.presets.placements import PLACEMENTS


def post_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the original Transformer encoder: the norm follows each residual sum.

        x <- N(x + A(x));  x <- N(x + F(x))

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: The fields of `Options`: heads (8), kv_heads, head_size, d_ff (4 width), activation ("relu"),
            norm ("layernorm"), norm_eps (1e-5), attention ("softmax"), causal (False), init
            ("xavier_uniform"), bias (True), dropout (0), vocab (None: the input is vectors) and the others.

    Returns:
        The architecture.

    Raises:
        UnknownNameError: If an option has another name.

    Source:
        vaswani2017, Sec. 3.1; xiong2020, Table 1.

    Example:
        >>> arch = post_ln(width=64, depth=2, heads=4)
        >>> arch.depth, arch.width, arch.feed_forward.up.d_out
        (2, 64, 256)
    """
    return _placed("post_ln", width, depth, options)


def pre_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the Transformer with the norm inside each residual branch and one norm at the end.

        x <- x + A(N(x));  x <- x + F(N(x));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        xiong2020, Table 1.

    Example:
        >>> pre_ln(width=64, depth=2, heads=4).final_norm.name
        'final_norm'
    """
    return _placed("pre_ln", width, depth, options)


def _placed(name: str, width: int, depth: int, options: dict[str, Any]) -> Transformer:
    where = PLACEMENTS[name]
    return stack(where, name=name, width=width, depth=depth, options=options_from(options, init=where.init))
