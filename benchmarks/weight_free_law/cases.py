"""What is compared: every placement, and every part that the sampler has a rule for, at small sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import meanfield as mf
from benchmarks.weight_free_law.dense import Setting
from empirical.build import Architecture
from meanfield import ops
from meanfield.presets import PLACEMENTS
from meanfield.presets.catalogue import PRESETS

SMALL: dict[str, Any] = {"width": 32, "heads": 4, "d_ff": 48, "depth": 2}
NORMAL: dict[str, Any] = {**SMALL, "init": "xavier_normal"}
NARROW: dict[str, Any] = {**NORMAL, "width": 8, "heads": 2, "d_ff": 12, "activation": "gelu"}
PAIR: dict[str, Any] = {"width": 32, "heads": 4, "d_ff": 48, "depth": 1, "vocab": 11}
WORDS: dict[str, Any] = {"vocab": 11, "activation": "gelu"}

PADDED = np.array([[True, True, True, True], [True, True, False, False]])
SOURCE_PADDED = np.array([[True, True, True, False, False], [True, True, True, True, True]])
ALIGNED = 0.5 + 0.5 * np.eye(6)
REPEATED = np.kron(np.eye(3), np.ones((2, 2)))  # tokens 1 and 2, 3 and 4, 5 and 6 are equal
CROSS = Setting(tokens=6, loss="cross_entropy")


@dataclass(frozen=True)
class Case:
    """An architecture with what goes in and comes out.

    Args:
        name: Its name on the page.
        group: What it belongs to there.
        arch: The architecture.
        setting: Inputs, masks and loss.
        own_law: Whether dense matrices keep a law that is not normal: a comparison of two laws, not a test of
            the sampler.
        times: How many times as many models as elsewhere, for squares that spread widely: 5 % shall be seen.
    """

    name: str
    group: str
    arch: Architecture
    setting: Setting = field(default_factory=Setting)
    own_law: bool = False
    times: int = 1


def cases() -> dict[str, Case]:
    """Build all cases, by name and in the order of the page."""
    every = [*_placements(), *_attention(), *_feed_forward(), *_tokens(), *_losses(), *_pairs(), *_laws()]
    return {case.name: case for case in every}


def _placements() -> Iterator[Case]:
    for name, preset in PRESETS.items():
        options = SMALL if name in PLACEMENTS and PLACEMENTS[name].init != "xavier_uniform" else NORMAL
        if name.startswith("paper"):
            options = {"width": 32, "depth": 2}
        if name == "mix_ln":
            options = {**NORMAL, "depth": 4}  # the first quarter is Post-LN
        # gains alone have a gradient, whose square spreads like that of one normal variable
        times = 10 if name in ("rezero", "skipinit") else 1
        yield Case(name, "placement", preset(**options), times=times)
    yield Case("rezero, factor 0.7", "placement", mf.rezero(**NORMAL, value=0.7))
    yield Case("skipinit, factor 0.7", "placement", mf.skipinit(**NORMAL, value=0.7))
    yield Case("parallel, two norms", "placement", mf.pre_ln(**NORMAL, parallel="two_norms"))
    yield Case("post_ln, rmsnorm", "placement", mf.post_ln(**NORMAL, norm="rmsnorm"))
    yield Case("pre_ln, rmsnorm, no biases", "placement", mf.pre_ln(**NORMAL, norm="rmsnorm", bias=False))
    yield Case("post_ln, 6 layers", "placement", mf.post_ln(**{**NORMAL, "depth": 6}))
    yield Case("pre_ln, 6 layers", "placement", mf.pre_ln(**{**NORMAL, "depth": 6}))


def _attention() -> Iterator[Case]:
    bias = ops.RelativeBias("attention.relative_bias", ops.Draw(1), 8, 6)
    shared = dataclasses.replace(bias, shared=True)
    two = Setting(tokens=4, batch=2)
    of_pre_ln: dict[str, dict[str, Any]] = {
        "causal": {"causal": True},
        "causal, window of 3": {"causal": True, "window": 3},
        "window of 2": {"window": 2},
        "grouped: 2 key heads for 4": {"kv_heads": 2},
        "multi-query: 1 key head for 4": {"kv_heads": 1, "causal": True},
        "heads of 6, not width / heads": {"head_size": 6},
        "rotary": {"rotary": 1},
        "rotary, half, grouped": {"rotary": 0.5, "kv_heads": 2, "causal": True},
        "relative bias of each layer": {"relative_bias": bias},
        "relative bias that layers share": {"relative_bias": shared},
        "norm of q, k per head": {"qk_norm": "head", "norm": "rmsnorm"},
        "norm of q, k, all heads": {"qk_norm": "all"},
        "capped scores": {"softcap": 0.5},
        "uniform attention": {"attention": "uniform"},
        "uniform attention, causal": {"attention": "uniform", "causal": True},
    }
    for name, options in of_pre_ln.items():
        yield Case(name, "attention", mf.pre_ln(**NORMAL, activation="gelu", **options))
    alibi = changed(
        mf.post_ln(**NORMAL, causal=True), ops.Attention, lambda op: {"alibi": (0.5, 0.25, 0.125, 1.0)}
    )
    yield Case("ALiBi", "attention", alibi)
    yield Case("two sequences", "attention", mf.post_ln(**NORMAL), two)
    padded = dataclasses.replace(two, padding=PADDED)
    yield Case("padding", "attention", mf.post_ln(**NORMAL), padded)
    yield Case("padding, causal, grouped", "attention", mf.pre_ln(**NORMAL, causal=True, kv_heads=2), padded)
    dropout = mf.post_ln(**NORMAL, dropout=0.2, attention_dropout=0.3, activation_dropout=0.1)
    yield Case("dropout everywhere", "attention", dropout)


def _feed_forward() -> Iterator[Case]:
    for activation in (
        *("swiglu", "geglu", "reglu", "glu", "bilinear", "gelu", "gelu_tanh"),
        *("silu", "quick_gelu", "tanh", "sigmoid", "relu_squared", "identity"),
    ):
        yield Case(activation, "feed-forward", mf.pre_ln(**NORMAL, activation=activation))
    yield Case(
        "geglu, post_ln, drawn biases", "feed-forward", mf.post_ln(**SMALL, init="torch", activation="geglu")
    )


def _tokens() -> Iterator[Case]:
    group, post, pre = "tokens and sizes", mf.post_ln(**NORMAL), mf.pre_ln(**NORMAL)
    yield Case("one token", group, pre, Setting(tokens=1))
    yield Case("aligned tokens", group, post, Setting(gram=ALIGNED))
    yield Case("repeated tokens", group, pre, Setting(gram=REPEATED))
    yield Case("T = d", group, mf.post_ln(**NARROW), Setting(tokens=8))
    yield Case("T = d - 1", group, mf.pre_ln(**NARROW), Setting(tokens=7))
    yield Case("T = 2 d", group, mf.pre_ln(**NARROW), Setting(tokens=8, batch=2))
    yield Case(
        "T > d, uniform attention", group, mf.post_ln(**NARROW, attention="uniform"), Setting(tokens=10)
    )
    yield Case("T > d_ff", group, mf.pre_ln(**{**NORMAL, "d_ff": 4}), Setting())
    yield Case("20 tokens", group, mf.pre_ln(**NORMAL, causal=True), Setting(tokens=20))
    for which, arch in (("post_ln", post), ("pre_ln", pre)):
        gains = changed(arch, ops.Norm, lambda _: {"gain": ops.Draw(0.1, mean=1), "shift": ops.Draw(0.1)})
        yield Case(f"drawn gains and shifts, {which}", group, gains)


def _losses() -> Iterator[Case]:
    group = "embedding, head and loss"
    yield Case("mean square error", group, mf.post_ln(**NORMAL), Setting(loss="mse"))
    padded = Setting(tokens=4, batch=2, loss="mse", padding=PADDED)
    yield Case("mean square error, padding", group, mf.pre_ln(**NORMAL), padded)
    words = mf.pre_ln(**NORMAL, **WORDS, positions=9, segments=2, embedding_norm=True, embedding_scale=2.0)
    yield Case("embeddings of words, places and segments", group, words)
    yield Case("untied head", group, mf.post_ln(**NORMAL, **WORDS), CROSS)
    smooth = dataclasses.replace(CROSS, label_smoothing=0.1)
    untied = mf.pre_ln(**NORMAL, **WORDS, head_bias=True, logit_scale=2.0, logit_softcap=3.0)
    yield Case("untied head: bias, scale, cap, smoothing", group, untied, smooth)
    yield Case("tied head, post_ln", group, mf.post_ln(**NORMAL, **WORDS, tied=True), CROSS)
    yield Case(
        "tied head, pre_ln", group, mf.pre_ln(**NORMAL, **WORDS, tied=True, embedding_scale=2.0), CROSS
    )
    few = {**WORDS, "vocab": 4}
    yield Case("tied head, fewer words than tokens", group, mf.pre_ln(**NORMAL, **few, tied=True), CROSS)
    capped = mf.post_ln(**NORMAL, **WORDS, tied=True, positions=6, logit_softcap=2.0, head_bias=True)
    yield Case("tied head: bias, cap, smoothing, places", group, capped, smooth)
    many = mf.pre_ln(**NARROW, vocab=40, tied=True)
    yield Case("tied head, T > d", group, many, Setting(tokens=5, batch=2, loss="cross_entropy"))
    yield Case("tied head with a hidden layer", group, _with_hidden_layer(capped), CROSS)
    masked = Setting(tokens=4, batch=2, loss="cross_entropy", padding=PADDED)
    yield Case("tied head, padding", group, mf.post_ln(**NORMAL, **WORDS, tied=True), masked)


def _pairs() -> Iterator[Case]:
    group = "encoder-decoder"
    cross = Setting(tokens=4, source_tokens=5, loss="cross_entropy")
    for name, placement in PLACEMENTS.items():
        init = "xavier_normal" if placement.init == "xavier_uniform" else placement.init
        arch = mf.encoder_decoder(**PAIR, init=init, placement=name)
        yield Case(f"pair, {name}", group, arch, cross)
    normal: dict[str, Any] = {**PAIR, "init": "xavier_normal"}
    padded = Setting(
        tokens=4, source_tokens=5, batch=2, loss="cross_entropy", padding=(SOURCE_PADDED, PADDED)
    )
    yield Case("pair, padding on both sides", group, mf.encoder_decoder(**normal), padded)
    one = mf.encoder_decoder(**normal, shared_embedding=True, tied=True, placement="pre_ln", decoder_depth=2)
    yield Case("pair, one table for both and the head", group, one, cross)
    gated = mf.encoder_decoder(**normal, tied=True, activation="swiglu", kv_heads=2, norm="rmsnorm")
    yield Case("pair, tied, gated, grouped", group, gated, cross)
    paper = mf.paper_encoder_decoder(width=32, depth=2, heads=4, d_ff=48, vocab=11)
    yield Case("the paper's model", group, paper, cross)
    long = Setting(tokens=6, source_tokens=12, loss="cross_entropy")
    narrow = mf.encoder_decoder(**{**normal, "width": 8, "heads": 2}, placement="pre_ln")
    yield Case("pair, source longer than d", group, narrow, long)


def _laws() -> Iterator[Case]:
    for init in ("normal_0.02", "gpt2", "lecun_normal", "small_init", "gpt_neox", "mup"):
        arch = mf.pre_ln(**SMALL, **WORDS, init=init)
        yield Case(f"init {init}", "initialisation", arch, CROSS)
    for init in ("torch", "torch_transformer", "fairseq", "t5"):  # uniform matrices count as normal ones
        yield Case(f"init {init}", "initialisation", mf.post_ln(**SMALL, **WORDS, init=init), CROSS)
    group = "uniform weights"
    for init, width in (("xavier_uniform", 32), ("torch", 32), ("torch", 8)):
        sizes = {**SMALL, "width": width, "activation": "gelu", "init": init}
        for name, preset in (("post_ln", mf.post_ln), ("pre_ln", mf.pre_ln)):
            yield Case(f"{name}, {init}, d = {width}", group, preset(**sizes), own_law=True)


def changed(value: Any, kind: type[ops.Op], change: Callable[[Any], dict[str, Any]]) -> Any:
    """Replace fields of every op of a kind in an architecture.

    Args:
        value: The architecture, or a part of it.
        kind: Which ops.
        change: Fields with their new values, from the op.

    Returns:
        The same with those fields replaced.

    Example:
        >>> wide = changed(mf.pre_ln(width=8, depth=1), ops.Norm, lambda op: {"eps": 0.5})
        >>> wide.final_norm.eps
        0.5
    """
    if isinstance(value, tuple):
        return tuple(changed(item, kind, change) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    inside = {f.name: changed(getattr(value, f.name), kind, change) for f in dataclasses.fields(value)}
    new = dataclasses.replace(value, **inside)
    return dataclasses.replace(new, **change(new)) if isinstance(new, kind) else new


def _with_hidden_layer(arch: ops.Transformer) -> ops.Transformer:
    """Give the head the hidden layer that BERT's has, x -> norm(gelu(x W + b))."""
    assert arch.head is not None
    law = ops.Draw(1 / arch.width)
    hidden = ops.Linear(arch.width, arch.width, law, law)
    layer = ops.Sequential((hidden, ops.Activation("gelu"), ops.Norm("head.norm", arch.width)))
    return dataclasses.replace(arch, head=dataclasses.replace(arch.head, transform=layer))
