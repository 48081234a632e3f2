"""What goes into each stack: features against embeddings, pairs for encoder-decoders, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import meanfield as mf
from meanfield.errors import InputError

SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 4, "attention": "uniform"}
IDS = np.array([[3, 3, 7, 1], [1, 0, 3, 2]])
PADDING = np.array([[True, True, True, False], [True, True, True, True]])


def same(rows: np.ndarray) -> np.ndarray:
    return (rows[:, None] == rows).astype(float)


def test_embeddings_are_features_of_the_vectors_that_they_make() -> None:
    """Tables of tokens, positions and segments, written as features, in the limit: to the last digit."""
    arch = mf.pre_ln(**SIZES, vocab=9, positions=4, segments=2, embedding_scale=1.5, embedding_norm=True)
    assert arch.embedding is not None
    bare = replace(arch, embedding=None, position=None, segment=None, head=None)
    pairs = {
        "tokens": 1.5**2 * same(IDS.reshape(-1)),
        "places": same(np.tile(np.arange(4), 2)),
        "pieces": np.ones((8, 8)),
    }
    gram = float(arch.embedding.weight.variance) * sum(pairs.values())
    how: dict[str, Any] = {"tokens": 4, "batch": 2, "padding": PADDING}
    words = mf.predict(arch, ids=IDS, **how).df.query("module != 'head'").reset_index(drop=True)
    vectors = mf.predict(bare, gram=gram, features=pairs, **how).df
    names = {"embedding": "tokens", "position": "places", "segment": "pieces"}
    assert list(words.module.replace(names)) == list(vectors.module)
    np.testing.assert_allclose(words.grad_sq, vectors.grad_sq, rtol=1e-12)
    wrong = mf.predict(bare, gram=gram, features={**pairs, "pieces": np.eye(8)}, **how).df
    assert not np.allclose(words.grad_sq, wrong.grad_sq, rtol=0.05)


def test_features_keep_all_pairs_of_tokens() -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=4)
    one_feature = mf.predict(arch, tokens=2, gram=np.eye(2), features={"first": np.diag([1.0, 0.0])})
    both = mf.predict(arch, tokens=2, gram=np.eye(2), features={"both": np.eye(2)})
    assert float(one_feature.df.grad_sq[0]) == pytest.approx(float(both.df.grad_sq[0]) / 2, rel=1e-2)


def test_padding_of_the_source_is_a_shorter_source() -> None:
    """Its padded tokens are hidden from the encoder and from cross-attention."""
    arch = mf.encoder_decoder(**SIZES, vocab=9, placement="pre_ln")
    how: dict[str, Any] = {"tokens": 3, "loss": "cross_entropy"}
    source, target = IDS[:1], IDS[1:, :3]
    padded = mf.predict(arch, **how, source_tokens=4, ids=(source, target), padding=(PADDING[:1], None)).df
    short = mf.predict(arch, **how, ids=(source[:, :3], target)).df
    np.testing.assert_allclose(padded.grad_sq, short.grad_sq, rtol=1e-12)
    whole = mf.predict(arch, **how, source_tokens=4, ids=(source, target)).df
    assert not np.allclose(whole.grad_sq, short.grad_sq, rtol=0.05)


def test_one_array_is_that_of_source_and_target() -> None:
    arch = mf.encoder_decoder(**SIZES, vocab=9)
    one = mf.predict(arch, tokens=4, batch=2, ids=IDS, padding=PADDING).df
    two = mf.predict(arch, tokens=4, batch=2, ids=(IDS, IDS), padding=(PADDING, PADDING)).df
    np.testing.assert_array_equal(one.grad_sq, two.grad_sq)


def test_moments_of_source_and_target_are_means_over_their_own_pairs() -> None:
    points = mf.predict(mf.encoder_decoder(**SIZES, vocab=9), tokens=1, source_tokens=3).activations
    encoder = points.module.str.startswith("encoder")
    assert points["cov"][encoder].notna().all()
    assert points["cov"][~encoder].isna().all()


VECTORS = mf.pre_ln(**SIZES)
WORDS = mf.pre_ln(**SIZES, vocab=9)
PAIR = mf.encoder_decoder(**SIZES, vocab=9)
GRAM = np.eye(4)


@pytest.mark.parametrize(
    ("arch", "given", "says"),
    [
        (VECTORS, {"features": {"w": GRAM}}, "features need gram="),
        (WORDS, {"features": {"w": GRAM}}, "features need gram="),
        (VECTORS, {"gram": GRAM, "features": [GRAM]}, "features=list is no mapping"),
        (VECTORS, {"gram": GRAM, "features": {"w": np.eye(3)}}, r"features\['w'\] has shape \(3, 3\)"),
        (VECTORS, {"gram": GRAM, "features": {"w": -GRAM}}, r"features\['w'\] is not positive semidefinite"),
        (VECTORS, {"gram": GRAM, "features": {"w": GRAM + np.triu(GRAM + 1, 1)}}, "is not symmetric"),
        (VECTORS, {"gram": GRAM, "features": {"w": GRAM * np.nan}}, "is not finite"),
        (VECTORS, {"gram": GRAM, "features": {3: GRAM}}, "features have the name 3"),
        (VECTORS, {"gram": GRAM, "features": {"input": GRAM}}, "which the stack has already"),
        (PAIR, {"features": {"w": GRAM}}, r"a tuple \(source, target\)"),
        (PAIR, {"ids": (IDS[:1], IDS[:1], IDS[:1])}, "3 inputs for an encoder-decoder"),
        (PAIR, {"ids": (IDS[:1], [[9, 9, 9, 9]])}, "id 9 is outside the vocabulary"),
        (PAIR, {"gram": (GRAM, None)}, "gram means nothing for post_ln_encoder"),
        (PAIR, {"padding": (None, [[False] * 4])}, "leaves sequence 0 without a real token"),
        (PAIR, {"source_tokens": 3, "ids": IDS[:1]}, r"give integers of shape \(1, 3\)"),
        (VECTORS, {"source_tokens": 3}, "for an encoder-decoder"),
    ],
)
@pytest.mark.parametrize("samples", [0, 2])
def test_what_cannot_be_is_refused(arch: Any, given: dict[str, Any], says: str, samples: int) -> None:
    with pytest.raises(InputError, match=says) as error:
        mf.predict(arch, tokens=4, samples=samples, **given)
    assert "\n" not in str(error.value)


def test_a_table_is_shared_by_two_equal_ones_alone() -> None:
    other = mf.encoder_decoder(**SIZES, vocab=10).decoder
    for decoder in (replace(PAIR.decoder, embedding=None, head=None), other):
        with pytest.raises(InputError, match="shared_embedding=True with two embeddings that differ"):
            mf.EncoderDecoder("pair", PAIR.encoder, decoder, shared_embedding=True)
    with pytest.raises(InputError, match="shared_embedding='yes' is no boolean"):
        mf.encoder_decoder(width=8, depth=1, vocab=9, shared_embedding="yes")  # type: ignore[arg-type]  # on purpose
