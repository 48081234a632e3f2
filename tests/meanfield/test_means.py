"""Means over coordinates, gains, shifts, hidden layers of heads: exact consequences, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import meanfield as mf
from meanfield import ops
from meanfield.errors import InputError, MissingRuleError, UnknownNameError
from meanfield.moments.forward import forward
from meanfield.moments.loss import Loss
from meanfield.moments.state import Exchangeable, Gram
from tests.meanfield.weights import with_hidden_layer
from tests.statistical.test_norm_laws import changed

SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 4}
LAYOUT = Exchangeable(tokens=3, batch=1)
UNIT = np.array([1.0, 0.2, 0.0])
ONE = ops.Draw(0, mean=1)
MEAN = ops.Draw(0, mean=0.5)


def test_a_gain_of_all_coordinates_is_a_factor_behind_a_norm() -> None:
    """The same model written twice, as gain c and as gain 1 with `Scale(c)`: its own gradient differs."""
    c = 1.7
    norm = ops.Norm("final_norm", 16, gain=ops.Draw(0, mean=c))
    one = replace(mf.pre_ln(**SIZES), final_norm=norm)
    two = replace(one, final_norm=ops.Sequential((replace(norm, gain=ONE), ops.Scale(c))))
    first, second = (mf.predict(arch, tokens=4).df for arch in (one, two))
    below = first.layer <= 2
    np.testing.assert_allclose(first.grad_sq[below], second.grad_sq[below], rtol=1e-12)
    np.testing.assert_allclose(c**2 * first.grad_sq[~below], second.grad_sq[~below], rtol=1e-12)


def test_layernorm_subtracts_what_rmsnorm_keeps() -> None:
    """Constant shifts of one norm vanish behind the next LayerNorm, and double the size before an RMSNorm."""
    first = ops.Norm("norm1", 16, eps=0.0, shift=ops.Draw(0, mean=1))
    for kind, expected in (("layernorm", UNIT), ("rmsnorm", (UNIT + 1) / 2)):
        both = ops.Sequential((first, ops.Norm("norm2", 16, kind, eps=0.0)))  # type: ignore[arg-type]  # both are
        np.testing.assert_allclose(forward(both, UNIT, LAYOUT).after[:2], expected[:2], rtol=1e-12)


def test_a_constant_bias_reaches_no_layernorm_through_the_stream() -> None:
    """In Post-LN a bias of one value behind a branch is subtracted at once; a random one is not."""
    plain, block = VECTORS, VECTORS.layers[0].block
    down = plain.feed_forward.down

    def with_bias(bias: ops.Draw) -> Any:
        ffn = replace(plain.feed_forward, down=replace(down, bias=bias))
        parts = [ops.Residual("residual2", ffn) if place == 2 else op for place, op in enumerate(block.ops)]
        return replace(plain, layers=(ops.Repeat(ops.Sequential(tuple(parts)), 2),))

    constant, random = (mf.predict(with_bias(b), tokens=4).df for b in (MEAN, ops.Draw(0.25)))
    reference = mf.predict(plain, tokens=4).df
    np.testing.assert_allclose(constant.grad_sq, reference.grad_sq, rtol=1e-12)
    assert not np.allclose(random.grad_sq, reference.grad_sq, rtol=0.05)


@pytest.mark.parametrize("loss", ["linear", "cross_entropy"])
def test_both_layouts_agree_on_laws_and_hidden_layers(loss: str) -> None:
    from meanfield.moments.stack import propagate

    words = mf.post_ln(**SIZES, vocab=40, tied=True, attention="uniform")
    arch = with_hidden_layer(changed(words, ops.Draw(0.25, mean=1.5), ops.Draw(0.2, mean=0.5), MEAN))
    three = propagate(arch, Exchangeable(5, 2), loss=Loss(loss)).grad_sq
    whole = propagate(arch, Gram(5, 2), loss=Loss(loss)).grad_sq
    assert three.keys() == whole.keys()
    assert ((2, "linear", "weight") in three) is False
    assert ((3, "linear", "weight") in three) is (loss == "cross_entropy")
    for key, value in three.items():
        assert whole[key] == pytest.approx(value, rel=1e-11), key


def test_totals_include_the_hidden_layer_of_a_head() -> None:
    arch = with_hidden_layer(mf.pre_ln(**SIZES, vocab=40))
    table = mf.predict(arch, tokens=5, loss="cross_entropy").df
    total = mf.total_grad_sq(arch, tokens=5, loss="cross_entropy")
    assert total == pytest.approx(table.grad_sq.sum(), rel=1e-12)


def test_a_tied_head_behind_fresh_weights_is_an_untied_one() -> None:
    """All rows but the table's, which gets the head's row of the untied one."""
    tied, untied = (
        with_hidden_layer(mf.pre_ln(**SIZES, vocab=40, tied=tied, init="normal_0.02"))
        for tied in (True, False)
    )
    how: dict[str, Any] = {"tokens": 3, "ids": [[1, 2, 2]], "loss": "cross_entropy"}
    one, two = (
        mf.predict(arch, **how).df.set_index(["module", "layer", "parameter"]) for arch in (tied, untied)
    )
    table, head = ("embedding", 0, "weight"), ("head", 3, "weight")
    parts = two.grad_sq[table] + two.grad_sq[head]
    assert one.grad_sq[table] == pytest.approx(parts, rel=1e-12)
    rest = one.index.difference([table])
    np.testing.assert_allclose(one.grad_sq[rest], two.grad_sq[rest], rtol=1e-12)


VECTORS = mf.post_ln(**SIZES)
SHIFTED = ops.Norm("attention.q_norm", 4, shift=MEAN)
BIASED = ops.Linear(16, 16, ops.Draw(1 / 16), MEAN)


def _with_attention(**options: Any) -> Any:
    base = mf.pre_ln(**SIZES, causal=True)
    attention = replace(base.attention, **options)
    return replace(
        base, layers=(ops.Repeat(ops.Sequential((ops.Residual("residual1", attention), *_FFN)), 1),)
    )


_FFN = mf.pre_ln(**SIZES).layers[0].block.ops[1:]


@pytest.mark.parametrize(
    ("predict", "error", "says"),
    [
        (lambda: ops.Activation("rellu"), UnknownNameError, "did you mean 'relu'"),
        (lambda: ops.Norm("norm1", 4, affine=False, gain=MEAN), InputError, "norm1 has no gain or no shift"),
        (lambda: ops.Norm("norm1", 4, "rmsnorm", shift=MEAN), InputError, "norm1 has no gain or no shift"),
        (
            lambda: ops.Head("head", ops.Linear(4, 9, ONE), transform=ops.Linear(4, 5, ops.Draw(1))),
            InputError,
            "the head's transform gives 5 coordinates and its map takes 4",
        ),
        (
            lambda: mf.predict(changed(VECTORS, shift=ops.Draw(1)), tokens=2, loss="mse"),
            MissingRuleError,
            "mse behind norm2, whose gains differ or whose shifts are not 0",
        ),
        (
            lambda: mf.predict(
                replace(VECTORS, entry=ops.Sequential((BIASED, ops.Activation("relu")))), tokens=2
            ),
            MissingRuleError,
            "relu where coordinates share a mean; give the bias before it entries of mean 0",
        ),
        (
            lambda: mf.predict(replace(VECTORS, entry=ops.Sequential((BIASED, ops.Fork()))), tokens=2),
            MissingRuleError,
            "two streams where coordinates share a mean",
        ),
        (
            lambda: mf.predict(
                _with_attention(query=BIASED, query_norm=ops.Norm("attention.q_norm", 4)), tokens=2
            ),
            MissingRuleError,
            "attention.q_norm where coordinates share a mean",
        ),
        (
            lambda: mf.predict(
                _with_attention(query_norm=SHIFTED, key_norm=replace(SHIFTED, name="attention.k_norm")),
                tokens=2,
            ),
            MissingRuleError,
            "queries and keys both have shifts of a mean",
        ),
        (
            lambda: mf.predict(replace(VECTORS, entry=ops.Sequential((BIASED, BIASED))), tokens=2),
            InputError,
            "layer 0 has two ops named 'linear'",
        ),
    ],
)
def test_what_has_no_rule_is_refused(predict: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as found:
        predict()
    assert "\n" not in str(found.value)
