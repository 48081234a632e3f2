"""Input that an outsider gave the engine: refused in one line, or predicted as in the limit."""

from __future__ import annotations

import numpy as np
import pytest

import meanfield as mf
from meanfield.ops import RelativeBias

T = 4
IDENTITY = np.eye(T)


def with_entry(row: int, column: int, value: float) -> np.ndarray:
    """The identity with one entry changed."""
    changed = IDENTITY.copy()
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("gram", "says"),
    [
        (with_entry(0, 1, float("nan")), "not finite"),
        (with_entry(0, 1, 0.5), "not symmetric"),
        (-IDENTITY, "positive semidefinite"),
        (np.eye(3), r"\(3, 3\)"),
        (np.ones((4, 3)), r"\(4, 3\)"),
        (with_entry(3, 3, 0.0), "second moment 0"),
        ([[1], [1, 2]], "no matrix"),
    ],
)
@pytest.mark.parametrize("samples", [0, 2])
def test_gram_is_refused_with_its_fault(gram: object, says: str, samples: int) -> None:
    with pytest.raises(mf.InputError, match=says):
        mf.predict(mf.pre_ln(width=16, depth=1, heads=2), tokens=T, gram=gram, samples=samples)  # type: ignore[arg-type]  # bad on purpose


@pytest.mark.parametrize("name", ["ids", "padding"])
def test_ragged_rows_are_refused(name: str) -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=2, vocab=9)
    with pytest.raises(mf.InputError):
        mf.predict(arch, tokens=T, **{name: [[1], [1, 0]]})  # type: ignore[arg-type]  # bad on purpose


@pytest.mark.parametrize(
    "name", ["bias", "causal", "tied", "final_norm", "embedding_norm", "head_bias", "ffn_bias"]
)
def test_a_word_is_no_boolean(name: str) -> None:
    with pytest.raises(mf.InputError, match=name):
        mf.pre_ln(width=16, depth=1, heads=2, vocab=9, **{name: "no"})


@pytest.mark.parametrize("value", ["shared", True, 32])
def test_relative_bias_is_a_value_of_its_class(value: object) -> None:
    with pytest.raises(mf.InputError, match="relative_bias"):
        mf.pre_ln(width=16, depth=1, heads=2, relative_bias=value)


def test_no_more_tokens_than_positions() -> None:
    with pytest.raises(mf.InputError, match="positions"):
        mf.predict(mf.pre_ln(width=16, depth=1, heads=2, vocab=9, positions=3), tokens=T)


def test_a_softcap_gives_the_key_bias_a_gradient_in_the_limit() -> None:
    """Without a cap a key's bias moves all scores of a row alike; a cap's slope differs from key to key."""
    arch = mf.pre_ln(width=256, depth=1, heads=1, softcap=1.0, init="lecun_normal")
    table = mf.predict(arch, tokens=8, samples=64).df
    row = table[(table.module == "attention.k") & (table.parameter == "bias")].iloc[0]
    assert row.grad_sq_limit == pytest.approx(row.grad_sq, abs=4 * row.grad_sq_se, rel=0.1)


def test_a_relative_bias_is_still_accepted() -> None:
    bias = RelativeBias("attention.relative_bias", mf.Draw(1.0))
    assert mf.pre_ln(width=16, depth=1, heads=2, relative_bias=bias).depth == 1
