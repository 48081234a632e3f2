"""Fixed ids, Gram matrices and padding: what they change, what they do not, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import meanfield as mf
from empirical import build, measure
from empirical.inputs import Inputs
from empirical.layers import Transformer
from empirical.probe import MOMENTS
from empirical.setting import Conditions, Setting, conditions
from meanfield import ops
from meanfield.errors import InputError
from tests.empirical import every_op

IDS = np.array([[0, 3, 3, 1, 4, 2]])
VECTORS = mf.pre_ln(width=4, depth=1, heads=2, d_ff=3, activation="gelu", init="torch")
SEQ2SEQ = mf.paper_encoder_decoder(width=4, depth=1, heads=2, d_ff=3, vocab=5, activation="gelu")


def values(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["tokens", "batch"])


def same(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    try:
        # 0 up to rounding stands for the gradients of key biases; the others are above 1e-6.
        pd.testing.assert_frame_equal(values(left), values(right), rtol=1e-9, atol=1e-14)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("arch", [every_op.one_stream(dropout=0), SEQ2SEQ], ids=lambda arch: arch.name)
@pytest.mark.parametrize("loss", ["linear", "mse", "cross_entropy"])
def test_padding_at_the_end_is_as_if_it_were_not_there(
    arch: ops.Transformer | ops.EncoderDecoder, loss: str
) -> None:
    options: dict[str, Any] = {"seeds": range(2), "loss": loss, "dtype": "float64"}
    padding = np.arange(6)[None] < 4
    padded = measure(arch, tokens=6, ids=IDS, padding=padding, **options).samples
    short = measure(arch, tokens=4, ids=IDS[:, :4], **options).samples
    assert same(padded, short)
    assert not same(measure(arch, tokens=6, ids=IDS, **options).samples, short)
    scaled = padded.assign(grad_sq_hat=padded["grad_sq_hat"] * 1.05)
    assert not same(scaled, short)


def test_moments_average_over_real_tokens_and_their_pairs() -> None:
    padding = np.array([[True, True, False], [False, True, True], [True, False, False]])
    arch = mf.post_ln(width=4, depth=1, heads=2, vocab=5)
    ids = np.array([[0, 1, 2], [3, 3, 4], [0, 0, 0]])
    table = measure(arch, tokens=3, batch=3, seeds=[2], ids=ids, padding=padding, dtype="float64").activations
    model_input = Inputs(arch, 2, torch.zeros(1, dtype=torch.float64), Conditions(ids=ids)).draw(3, 3)[0]
    model = build(arch, seed=2, dtype="float64")
    assert isinstance(model, Transformer)
    rows = model.embeddings(model_input)[torch.from_numpy(padding)].detach()
    gram = (rows @ rows.T / 4).numpy()  # of the 5 real tokens
    sequence = np.repeat(np.arange(3), [2, 2, 1])
    within = sequence[:, None] == sequence
    first = table.iloc[0]
    assert first["module"] == "input"
    assert first["q_hat"] == pytest.approx(np.trace(gram) / 5)
    assert first["cov_hat"] == pytest.approx(gram[within & ~np.eye(5, dtype=bool)].mean())
    assert first["cov_across_hat"] == pytest.approx(gram[~within].mean())


def test_the_gram_matrix_is_the_covariance_of_the_input() -> None:
    width = 40_000
    half = np.random.default_rng(0).standard_normal((6, 4))
    gram = half @ half.T  # of rank 4
    arch = mf.paper_pre_ln(width=width, depth=1)
    fixed = conditions(arch, Setting(tokens=3, batch=2), gram=gram)
    (x,) = Inputs(arch, 5, torch.zeros(1, dtype=torch.float64), fixed).draw(2, 3)
    rows = x.detach().flatten(0, 1).numpy()
    error = rows @ rows.T / width - gram
    own = np.diag(gram)
    sd = np.sqrt((np.outer(own, own) + gram**2) / width)
    assert (np.abs(error) < 4.5 * sd).all()
    assert not (np.abs(error + 0.05 * gram) < 4.5 * sd).all()
    assert np.linalg.matrix_rank(rows, tol=1e-6) == 4


def test_equal_tokens_stay_equal_and_the_identity_is_no_gram() -> None:
    options: dict[str, Any] = {"tokens": 3, "batch": 2, "seeds": range(2), "dtype": "float64"}
    table = measure(VECTORS, gram=np.full((6, 6), 2.0), **options).activations
    assert np.allclose(table["cov_hat"], table["q_hat"])
    assert np.allclose(table["cov_across_hat"], table["q_hat"])
    plain = measure(VECTORS, **options)
    assert same(measure(VECTORS, gram=np.eye(6), **options).samples, plain.samples)
    assert not np.allclose(plain.activations["cov_hat"], plain.activations["q_hat"])


def test_fixed_ids_are_those_that_are_embedded() -> None:
    arch = every_op.two_streams(vocab=5)
    options: dict[str, Any] = {"tokens": 6, "seeds": [0, 1], "loss": "cross_entropy", "dtype": "float64"}
    fixed = measure(arch, ids=np.zeros((1, 6), dtype=int), **options)
    first = fixed.activations.iloc[0]
    assert first["cov_hat"] == pytest.approx(first["q_hat"])
    moments = [m for m in MOMENTS if "across" not in m]
    assert np.isfinite(fixed.activations[moments]).all(axis=None)
    assert not same(fixed.samples, measure(arch, **options).samples)


NAN = np.full((6, 6), np.nan)
SKEW = np.eye(6) + np.diag([0.1] * 5, 1)
BAD: list[tuple[Any, dict[str, Any], str]] = [
    (VECTORS, {"gram": np.eye(5)}, r"gram has shape \(5, 5\)"),
    (VECTORS, {"gram": np.ones(6)}, r"gram has shape \(6,\)"),
    (VECTORS, {"gram": NAN}, "not finite"),
    (VECTORS, {"gram": SKEW}, "gram is not symmetric"),
    (VECTORS, {"gram": np.eye(6) - 0.3}, r"the eigenvalue -0.8"),
    (VECTORS, {"gram": "half"}, "gram"),
    (VECTORS, {"ids": np.zeros((2, 3), int)}, "ids mean nothing"),
    (SEQ2SEQ, {"gram": np.eye(6)}, "gram means nothing"),
    (SEQ2SEQ, {"ids": np.full((2, 3), 5)}, "id 5 is outside the vocabulary"),
    (SEQ2SEQ, {"ids": np.full((2, 3), -1)}, "id -1 is outside the vocabulary"),
    (SEQ2SEQ, {"ids": np.zeros((2, 4), int)}, r"ids have shape \(2, 4\)"),
    (SEQ2SEQ, {"ids": np.zeros((2, 3))}, "float64"),
    (VECTORS, {"padding": np.ones((3, 2), bool)}, r"padding has shape \(3, 2\)"),
    (VECTORS, {"padding": np.full((2, 3), 0.5)}, "float64"),
    (VECTORS, {"padding": np.array([[True] * 3, [False] * 3])}, "leaves sequence 1 without a real token"),
]


@pytest.mark.parametrize(("arch", "fixed", "message"), BAD)
def test_conditions_that_cannot_be_are_refused(arch: Any, fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        measure(arch, tokens=3, batch=2, seeds=[0], **fixed)
    assert "\n" not in str(error.value)
