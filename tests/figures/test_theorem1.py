"""The explicit bound of Theorem 1 against hand values and against real seeds."""

from __future__ import annotations

import math

import pytest

from figures.__main__ import read
from figures.theorem1 import explicit_bound
from meanfield.errors import InputError
from tests.figures.conftest import Run


def test_the_papers_form() -> None:
    d, depth = 512, 6
    pre = explicit_bound(1.0, d_in=d, d_out=d, tokens=1, second_moment=1 + depth / 2)
    assert pre == pytest.approx(d * math.sqrt(2 * math.log(100 * d) / (0.1 * (1 + depth / 2))))
    post = explicit_bound(1.0, d_in=d, d_out=d, tokens=1, second_moment=1.5)
    assert post / pre == pytest.approx(math.sqrt((1 + depth / 2) / 1.5))


def test_union_over_tokens_and_linear_in_the_gradient() -> None:
    one = explicit_bound(1.0, d_in=64, d_out=64, tokens=1, second_moment=1.0)
    many = explicit_bound(2.0, d_in=64, d_out=64, tokens=16, second_moment=1.0)
    assert (many / one) ** 2 == pytest.approx(4 * math.log(102_400) / math.log(6_400))


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="positive"):
        explicit_bound(1.0, d_in=64, d_out=64, tokens=1, second_moment=0.0)


def test_no_seed_breaks_its_bound_but_a_bound_without_its_factor_would_break(tiny_run: Run) -> None:
    rows = read(tiny_run.out, "theorem1")["last_ffn"]
    assert (rows["broken"] == 0).all()
    norm = rows["grad_sq_hat"] ** 0.5
    assert (rows["bound"] > norm).all()
    # The control: divided by its slack the bound is below what was measured.
    assert (rows["bound"] / (1.1 * rows["bound"] / norm) < norm).all()
