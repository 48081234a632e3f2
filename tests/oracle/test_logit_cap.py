"""A cap on the logits that is hardly felt is neglected by the limit; samples know it exactly."""

from __future__ import annotations

import numpy as np
import pytest

import meanfield as mf
from meanfield import weight_free
from meanfield.errors import MissingRuleError

WIDTH, VOCAB = 64, 40


def arch(cap: float | None, *, tied: bool = False) -> mf.Transformer:
    """A stack whose logits have second moment WIDTH / WIDTH = 1 (LeCun's head), tied or not."""
    found = mf.pre_ln(
        width=WIDTH, depth=1, heads=2, vocab=VOCAB, init="lecun_normal", tied=tied, logit_softcap=cap
    )
    assert isinstance(found, mf.Transformer)
    return found


def test_a_cap_at_the_bound_changes_gradients_by_a_few_percent_at_most() -> None:
    free = mf.predict(arch(None), tokens=4, loss="cross_entropy").df
    capped = mf.predict(arch(10.0), tokens=4, loss="cross_entropy").df  # E z^2 = 0.01 c^2
    assert np.allclose(free.grad_sq, capped.grad_sq)
    with_cap = weight_free.sample(arch(10.0), tokens=4, seeds=range(64), loss="cross_entropy")
    without = weight_free.sample(arch(None), tokens=4, seeds=range(64), loss="cross_entropy")
    for key, values in without.items():  # the same random numbers, so that the cap alone differs
        if values.mean() > 1e-12:
            assert with_cap[key].mean() / values.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("tied", [False, True])
def test_a_cap_that_is_felt_is_refused(tied: bool) -> None:
    with pytest.raises(MissingRuleError, match=r"capped at 1\.0"):
        mf.predict(arch(1.0, tied=tied), tokens=4, loss="cross_entropy")


def test_the_control_is_far_off() -> None:
    felt = weight_free.sample(arch(1.0), tokens=4, seeds=range(64), loss="cross_entropy")
    free = weight_free.sample(arch(None), tokens=4, seeds=range(64), loss="cross_entropy")
    ratios = [felt[key].mean() / free[key].mean() for key in free if free[key].mean() > 1e-12]
    assert max(abs(np.array(ratios) - 1)) > 0.1
