"""The T x T kernels against the three exchangeable values, masks against shorter sequences, and bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import meanfield as mf
from meanfield.errors import InputError, MissingRuleError
from meanfield.moments.inputs import Input
from meanfield.moments.loss import Loss
from meanfield.moments.stack import propagate
from meanfield.moments.state import Exchangeable, Gram
from meanfield.ops import Draw, Dropout, Norm, Repeat, Residual, Sequential
from meanfield.presets import PRESETS

TOKENS, BATCH = 5, 2


def _preset(name: str, **options: Any) -> mf.Transformer:
    if name.startswith("paper"):
        return PRESETS[name](width=16, depth=3)
    return PRESETS[name](width=16, depth=3, heads=4, **options)


def _gap(arch: mf.Transformer, **options: Any) -> float:
    """Largest relative difference of a parameter between the two layouts."""
    three = propagate(arch, Exchangeable(TOKENS, BATCH), **options).grad_sq
    whole = propagate(arch, Gram(TOKENS, BATCH), **options).grad_sq
    assert three.keys() == whole.keys()
    return max(abs(whole[key] - three[key]) / max(three[key], 1e-30) for key in three if three[key] > 0)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("loss", ["linear", "mse"])
def test_both_layouts_agree_where_both_apply(name: str, loss: str) -> None:
    options = {} if name.startswith("paper") else {"attention": "uniform", "activation": "gelu"}
    if name in ("qk_norm", "hybrid_norm"):  # norms on queries and keys need some
        pytest.skip("uniform attention has neither query nor key to norm")
    arch = _preset(name, **options)
    if loss == "mse" and not isinstance(arch.final_norm or list(_all(arch))[-1], Norm):
        with pytest.raises(MissingRuleError, match="mse without a norm at the end"):
            propagate(arch, Exchangeable(TOKENS, BATCH), loss=Loss(loss))
        return
    assert _gap(arch, loss=Loss(loss), given=Input(1.3, 0.4)) < 1e-12


@pytest.mark.parametrize("tied", [False, True])
def test_both_layouts_agree_on_words(tied: bool) -> None:
    arch = _preset("pre_ln", attention="uniform", vocab=40, tied=tied)
    assert _gap(arch, loss=Loss("cross_entropy", 0.1)) < 1e-12


def test_both_layouts_agree_on_dropout() -> None:
    arch = _preset("post_ln", attention="uniform", dropout=0.2, attention_dropout=0.3, vocab=40)
    assert any(isinstance(op, Dropout) for op in _all(arch))
    assert _gap(arch) < 1e-12


def _all(arch: mf.Transformer) -> list[Any]:
    from meanfield.ops import walk

    return [op for run in arch.layers for op in walk(run)]


def test_sampled_softmax_reaches_the_quadrature_at_large_heads() -> None:
    """The quadrature is the limit of large heads: 1/2048, and the sampling error of 1e-3 per average."""
    arch = mf.pre_ln(width=2048, depth=2, heads=1, init="xavier_normal")
    gap = _gap(arch, given=Input(1.0, 0.2))
    assert 1e-6 < gap < 1e-2


@pytest.mark.parametrize("loss", ["linear", "mse", "cross_entropy"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_total_is_the_sum_of_the_table(name: str, loss: str) -> None:
    words = {"vocab": 30} if loss == "cross_entropy" and not name.startswith("paper") else {}
    arch = _preset(name, **words)
    try:
        table = mf.predict(arch, tokens=TOKENS, batch=BATCH, loss=loss).df
    except (MissingRuleError, InputError) as refused:
        with pytest.raises(type(refused)):
            mf.total_grad_sq(arch, tokens=TOKENS, batch=BATCH, loss=loss)
        return
    total = mf.total_grad_sq(arch, tokens=TOKENS, batch=BATCH, loss=loss)
    assert total == pytest.approx(table.grad_sq.sum(), rel=1e-12)


def test_padding_is_a_shorter_sequence() -> None:
    arch = mf.pre_ln(width=16, depth=2, heads=4, attention="uniform")
    padding = np.ones((1, 6), dtype=bool)
    padding[0, 4:] = False
    padded = mf.predict(arch, tokens=6, padding=padding, cov=0.3).df
    short = mf.predict(arch, tokens=4, cov=0.3).df
    np.testing.assert_allclose(padded.grad_sq, short.grad_sq, rtol=1e-12)


def test_repeated_ids_are_identical_vectors() -> None:
    arch = mf.post_ln(width=16, depth=2, heads=4, attention="uniform", vocab=30)
    ids = np.array([[3, 3, 7, 3]])
    same = (ids[0][:, None] == ids[0][None, :]).astype(float)
    variance = float(arch.embedding.weight.variance) if arch.embedding else 0.0
    bare = replace(arch, embedding=None, head=None)
    words = mf.predict(arch, tokens=4, ids=ids).df.query("layer > 0")
    vectors = mf.predict(bare, tokens=4, gram=variance * same).df
    np.testing.assert_allclose(words.grad_sq, vectors.grad_sq, rtol=1e-12)


def test_an_exchangeable_gram_takes_the_short_way() -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=4)
    gram = np.kron(np.eye(2), 0.7 * np.eye(5) + 0.3)
    assert isinstance(mf.predict(arch, tokens=5, batch=2, gram=gram).layout, Exchangeable)
    gram[0, 1] = gram[1, 0] = 0.31
    assert isinstance(mf.predict(arch, tokens=5, batch=2, gram=gram).layout, Gram)


def test_gradients_beyond_float64_keep_their_logarithm() -> None:
    """Without norms a skip of 1/2 loses a factor of 4 per sub-layer: 20,000 of them leave float64."""
    law = mf.Initialization("weak", *(Draw(1e-6),) * 8, attention_bias=Draw(1), down_bias=Draw(1))
    options: dict[str, Any] = {"width": 16, "heads": 4, "attention": "uniform", "init": law}
    block = mf.post_ln(depth=1, **options).layers[0].block
    halves = tuple(replace(op, skip_scale=0.5) for op in block.ops if isinstance(op, Residual))
    arch = replace(mf.post_ln(depth=1, **options), layers=(Repeat(Sequential(halves), 10_000),))
    df = mf.predict(arch, tokens=4).df
    level = df.query("module == 'ffn.down' and parameter == 'weight'").set_index("layer")
    assert level.grad_sq[1] == 0
    # (1/2)^(2 * 2) per layer, down to the 1e-6 or so that the branches add
    fall = np.diff(level.log10_grad_sq.loc[[1000, 2000]])[0] / 1000
    assert fall == pytest.approx(4 * np.log10(2), rel=1e-3)
    assert np.isfinite(level.log10_grad_sq).all()


GOOD = np.eye(4)


@pytest.mark.parametrize(
    ("gram", "match"),
    [
        (np.eye(3), r"shape \(3, 3\): give \(T, T\) = \(4, 4\)"),
        (GOOD + np.triu(np.full((4, 4), 0.1), 1), r"not symmetric: \[0, 1\]=0.1 and \[1, 0\]=0"),
        (GOOD - 0.9, "not positive semidefinite: it has the eigenvalue -2.6"),
        (np.where(np.eye(4) > 0, np.nan, 0), r"gram\[0, 0\]=nan is not finite"),
        (np.zeros((4, 4)), "second moment 0"),
        ("large", "no matrix of numbers"),
    ],
)
def test_a_bad_gram_matrix_is_refused(gram: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        mf.predict(mf.pre_ln(width=8, depth=1), tokens=2, batch=2, gram=gram)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ids": [[1, 2]]}, "ids mean nothing"),
        ({"padding": [[True]]}, r"padding has shape \(1, 1\)"),
        ({"padding": [[False, False]]}, "sequence 0 without a real token"),
        ({"gram": GOOD[:2, :2], "q": 2.0}, "one or the other"),
        ({"source_tokens": 3}, "for an encoder-decoder"),
        ({"samples": 1}, "samples=1 has no spread"),
    ],
)
def test_input_without_meaning_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        mf.predict(mf.pre_ln(width=8, depth=1), tokens=2, **options)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(InputError, match=r"id 9 is outside the vocabulary: give 0 \.\.\. 8"):
        mf.predict(mf.pre_ln(width=8, depth=1, vocab=9), tokens=2, ids=[[1, 9]])


def test_a_row_with_nothing_to_attend_to_is_refused() -> None:
    arch = mf.pre_ln(width=8, depth=1, causal=True, window=1)
    assert len(mf.predict(arch, tokens=3).df)  # a window of one leaves every token itself
    cross = mf.paper_encoder_decoder(width=8, depth=1, heads=2, d_ff=8, vocab=5).decoder
    with pytest.raises(MissingRuleError, match="cross-attention without memory; give an EncoderDecoder"):
        propagate(cross, Gram(3, 1))


def test_hidden_states_that_overflow_are_named() -> None:
    arch = mf.pre_ln(width=8, depth=3, attention="uniform")
    ffn = replace(arch.feed_forward, down=replace(arch.feed_forward.down, weight=Draw(1e308)))
    bare = Sequential((Residual("residual1", ffn), *arch.layers[0].block.ops))
    with pytest.raises(InputError, match="hidden states overflow at residual1"):
        mf.predict(replace(arch, layers=(Repeat(bare, 3),)), tokens=2)


@pytest.mark.parametrize("seed", range(4))
def test_words_that_repeat_stay_within_a_correlation_of_one(seed: int) -> None:
    arch = mf.post_ln(width=32, depth=2, heads=2, vocab=4, init="lecun_normal")
    ids = np.random.default_rng(seed).integers(4, size=(1, 16))
    table = mf.predict(arch, tokens=16, ids=ids)
    assert np.isfinite(table.df.grad_sq).all()
