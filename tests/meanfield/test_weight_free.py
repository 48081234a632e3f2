"""The sampler's rules on weights that exist, against automatic differentiation; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import meanfield as mf
from empirical.layers.attention import relative_buckets
from meanfield import ops
from meanfield.errors import InputError, MissingRuleError, UnknownNameError
from meanfield.given import gram_root
from meanfield.moments.masks import bucket
from meanfield.weight_free import Backend, backward, forward, sample
from meanfield.weight_free.linear import project, project_back
from meanfield.weight_free.matrices import WeightFree
from meanfield.weight_free.run import Feed
from meanfield.weight_free.stack import _vectors
from tests.meanfield.weights import bare, both_ways, with_hidden_layer

SMALL: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "d_ff": 12}
PADDED = np.array([[True, True, True], [False, True, True]])
SOURCE_PADDED = np.array([[True, True, False, True], [True, False, False, False]])


def with_attention(arch: mf.Transformer, **changed: Any) -> mf.Transformer:
    """Change every self-attention."""

    def visit(op: Any) -> Any:
        if isinstance(op, ops.Attention):
            return replace(op, **changed)
        if isinstance(op, ops.Residual):
            return replace(op, branch=visit(op.branch))
        return replace(op, ops=tuple(map(visit, op.ops))) if isinstance(op, ops.Sequential) else op

    return replace(arch, layers=tuple(replace(run, block=visit(run.block)) for run in arch.layers))


def replace_head(arch: mf.Transformer, **changed: Any) -> mf.Transformer:
    assert arch.head is not None
    return replace(arch, head=replace(arch.head, linear=replace(arch.head.linear, **changed)))


NARROW = replace(
    mf.pre_ln(**SMALL, vocab=9),
    embedding=ops.Embedding("embedding", 9, 6, ops.Draw(1)),
    entry=ops.Sequential((ops.Linear(6, 8, ops.Draw(1), ops.Draw(1)), ops.Activation("silu"))),
    final_norm=ops.Sequential((ops.Norm("final_norm", 8), ops.Linear(8, 6, ops.Draw(1)))),
    head=ops.Head("head", ops.Linear(6, 9, ops.Draw(1)), tied=True),
)  # words of their own width in front of the layers and behind them


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "post_ln": (mf.post_ln(**SMALL), {}),
    "pre_ln, rmsnorm, causal, window": (
        mf.pre_ln(**SMALL, norm="rmsnorm", causal=True, window=2, activation="gelu"), {}
    ),
    "padding": (mf.pre_ln(**SMALL, activation="gelu_tanh"), {"padding": PADDED, "loss": "mse"}),
    "uniform, padding, causal": (
        mf.post_ln(**SMALL, attention="uniform", causal=True, activation="tanh"), {"padding": PADDED}
    ),
    "grouped, gated, rotary, per-head norms": (
        mf.pre_ln(
            **{**SMALL, "width": 16, "heads": 4}, kv_heads=2, activation="swiglu", rotary=1, qk_norm="head",
            head_size=6, norm="rmsnorm",
        ),
        {},
    ),
    "joint norms, softcap, part rotary, bias": (
        mf.pre_ln(
            **SMALL, qk_norm="all", softcap=0.5, rotary=ops.Rotary(0.5, 100.0), activation="geglu",
            relative_bias=ops.RelativeBias("attention.relative_bias", ops.Draw(1), 8, 6, shared=True),
        ),
        {},
    ),
    "alibi": (
        with_attention(mf.pre_ln(**SMALL, causal=True, softcap=2.0), alibi=(0.5, 0.25)), {"padding": PADDED}
    ),
    "alibi of grouped heads": (
        with_attention(mf.post_ln(**{**SMALL, "heads": 4}, kv_heads=2), alibi=(1.0, 0.5, 0.25, 0.125)), {}
    ),
    "dropout": (
        mf.post_ln(**SMALL, dropout=0.3, attention_dropout=0.2, activation_dropout=0.1, activation="silu"), {}
    ),
    "embeddings, untied head": (
        mf.pre_ln(
            **SMALL, vocab=9, positions=5, segments=2, embedding_norm=True, embedding_scale=3.0,
            logit_scale=2.0, logit_softcap=1.5, head_bias=True, activation="quick_gelu",
        ),
        {"loss": "cross_entropy", "smoothing": 0.2},
    ),
    "tied head": (
        mf.post_ln(
            **SMALL, vocab=9, tied=True, logit_scale=0.5, logit_softcap=2.0, activation="relu_squared"
        ),
        {"loss": "cross_entropy", "smoothing": 0.1},
    ),
    "tied head with a bias and a hidden layer": (
        with_hidden_layer(mf.post_ln(**SMALL, vocab=9, tied=True, logit_scale=0.5)),
        {"loss": "cross_entropy", "smoothing": 0.1, "padding": PADDED},
    ),
    "tied head with a bias": (
        replace_head(mf.pre_ln(**SMALL, vocab=9, tied=True), bias=ops.Draw(0.5)), {"loss": "cross_entropy"}
    ),
    "hidden layer without norm, unread": (
        with_hidden_layer(mf.pre_ln(**SMALL, vocab=9), "relu", norm=False), {}
    ),
    "hidden layer without norm": (
        with_hidden_layer(mf.pre_ln(**SMALL, vocab=9), "relu", norm=False), {"loss": "cross_entropy"}
    ),
    "narrow words": (NARROW, {"loss": "cross_entropy"}),
    "tied head unread": (mf.post_ln(**SMALL, vocab=9, tied=True, activation="glu"), {}),
    "encoder-decoder": (
        mf.paper_encoder_decoder(width=8, depth=2, heads=2, d_ff=12, vocab=9),
        {"loss": "cross_entropy", "padding": PADDED},
    ),
    "encoder-decoder of two lengths": (
        mf.encoder_decoder(
            **SMALL, vocab=9, tied=True,
            relative_bias=ops.RelativeBias("attention.relative_bias", ops.Draw(1), 8, 6, shared=True),
        ),
        {"loss": "cross_entropy", "padding": PADDED, "source_tokens": 4, "source_padding": SOURCE_PADDED},
    ),
    "one table for source and target": (
        mf.encoder_decoder(**SMALL, vocab=9, positions=5, embedding_scale=1.5, shared_embedding=True),
        {"padding": PADDED, "source_tokens": 4, "source_padding": SOURCE_PADDED},
    ),
    "one table for source, target and head": (
        mf.encoder_decoder(**SMALL, vocab=9, tied=True, embedding_scale=1.5, shared_embedding=True),
        {"loss": "cross_entropy", "source_tokens": 4, "smoothing": 0.1},
    ),
    "encoder-decoder on vectors": (
        bare(mf.encoder_decoder(**SMALL, placement="pre_ln", vocab=9)),
        {"source_tokens": 5, "padding": PADDED},
    ),
    "parallel": (mf.pre_ln(**SMALL, parallel=True, skip_scale=0.7, branch_scale=0.4), {}),
}  # fmt: skip
PRESETS = [name for name in mf.presets()["name"] if not name.startswith("paper")]


def _worst(ours: dict[Any, float], theirs: dict[Any, float]) -> float:
    """Largest relative difference; against the largest of all gradients where one is exactly zero."""
    assert set(ours) == set(theirs)
    floor = 1e-20 * max(theirs.values())
    return max(abs(ours[key] - theirs[key]) / max(theirs[key], floor) for key in theirs)


@pytest.mark.parametrize("case", CASES)
def test_rules_on_given_weights_agree_with_automatic_differentiation(case: str) -> None:
    arch, how = CASES[case]
    ours, theirs = both_ways(arch, **{"loss": "linear", "tokens": 3, "batch": 2, **how})
    assert _worst(ours, theirs) < 1e-9


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_on_given_weights_agree_with_automatic_differentiation(preset: str) -> None:
    arch = getattr(mf, preset)(**{**SMALL, "depth": 3})
    ours, theirs = both_ways(arch, loss="linear", tokens=3, batch=2)
    assert _worst(ours, theirs) < 1e-9


def test_the_comparison_sees_a_factor_of_one_in_a_million() -> None:
    ours, theirs = both_ways(mf.pre_ln(**SMALL), loss="linear", tokens=3, batch=2)
    key = ops.ParameterKey(1, "norm1", "weight")
    assert _worst({**ours, key: ours[key] * (1 + 1e-6)}, theirs) > 1e-7


def _rows(seeds: int, tokens: int, width: int, rank: int, spread: float) -> np.ndarray:
    """Token rows of some rank, with singular values that fall by a spread."""
    stream = np.random.default_rng(0)
    left, right = (
        stream.standard_normal((seeds, tokens, rank)),
        stream.standard_normal((seeds, rank, width)),
    )
    return np.asarray((left * np.geomspace(1, spread, rank)) @ right)


@pytest.mark.parametrize(
    ("tokens", "width", "rank", "spread"),
    [(4, 8, 4, 1.0), (4, 8, 2, 1.0), (4, 8, 4, 1e-7), (8, 8, 8, 1.0), (9, 4, 4, 1.0)],
)
def test_both_products_are_those_of_one_matrix(tokens: int, width: int, rank: int, spread: float) -> None:
    """With repeated, nearly dependent or many tokens: <G, X W> = <G W^T, X>, and W's part is Gaussian."""
    x = _rows(3, tokens, width, rank, spread)
    backend = Backend()
    run = WeightFree(backend, 3, 1, Feed(tokens), streams=backend.streams(range(3)))
    op = ops.Linear(width, 6, ops.Draw(0.5))
    outputs, saved = project("ffn", {"up": op}, x, run)
    np.testing.assert_allclose(saved.span.rows @ saved.span.basis, x, atol=1e-12 * np.abs(x).max())
    g = np.random.default_rng(1).standard_normal(outputs["up"].shape)
    before, found = project_back(saved, {"up": g}, run)
    np.testing.assert_allclose((g * outputs["up"]).sum((1, 2)), (before * x).sum((1, 2)), rtol=1e-9)
    dense = ((np.swapaxes(x, 1, 2) @ g) ** 2).sum((1, 2))
    np.testing.assert_allclose(found["up"], dense, rtol=1e-9)


def test_weights_of_variance_zero_have_gradients_and_pass_none_on() -> None:
    backend = Backend()
    run = WeightFree(backend, 1, 1, Feed(3), streams=backend.streams([0]))
    x, g = np.random.default_rng(0).standard_normal((2, 1, 3, 8))
    outputs, saved = project("ffn", {"up": ops.Linear(8, 8, ops.Draw(0))}, x, run)
    before, found = project_back(saved, {"up": g}, run)
    assert not outputs["up"].any()
    assert not before.any()
    assert found["up"][0] == pytest.approx(((x[0].T @ g[0]) ** 2).sum())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_sampled(preset: str) -> None:
    arch = getattr(mf, preset)(**SMALL)
    real = np.arange(12).reshape(2, 6) % 6 < 5
    for tokens, padding in ((6, real), (2, None)):
        found = sample(arch, tokens=tokens, batch=2, seeds=[0, 1], padding=padding)
        assert (found[ops.ParameterKey(2, "ffn.down", "weight")] >= 0).all()


@pytest.mark.parametrize(("buckets_", "farthest", "both"), [(32, 128, True), (32, 20, False), (8, 6, True)])
def test_buckets_are_those_of_the_torch_reading(buckets_: int, farthest: int, both: bool) -> None:
    op = ops.RelativeBias("attention.relative_bias", ops.ONES, buckets_, farthest, both)
    offsets = torch.arange(300) - torch.arange(300)[:, None]
    np.testing.assert_array_equal(bucket(op, 300), relative_buckets(offsets, op).numpy())


def test_a_repeated_token_gets_one_output() -> None:
    x = np.repeat(np.random.default_rng(0).standard_normal((2, 1, 8)), 3, axis=1)
    backend = Backend()
    run = WeightFree(backend, 2, 1, Feed(3), streams=backend.streams([0, 1]))
    outputs, _ = project("ffn", {"up": ops.Linear(8, 5, ops.Draw(1))}, x, run)
    np.testing.assert_allclose(outputs["up"], outputs["up"][:, :1] * np.ones((1, 3, 1)), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_seed_gives_the_same_numbers_in_any_company(dtype: str) -> None:
    # uniform attention: rows of gradients repeat, so that Cholesky fails and the other way is taken
    for arch in (mf.pre_ln(**SMALL, vocab=9), mf.post_ln(**SMALL, attention="uniform")):
        many = sample(arch, tokens=3, seeds=range(5), dtype=dtype)
        alone = sample(arch, tokens=3, seeds=[3], dtype=dtype)
        largest = max(values[0] for values in alone.values())
        for key, values in alone.items():
            assert many[key][3] == pytest.approx(values[0], rel=1e-4, abs=1e-9 * largest)


def test_namespaces_agree() -> None:
    from empirical.backend import TorchBackend

    # Without repeated tokens, whose span has no unique basis: libraries choose another one each.
    torch_arrays = TorchBackend("float64", "cpu")
    for case in ("joint norms, softcap, part rotary, bias", "dropout", "tied head", "encoder-decoder"):
        arch, how = CASES[case]
        setting: dict[str, Any] = {"tokens": 3, "seeds": range(2), "loss": how.get("loss", "linear")}
        if "loss" in how:
            setting["ids"] = [[4, 2, 0]]
        ours = sample(arch, **setting)
        theirs = sample(arch, **setting, backend=torch_arrays)
        assert list(ours) == list(theirs)
        for key, values in ours.items():
            np.testing.assert_allclose(theirs[key], values, rtol=1e-9, atol=1e-20)


def test_rows_of_an_embedding_are_shared_by_equal_ids() -> None:
    arch = mf.post_ln(**SMALL, vocab=9)
    ids = np.zeros((1, 3), dtype=int)
    found = sample(arch, tokens=3, seeds=range(2), ids=ids)  # all tokens are equal, and attention is uniform
    for layer in (1, 2):
        assert (found[ops.ParameterKey(layer, "attention.q", "weight")] < 1e-20).all()


def test_the_input_has_the_moments_that_are_asked_for() -> None:
    arch = mf.post_ln(**SMALL, norm="rmsnorm")
    gram = np.array([[2.0, 1.0], [1.0, 2.0]])
    ours = sample(arch, tokens=2, seeds=range(3), gram=gram)
    theirs = sample(arch, tokens=2, seeds=range(3), q=2.0, cov=1.0)
    for key, values in ours.items():
        np.testing.assert_allclose(theirs[key], values)


class Unknown(ops.Op):
    """An op without a rule."""


@pytest.mark.parametrize(
    ("arch", "how", "error", "words"),
    [
        (mf.pre_ln(**SMALL), {"loss": "cross_entropy"}, InputError, "needs an output head"),
        (mf.pre_ln(**SMALL), {"loss": "hinge"}, UnknownNameError, "hinge"),
        (mf.pre_ln(**SMALL), {"dtype": "bfloat16"}, UnknownNameError, "bfloat16"),
        (mf.pre_ln(**SMALL), {"seeds": [1, 1]}, InputError, "distinct"),
        (mf.pre_ln(**SMALL), {"seeds": []}, InputError, "seeds"),
        (mf.pre_ln(**SMALL), {"padding": np.zeros((1, 2), dtype=bool)}, InputError, "real token"),
        (mf.pre_ln(**SMALL), {"gram": -np.eye(2)}, InputError, "gram"),
        (mf.pre_ln(**SMALL), {"ids": [[0, 1]]}, InputError, "ids"),
        (mf.pre_ln(**SMALL, vocab=9), {"q": 2.0}, InputError, "q, cov and gram"),
        (mf.pre_ln(**SMALL, vocab=9), {"ids": [[0, 9]]}, InputError, "vocabulary"),
        (mf.pre_ln(**SMALL, vocab=9, positions=1), {}, InputError, "do not reach"),
        (mf.pre_ln(**SMALL, rotary=0.25), {}, InputError, "rotary fraction"),
        ("pre_ln", {}, InputError, "no architecture"),
        (mf.pre_ln(**SMALL), {"fixed": True}, InputError, "fixed=True means that gram is exactly that"),
        (
            mf.pre_ln(**SMALL),
            {"fixed": True, "gram": np.eye(40), "tokens": 40},
            InputError,
            "rank 40",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    arch: Any, how: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        sample(arch, **{"tokens": 2, "seeds": range(2), **how})


def test_what_has_no_rule_is_refused_by_name() -> None:
    run = WeightFree(Backend(), 0, 1, Feed(1), streams=Backend().streams([]))
    with pytest.raises(MissingRuleError, match=r"weight_free.forward has no rule for Unknown"):
        forward.forward(Unknown(), None, run)
    with pytest.raises(MissingRuleError, match=r"weight_free.backward has no rule for Unknown"):
        backward.backward(Unknown(), None, None, run)
    with pytest.raises(MissingRuleError, match="weights of mean 1"):
        project("ffn", {"up": ops.Linear(2, 2, ops.Draw(1, mean=1))}, np.ones((1, 1, 2)), run)


def test_fixed_vectors_have_exactly_the_gram_matrix_that_is_given() -> None:
    gram = np.array([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]) / 2
    backend = Backend()

    def drawn(fixed: bool) -> Any:
        feed = Feed(3, root=gram_root(gram), fixed=fixed)
        x = _vectors(
            5, WeightFree(backend, 2, 1, feed, streams=backend.streams([0, 1]))
        )  # (seeds, tokens, width)
        return x @ x.transpose(0, 2, 1) / 5

    assert drawn(True) == pytest.approx(np.stack([gram, gram]))
    assert drawn(False) != pytest.approx(np.stack([gram, gram]), rel=0.05)


def test_numbers_beyond_the_type_are_refused() -> None:
    arch = mf.residual_multiplier(**SMALL)
    with pytest.raises(InputError, match="not finite"):
        sample(arch, tokens=2, seeds=[0], gram=1e300 * np.eye(2), dtype="float32")
