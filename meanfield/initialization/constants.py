"""Published constants that depend on the depths of the stacks."""

from __future__ import annotations

import math

from meanfield.initialization.sizes import Sizes


def deepnorm_constants(sizes: Sizes) -> tuple[float, float]:
    """Factor on the skip connection and gain of the initialisation of DeepNorm.

        one stack of L layers:  alpha = (2 L)^(1/4),            beta = (8 L)^(-1/4)
        encoder of N layers:    alpha = 0.81 (N^4 M)^(1/16),    beta = 0.87 (N^4 M)^(-1/16)
        decoder of M layers:    alpha = (3 M)^(1/4),            beta = (12 M)^(-1/4)

    Args:
        sizes: The sizes of the stack.

    Returns:
        alpha and beta.

    Source:
        wang2022deepnet, Fig. 2.

    Example:
        >>> alpha, beta = deepnorm_constants(Sizes(512, 512, 2048, depth=8))
        >>> round(alpha, 12), round(1 / beta**2, 12)
        (2.0, 8.0)
    """
    if sizes.stack == "encoder":
        product = sizes.depth**4 * sizes.decoder_depth
        return 0.81 * product ** (1 / 16), 0.87 * product ** (-1 / 16)
    if sizes.stack == "decoder":
        return (3 * sizes.depth) ** 0.25, (12 * sizes.depth) ** -0.25
    return (2 * sizes.depth) ** 0.25, (8 * sizes.depth) ** -0.25


def sub_ln_gain(sizes: Sizes) -> float:
    """Gain of the initialisation of Sub-LN.

        one stack of L layers:  sqrt(ln 2L)
        encoder of N layers:    sqrt(ln(3M) ln(2N) / 3)
        decoder of M layers:    sqrt(ln 3M)

    Args:
        sizes: The sizes of the stack.

    Returns:
        The gain.

    Source:
        wang2022magneto, Fig. 2.

    Example:
        >>> round(sub_ln_gain(Sizes(512, 512, 2048, depth=6)) ** 2 / math.log(12), 12)
        1.0
    """
    decoder = math.log(3 * sizes.decoder_depth)
    if sizes.stack == "encoder":
        return math.sqrt(decoder * math.log(2 * sizes.depth) / 3)
    return math.sqrt(decoder if sizes.stack == "decoder" else math.log(2 * sizes.depth))


def t_fixup_gain(sizes: Sizes) -> tuple[float, float]:
    """Gains of the initialisation of T-Fixup: of the layers, and of the embeddings.

        encoder of N layers:  0.67 N^(-1/4);  decoder of M layers:  (9 M)^(-1/4);  embeddings:  (9 M)^(-1/4)

    A stack alone is an encoder, with M = N.

    Args:
        sizes: The sizes of the stack.

    Returns:
        The gain on value, output and feed-forward weights, and that on embeddings.

    Source:
        huang2020, Sec. 3.2.

    Example:
        >>> layers, embeddings = t_fixup_gain(Sizes(512, 512, 2048, depth=9, stack="decoder"))
        >>> round(layers**-2, 12), layers == embeddings
        (9.0, True)
    """
    embeddings = (9 * sizes.decoder_depth) ** -0.25
    return (embeddings if sizes.stack == "decoder" else 0.67 * sizes.depth**-0.25), embeddings
