"""Presets that scale the residual sum, or its branch, by a constant or a learned factor."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from meanfield.errors import InputError, positive_integer
from meanfield.ops import Number, Transformer
from meanfield.presets.builder import placed
from meanfield.presets.placements import PLACEMENTS, Placement, gated, layer_scale_block, pre_norm


def deepnorm(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build DeepNorm: Post-LN with a skip connection that is scaled up and smaller weights.

        x <- N(alpha x + A(x));  x <- N(alpha x + F(x)),  alpha = (2 L)^(1/4)

    Args:
        width: Size of a token.
        depth: Number of layers, L.
        options: As for `post_ln`; init is ``"deepnorm"``, with gain (8 L)^(-1/4) on v, o, up and down.

    Returns:
        The architecture.

    Source:
        wang2022deepnet, Fig. 2. An encoder-decoder has other constants: `encoder_decoder`.

    Example:
        >>> round(deepnorm(width=64, depth=8).layers[0].block.ops[0].skip_scale, 12)  # 16^(1/4)
        2.0
    """
    return placed("deepnorm", width, depth, options)


def sub_ln(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build Sub-LN (Magneto): Pre-LN with a norm before the output projection and before the second map.

        x <- x + W_o N(mix(N(x)));  x <- x + down(N(act(up(N(x)))));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers, L.
        options: As for `post_ln`; init is ``"sub_ln"``, with gain sqrt(ln 2L) on v, o, up and down.

    Returns:
        The architecture.

    Source:
        wang2022magneto, Fig. 2. An encoder-decoder has other gains: `encoder_decoder`.

    Example:
        >>> sub_ln(width=64, depth=2).feed_forward.inner.name
        'ffn.norm'
    """
    return placed("sub_ln", width, depth, options)


def t_fixup(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build T-Fixup: no norm at all, and smaller weights.

        x <- x + A(x);  x <- x + F(x)

    Args:
        width: Size of a token.
        depth: Number of layers, L.
        options: As for `post_ln`; init is ``"t_fixup"``, with gain 0.67 L^(-1/4) on v, o, up and down.

    Returns:
        The architecture.

    Source:
        huang2020, Sec. 3.2. A decoder has another gain: `encoder_decoder`.

    Example:
        >>> len(t_fixup(width=64, depth=2).layers[0].block.ops)
        2
    """
    return placed("t_fixup", width, depth, options)


def rezero(*, width: int, depth: int, value: Number = 0, **options: Any) -> Transformer:
    """Build ReZero: no norm, and a learned factor on each branch that starts at 0.

        x <- x + a A(x);  x <- x + b F(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        value: What the factors are at first.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        bachlechner2020, Eq. (1); differs by a factor for each branch, where the authors' layers share one.

    Example:
        >>> rezero(width=64, depth=2).layers[0].block.ops[0].branch.ops[1].value
        0
    """
    where = replace(PLACEMENTS["rezero"], block=partial(gated, value=value))
    return placed(where, width, depth, options)


def skipinit(*, width: int, depth: int, value: Number = 0, **options: Any) -> Transformer:
    """Build SkipInit: the form of ReZero, proposed for residual networks without normalisation.

        x <- x + a A(x);  x <- x + b F(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        value: What the factors are at first: 0, or 1/sqrt(number of branches).
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        de2020, Sec. 4.

    Example:
        >>> skipinit(width=64, depth=2, value=0.5).layers[0].block.ops[0].branch.ops[1].value
        0.5
    """
    where = replace(PLACEMENTS["skipinit"], block=partial(gated, value=value))
    return placed(where, width, depth, options)


def layer_scale(*, width: int, depth: int, value: Number | None = None, **options: Any) -> Transformer:
    """Build LayerScale: Pre-LN with a learned factor for each coordinate of each branch.

        x <- x + diag(lambda) A(N(x));  x <- x + diag(lambda) F(N(x));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers.
        value: What lambda is at first; None for 0.1 up to 18 layers, 1e-5 up to 24, 1e-6 beyond.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        touvron2021, Sec. 2.

    Example:
        >>> layer_scale(width=64, depth=24).layers[0].block.ops[0].branch.ops[2].value
        1e-05
    """
    where = replace(PLACEMENTS["layer_scale"], block=partial(layer_scale_block, value=value))
    return placed(where, width, depth, options)


def residual_multiplier(
    *, width: int, depth: int, multiplier: Number | None = None, **options: Any
) -> Transformer:
    """Build Pre-LN with a constant factor on each branch.

        x <- x + m A(N(x));  x <- x + m F(N(x));  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers, L.
        multiplier: m; None for MiniCPM's 1.4 / sqrt(L).
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        hu2024, Sec. 4.1.

    Example:
        >>> round(residual_multiplier(width=64, depth=49).layers[0].block.ops[0].branch_scale, 12)
        0.2
    """
    m = 1.4 * positive_integer("depth", depth) ** -0.5 if multiplier is None else multiplier
    where = Placement("residual_multiplier", partial(pre_norm, scale=m), True, "hu2024")
    return placed(where, width, depth, options)


def deepscale(*, width: int, depth: int, share: float | None = None, **options: Any) -> Transformer:
    """Build the residual form of DeepScaleLM: factors whose squares add to 1.

        x <- lambda x + beta F(N(x)),  lambda^2 + beta^2 = 1;  out = N(x)

    Args:
        width: Size of a token.
        depth: Number of layers, L.
        share: beta^2; None for 1 / (2 L), one over the number of branches. The form is the paper's, this
            value is not.
        options: As for `post_ln`. The paper's initialisation, which depends on measured correlations, is not
            part of it.

    Returns:
        The architecture.

    Raises:
        InputError: If the share is outside [0, 1].

    Source:
        kedia2024, Sec. 4.

    Example:
        >>> sum_ = deepscale(width=64, depth=2).layers[0].block.ops[0]
        >>> round(sum_.skip_scale**2, 12), round(sum_.branch_scale**2, 12)
        (0.75, 0.25)
    """
    beta_sq = 1 / (2 * positive_integer("depth", depth)) if share is None else share
    if not 0 <= beta_sq <= 1:
        raise InputError(f"share={beta_sq} is outside [0, 1]: give beta^2, a number such as 0.1")
    skip, beta = (1 - beta_sq) ** 0.5, beta_sq**0.5
    block = partial(pre_norm, skip=skip, scale=beta)
    return placed(Placement("deepscale", block, True, "kedia2024"), width, depth, options)


def keel(*, width: int, depth: int, **options: Any) -> Transformer:
    """Build Keel: Post-LN with a norm before each sub-layer too, and a skip connection that is scaled up.

        x <- N(alpha x + A(N(x)));  x <- N(alpha x + F(N(x))),  alpha = 2 L

    Args:
        width: Size of a token.
        depth: Number of layers, L.
        options: As for `post_ln`.

    Returns:
        The architecture.

    Source:
        chen2026; alpha is the number of sub-layers. One implementation makes the first layer Pre-LN.

    Example:
        >>> keel(width=64, depth=6).layers[0].block.ops[0].skip_scale
        12
    """
    return placed("keel", width, depth, options)
