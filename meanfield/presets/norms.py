"""Presets that differ in where their norms sit."""

from __future__ import annotations

from typing import Any

from meanfield.ops import Transformer
from meanfield.presets.builder import placed


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
    return placed("post_ln", width, depth, options)


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
    return placed("pre_ln", width, depth, options)


def sandwich_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the Transformer with a norm before and after each sub-layer (Sandwich-LN, Peri-LN).

        x <- x + N(A(N(x)));  x <- x + N(F(N(x)));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        ding2021, Sec. 2.4; kim2025, Fig. 2.

    Example:
        >>> [op.name for op in sandwich_ln(width=64, depth=1).layers[0].block.ops[0].branch.ops]
        ['norm1', 'attention', 'norm2']
    """
    return placed("sandwich_ln", width, depth, options)


def branch_norm(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the Transformer with a norm on the output of each branch, and none before it.

        x <- x + N(A(x));  x <- x + N(F(x));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        olmo2024, Sec. 3.2; liu2022swin, Sec. 3.2 (Swin v2).

    Example:
        >>> [op.name for op in branch_norm(width=64, depth=1).layers[0].block.ops[0].branch.ops]
        ['attention', 'norm1']
    """
    return placed("branch_norm", width, depth, options)


def layernorm_scaling(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build Pre-LN with the norm's output divided by the root of the layer's number.

        x <- x + A(N(x) / sqrt(l));  x <- x + F(N(x) / sqrt(l)) in layer l;  out = N(x)

    Not meant together with an initialisation that is scaled by depth, such as ``gpt2``.

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        sun2025, Eq. (12).

    Example:
        >>> arch = layernorm_scaling(width=64, depth=4)
        >>> [round(block.ops[0].branch.ops[1].factor, 3) for _, block in arch.blocks()]
        [1.0, 0.707, 0.577, 0.5]
    """
    return placed("layernorm_scaling", width, depth, options)


def hybrid_norm(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the Transformer with norms on queries, keys and values and one before the feed-forward residual.

        y = x + A(x), with N on q, k and v;  x <- N(y) + F(N(y));  out = N(x)

    The norms on queries, keys and values act on all heads together.

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        zhuo2025, Sec. 3.2.

    Example:
        >>> hybrid_norm(width=64, depth=1).attention.value_norm.name
        'attention.v_norm'
    """
    return placed("hybrid_norm", width, depth, options)


def normformer(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build NormFormer: Pre-LN with head factors, a norm behind attention and one after the activation.

        x <- x + N(A(N(x)));  x <- x + down(N(act(up(N(x)))));  out = N(x)

    Each head has a learned factor, 1 at first, before the output projection, as in the paper; the authors'
    code applies it behind the projection, which differs at initialisation only in the factor's own gradient.

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        shleifer2021, Sec. 2.

    Example:
        >>> normformer(width=64, depth=1, heads=4).attention.inner.width
        4
    """
    return placed("normformer", width, depth, options)


def mix_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build Mix-LN: the first quarter of the layers is Post-LN, the rest Pre-LN.

        x <- N(x + F(x)) for l <= L/4;  x <- x + F(N(x)) for l > L/4;  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        li2024, Sec. 3.

    Example:
        >>> [run.times for run in mix_ln(width=64, depth=12).layers]
        [3, 9]
    """
    return placed("mix_ln", width, depth, options)


def b2t(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build the bottom-to-top connection: Post-LN with the layer's input added before its last norm.

        x' = N(x + A(x));  x <- N(x + x' + F(x'))

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        takase2023, Sec. 4.

    Example:
        >>> [getattr(op, "name", "") for op in b2t(width=64, depth=1).layers[0].block.ops]
        ['residual3', 'norm2']
    """
    return placed("b2t", width, depth, options)


def qk_norm(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build Pre-LN with a norm on the queries and keys of every head.

        scores = N(q) . N(k) / sqrt(head size)

    As an option it goes with every placement: ``qk_norm="head"`` (Qwen 3) or ``"all"`` (OLMo 2).

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        henry2020 (on unit vectors); dehghani2023, Sec. 2 (LayerNorm).

    Example:
        >>> qk_norm(width=64, depth=1, heads=4).attention.query_norm.width
        16
    """
    return placed("pre_ln", width, depth, {"qk_norm": "head", **options}, name="qk_norm")


def parallel(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build Pre-LN with attention and feed-forward op side by side.

        x <- x + A(N(x)) + F(N(x));  out = N(x)

    ``parallel="two_norms"`` gives each of them a norm of its own.

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        wang2021gptj; black2022, Sec. 2.1 (two norms).

    Example:
        >>> len(parallel(width=64, depth=1).layers[0].block.ops)
        1
    """
    return placed("pre_ln", width, depth, {"parallel": True, **options}, name="parallel")


def residual(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build ResiDual: a Post-LN stream x, and beside it a stream r that no norm touches.

        x <- N(x + F(x));  r <- r + F(x);  out = x + N(r)

    Args:
        width: Size of a token.
        depth: Number of layers.
        options: As for `post_ln`, without skip_scale and branch_scale.

    Returns:
        The architecture.

    Source:
        xie2023, Eq. (1).

    Example:
        >>> type(residual(width=64, depth=2).final_norm).__name__
        'Merge'
    """
    return placed("residual", width, depth, options)
