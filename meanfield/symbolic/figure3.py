"""Theory's side of Figure 3: gradients by layer, and of the last layer by depth."""

from __future__ import annotations

import math
from itertools import pairwise

import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.ops import Sequential
from meanfield.presets import paper_post_ln
from meanfield.symbolic.backward import backward
from meanfield.symbolic.checks import instances, proved
from meanfield.symbolic.extension import down_by_layer
from meanfield.symbolic.forward import forward
from meanfield.symbolic.recurrence import DOWN, MIXING, RHO, A, B, N, Q, layer_map, profile
from meanfield.symbolic.state import GradMoments, Moments, Pullback, Trace

DEPTHS = (6, 8, 10, 12, 14)
MU = sp.Symbol("mu", positive=True)  # second moment of what cross-attention adds to every token


def _decoder_sublayers() -> tuple[tuple[Trace, Pullback], ...]:
    """Return self-attention, cross-attention and feed-forward of a Post-LN decoder layer: there and back."""
    ops = paper_post_ln(width=1, depth=1).layers[0].block.ops

    def both(op: Sequential, before: Moments) -> tuple[Trace, Pullback]:
        trace = forward(op, before)
        return trace, backward(op, trace, GradMoments(A, B))

    tokens = Moments(sp.Integer(1), RHO, N)
    # Uniform cross-attention adds one vector, the mean of the encoder's values, to all tokens. It does not
    # depend on them: what comes back to them goes through the norm and the skip connection alone.
    added = Moments(1 + MU, RHO + MU, N)
    return (
        both(Sequential(ops[:2]), tokens),
        both(Sequential(ops[1:2]), added),
        both(Sequential(ops[2:]), tokens),
    )


def decoder_growth(depth: int, tokens: int, mu: float) -> list[float]:
    """Iterate a Post-LN decoder: the factor in E||dL/dW2||^2 from each layer to the next.

        self-attention, then x <- LN(x + mean of the encoder's values), then the feed-forward sub-layer

    Args:
        depth: Number of layers.
        tokens: Number of tokens.
        mu: Second moment of the mean of the encoder's values, at most 1.

    Returns:
        depth - 1 factors, from the first layer up.

    Assumes:
        Uniform attention without mask; the encoder's output given; incoherent gradients at the output.

    Source:
        xiong2020, Fig. 3(a) (the setting).

    Example:
        Without cross-attention a layer of one token keeps the gradient; with mu = 1 it is halved.

        >>> [round(factor, 12) for factor in decoder_growth(3, 1, 1.0)]
        [2.0, 2.0]
    """
    maps = []
    for trace, back in _decoder_sublayers():
        moved = sp.lambdify((RHO, MU, N), trace.after.cov, "math", cse=True)
        grads = (back.grad.q_grad, back.grad.cov_grad, back.grad_sq.get(DOWN, sp.Integer(0)))
        maps.append((moved, sp.lambdify((RHO, MU, N, A, B), grads, "math", cse=True)))
    rho, seen = 0.0 if tokens > 1 else 1.0, []
    for _ in range(depth):
        for moved, pull in maps:
            seen.append((rho, pull))
            rho = min(moved(rho, mu, tokens), 1.0)
    a, b, above, growth = 1.0, 0.0, 0.0, []
    for at, pull in reversed(seen):
        a, b, down = pull(at, mu, tokens, a, b)
        if down:  # the feed-forward sub-layer, the first one on the way back
            growth.append(above / down)
            a, b, above = a / down, b / down, 1.0  # no underflow at any depth
    return growth[:0:-1]


def post_ln_shapes(depth: int, tokens: int) -> dict[str, list[float]]:
    """Iterate W2's gradient over the two stacks of a Post-LN encoder-decoder, relative to each last layer.

        (E||dL/dW^{2,l}||_F^2 / E||dL/dW^{2,L}||_F^2)^(1/2),  l = 1 ... L

    Args:
        depth: Layers of each stack.
        tokens: Tokens in a sequence of each.

    Returns:
        The ratios, by stack.

    Assumes:
        Uniform attention without mask; incoherent gradients at the decoder's output.

    Source:
        xiong2020, Fig. 3(a) (the setting).

    Example:
        One token: the encoder is level, and cross-attention halves the square in each layer of the decoder.

        >>> {stack: [round(x**2, 9) for x in shape] for stack, shape in post_ln_shapes(3, 1).items()}
        {'encoder': [1.0, 1.0, 1.0], 'decoder': [0.25, 0.5, 1.0]}
    """
    # Uniform cross-attention hands the same gradient to every token of the encoder's output.
    encoder = profile("post", Setting(2, depth, tokens), cov_grad=1.0)
    mu = (1 + (tokens - 1) * encoder.rho[-1]) / tokens
    decoder = [1.0]
    for factor in reversed(decoder_growth(depth, tokens, mu)):
        decoder.append(decoder[-1] / math.sqrt(factor))
    return {
        "encoder": [math.sqrt(down / encoder.down[-1]) for down in encoder.down],
        "decoder": decoder[::-1],
    }


def by_layer(setting: Setting) -> Derivation:
    """Derive the profile of W2 gradients over layers for both placements.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Fig. 3(a), 3(b).
    """
    post, pre = profile("post", setting), profile("pre", setting)
    grid = [Setting(2, 6, n) for n in (1, 2, 4, 16, 64, 1000)]
    tokens = [profile("post", s).q_grad for s in grid[1:]]
    fall = [profile("pre", s).down for s in grid]
    level = [profile("post", s).down for s in grid]
    attention, cross, feed_forward = _decoder_sublayers()
    # Uniform cross-attention adds the mean of the encoder's tokens, whose second moment is their mixing m.
    memory = [(1 + (s.tokens - 1) * profile("post", s).rho[-1]) / s.tokens for s in grid]
    decoders = [decoder_growth(6, s.tokens, mu) for s, mu in zip(grid, memory, strict=True)]
    mu = (1 + (setting.tokens - 1) * post.rho[-1]) / setting.tokens
    six = decoder_growth(6, setting.tokens, mu)
    return Derivation(
        steps=(
            instances(
                r"\text{Post-LN, } n = 1: \quad E\|\frac{\partial L}{\partial W^{2,l}}\|_F^2 ="
                r" \frac{d}{3}",
                "every layer of a stack of 6",
                (value == sp.Rational(1, 3) for value in down_by_layer("post", 6)),
            ),
            instances(
                r"\text{Post-LN, } L = 6: \quad \frac{4}{5} < \frac{E\|\partial L/\partial W^{2,l}\|^2}"
                r"{E\|\partial L/\partial W^{2,L}\|^2} < \frac{7}{5}",
                "n = 1, 2, 4, 16, 64, 1000: level, not growing with l",
                (4 / 5 < value / down[-1] < 7 / 5 for down in level for value in down),
                "floating-point recurrence",
            ),
            instances(
                r"\text{Post-LN, } n > 1: \quad A_L > A_{L-1} > A_{L-2}",
                "the gradient of a token does grow towards the output, n = 2, 4, 16, 64, 1000",
                (a[-1] > a[-2] > a[-3] for a in tokens),
                "floating-point recurrence",
            ),
            proved(
                r"\text{Post-LN decoder, cross-attention: } A \to \frac{A}{1 + \mu}, \quad"
                r" B \to \frac{B}{1 + \mu}",
                "interpreter: its branch leads to the encoder, so the norm takes and nothing gives back",
                cross[1].grad.q_grad - A / (1 + MU),
                cross[1].grad.cov_grad - B / (1 + MU),
            ),
            proved(
                r"\text{Post-LN, } \rho = 1: \quad A + (n-1) B \text{ is kept by the other sub-layers}",
                "interpreter: so each decoder layer multiplies the squared gradient by 1/(1 + mu)",
                *(
                    (back.grad.q_grad + (N - 1) * back.grad.cov_grad - A - (N - 1) * B).subs(RHO, 1)
                    for _, back in (attention, feed_forward)
                ),
            ),
            instances(
                r"\text{Post-LN decoder, } L = 6: \quad"
                r" \frac{E\|\partial L/\partial W^{2,l+1}\|^2}{E\|\partial L/\partial W^{2,l}\|^2}"
                r" \approx 1 + \mu",
                "n = 1, 2, 4, 16, 64, 1000, encoder of 6 layers: within 15 %, so it grows with l",
                (
                    abs(factor / (1 + added) - 1) < 0.15
                    for factors, added in zip(decoders, memory, strict=True)
                    for factor in factors
                ),
                "floating-point recurrence",
            ),
            instances(
                r"\text{Pre-LN, } n = 1: \quad E\|\frac{\partial L}{\partial W^{2,l}}\|_F^2 ="
                r" \frac{d}{2 + 3l}",
                "every layer of a stack of 6",
                (
                    value == sp.Rational(1, 2 + 3 * l_)
                    for l_, value in enumerate(down_by_layer("pre", 6), start=1)
                ),
            ),
            instances(
                r"\text{Pre-LN: } E\|\frac{\partial L}{\partial W^{2,l}}\|_F^2"
                r" \text{ falls from every layer to the next}",
                "n = 1, 2, 4, 16, 64, 1000",
                (first > second for down in fall for first, second in pairwise(down)),
                "floating-point recurrence",
            ),
        ),
        result=r"\|\frac{\partial L}{\partial W^{2,l}}\|_F: \quad \text{Post-LN decoder }"
        r" \sim (1 + \mu)^{l/2}; \quad \text{Post-LN encoder level}; \quad \text{Pre-LN }"
        r" \sim (1 + \frac{3l}{2})^{-1/2}",
        verdict="holds_under",
        condition="layers with cross-attention: in a Post-LN decoder its branch leads to the encoder, so "
        "each layer divides the squared gradient by $1 + \\mu$, about 2. In a single stack, the setting of "
        "the theory, Post-LN's $W^2$ gradient is level for every $n$ (exactly for $n = 1$); only the "
        "gradient of a single token grows with $l$. Pre-LN is not level: it falls by "
        "$\\sqrt{10/2.5} = 2$ from layer 1 to 6 for $n = 1$ (the paper's own bars: about 0.55 to 0.29). "
        "The part after warm-up is about training",
        numbers={
            "post_first_over_last": math.sqrt(post.down[0] / post.down[-1]),
            "post_token_first_over_last": math.sqrt(post.q_grad[1] / post.q_grad[-1]),
            "pre_first_over_last": math.sqrt(pre.down[0] / pre.down[-1]),
            "post_decoder_6_over_1": math.sqrt(math.prod(six)),
            "post_decoder_mu": mu,
            "pre_first_over_last_one_token": math.sqrt((1 + 1.5 * setting.depth) / 2.5),
        },
    )


def by_depth(setting: Setting) -> Derivation:
    """Derive the W2 gradient of the last layer against depth for both placements.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Fig. 3(c), 3(d).
    """
    post = layer_map("post", sp.Integer(1), RHO, N).back.grad_sq[DOWN]
    pre = layer_map("pre", Q, RHO, N)
    runs = {depth: profile("pre", Setting(setting.width, depth, setting.tokens)) for depth in DEPTHS}
    lasts = [runs[depth].down[-1] for depth in DEPTHS]
    level = 2 * 16**2 / 3  # d n^2 / 3, reached at rho = 1
    below = [1 - profile("post", Setting(2, L, 16), cov_grad=1.0).down[-1] / level for L in DEPTHS]
    return Derivation(
        steps=(
            proved(
                r"\text{Post-LN: } E\|\frac{\partial L}{\partial W^{2,L}}\|_F^2 = \frac{d}{3} n A_L",
                "interpreter, incoherent token gradients: neither L nor the correlation enters",
                post.subs(B, 0) - N * A / 3,
            ),
            proved(
                r"\text{Pre-LN: } E\|\frac{\partial L}{\partial W^{2,L}}\|_F^2 = \frac{d}{2 q_L} n"
                r" A_{out}",
                "interpreter and final norm",
                pre.back.grad_sq[DOWN].subs(B, 0) / pre.trace.after.q
                - N * A / (2 * (Q + MIXING + sp.Rational(1, 2))),
            ),
            instances(
                r"\text{Pre-LN falls with every layer added}",
                "L = 6, 8, 10, 12, 14",
                (first > second for first, second in pairwise(lasts)),
                "floating-point recurrence",
            ),
            instances(
                r"\text{Post-LN, equal gradients } B = A: \quad"
                r" E\|\frac{\partial L}{\partial W^{2,L}}\|_F^2 = \frac{d}{3} n^2 A (1 - r_L), \quad"
                r" 0 < r_L < \frac{1}{10}, \quad r_{L+2} < r_L",
                "n = 16, L = 6, 8, 10, 12, 14: what is left of the dependence on L, through the correlation",
                [*(0 < r < 0.1 for r in below), *(first > second for first, second in pairwise(below))],
                "floating-point recurrence",
            ),
        ),
        result=r"\text{Post-LN: } \sqrt{\frac{d}{3} n A_L} \text{ for every } L; \quad"
        r" \text{Pre-LN: } \sqrt{\frac{d}{2 q_L} n A_{out}}",
        verdict="holds",
        condition="at initialisation; exact in $L$ for incoherent token gradients, otherwise up to terms in "
        "$1 - \\rho_L$, which halves with each layer",
        numbers={
            "post_14_over_6": 1.0,
            "pre_14_over_6": math.sqrt(lasts[-1] / lasts[0]),
            "pre_14_over_6_one_token": math.sqrt(10 / 22),
        },
    )


DERIVATIONS = {"fig3a/b": by_layer, "fig3c/d": by_depth}
