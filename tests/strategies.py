"""Hypothesis strategies: architectures and kernels that are valid by construction."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

import meanfield as mf
from meanfield.ops import Attention, Draw, FeedForward, Linear, Norm, Op, Residual, Sequential

PLACEMENTS = {"post_ln": mf.post_ln, "pre_ln": mf.pre_ln}
PAPER = {"post_ln": mf.paper_post_ln, "pre_ln": mf.paper_pre_ln}


def placements() -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(PAPER))


def variances() -> st.SearchStrategy[Fraction]:
    """Scaled variances from 1/8 to 4, exact."""
    return st.integers(1, 32).map(lambda k: Fraction(k, 8))


@st.composite
def transformers(
    draw: st.DrawFn, width: int = 8, deepest: int = 6, kinds: tuple[str, ...] = ("softmax", "uniform")
) -> mf.Transformer:
    """Any placement, activation, initialisation and norm that the theory covers."""
    preset = PLACEMENTS[draw(placements())]
    return preset(
        width=width,
        depth=draw(st.integers(1, deepest)),
        heads=draw(st.sampled_from([1, 2, 4])),
        d_ff=draw(st.sampled_from([4, 8, 32])),
        activation=draw(st.sampled_from(["relu", "gelu"])),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        attention=draw(st.sampled_from(kinds)),
        init=draw(st.sampled_from(["xavier_normal", "lecun_normal", "torch", "torch_transformer", "gpt2"])),
    )


def linears(width: int = 8) -> st.SearchStrategy[Linear]:
    biases = st.one_of(st.none(), variances().map(lambda v: Draw(v / width)))
    return st.builds(lambda v, b: Linear(width, width, Draw(v / width), b), variances(), biases)


def ops(width: int = 8) -> st.SearchStrategy[Op]:
    """Any op from tokens to tokens for which the theory has a rule, nested up to two deep."""
    leaves: st.SearchStrategy[Op] = st.one_of(
        linears(width),
        st.builds(lambda kind: Norm("norm", width, kind), st.sampled_from(["layernorm", "rmsnorm"])),
        st.builds(lambda v: Attention("attention", "uniform", 1, 1, v), linears(width)),
        st.builds(
            # behind a norm: the theory refuses logits of variance beyond 100
            lambda v, q, k: Sequential((
                Norm("norm", width),
                Attention("attention", "softmax", 2, 2, v, q, k, score_scale=0.1),
            )),
            linears(width),
            linears(width),
            linears(width),
        ),
        st.builds(
            lambda up, a, down: FeedForward("ffn", up, a, down),
            linears(width),
            st.sampled_from(["relu", "gelu"]),
            linears(width),
        ),
    )

    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.builds(lambda o: Residual("residual", o), inner),
            st.lists(inner, min_size=1, max_size=3).map(lambda o: Sequential(tuple(o))),
        )

    return st.recursive(leaves, nest, max_leaves=4)


@st.composite
def kernels(draw: st.DrawFn, tokens: int) -> npt.NDArray[np.float64]:
    """A kernel (own, within, 0) of positive semidefinite n x n Gram matrices, up to its edges."""
    q = draw(st.floats(0.1, 10))
    lowest = -1 / (tokens - 1) if tokens > 1 else 0.0
    rho = draw(st.one_of(st.just(1.0), st.just(lowest), st.floats(lowest, 1.0)))
    return np.array([q, q * rho, 0.0])
