"""Hypothesis strategies: architectures and kernels that are valid by construction."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

import meanfield as mf
from meanfield.initialization import SCHEMES
from meanfield.ops import Attention, Draw, FeedForward, Linear, Norm, Op, Residual, Sequential
from meanfield.presets import PRESETS

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


@st.composite
def stacks(draw: st.DrawFn, width: int = 8, deepest: int = 4) -> mf.Transformer:
    """Any preset with any options: a value, whether or not a theory has rules for all of it."""
    name = draw(st.sampled_from(sorted(set(PRESETS) - {"paper_post_ln", "paper_pre_ln"})))
    kv_heads, tokens = draw(st.sampled_from([1, 2, None])), draw(st.sampled_from([None, 20]))
    options: dict[str, Any] = {
        "heads": draw(st.sampled_from([2, 4])),
        "kv_heads": kv_heads,
        "head_size": draw(st.sampled_from([None, 4])),
        "d_ff": draw(st.sampled_from([4, 32])),
        "activation": draw(st.sampled_from(["relu", "gelu_tanh", "swiglu", "geglu"])),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "init": draw(st.sampled_from(sorted(SCHEMES))),
        "bias": draw(st.booleans()),
        "causal": draw(st.booleans()),
        "window": draw(st.sampled_from([None, 3, (None, 2)])),
        "qk_norm": draw(st.sampled_from([None, "head", "all"])),
        "rotary": draw(st.sampled_from([None, 0.5, 1])),
        "parallel": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0, 0.1])),
        "vocab": tokens,
        "tied": tokens is not None and draw(st.booleans()),
        "positions": None if tokens is None else draw(st.sampled_from([None, 16])),
        "embedding_norm": draw(st.booleans()),
    }
    if name == "admin":  # whose profile runs through the theory
        options = {key: options[key] for key in ("heads", "d_ff", "norm", "init", "dropout")}
    return PRESETS[name](width=width, depth=draw(st.integers(1, deepest)), **options)


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
