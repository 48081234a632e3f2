"""Wrong samplers, which the comparison must reject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from meanfield.weight_free import linear
from meanfield.weight_free.backend import Array

Back = Callable[[linear.Projected, dict[str, Array], Any], tuple[Array, dict[str, Array]]]


def unprojected(right: Back) -> Back:
    """Draw the free part in the whole space: what the forward pass has seen of a weight is not taken out."""

    def wrong(
        saved: linear.Projected, gradients: dict[str, Array], run: Any
    ) -> tuple[Array, dict[str, Array]]:
        before, squares = right(saved, gradients, run)
        basis = saved.span.basis
        for name, op in saved.maps.items():
            again = run.normal(op.d_out, basis.shape[-2])
            before = before + float(op.weight.variance) ** 0.5 * (gradients[name] @ again) @ basis
        return before, squares

    return wrong


def too_strong(right: Back) -> Back:
    """Draw the free part with 5 % more variance."""

    def wrong(
        saved: linear.Projected, gradients: dict[str, Array], run: Any
    ) -> tuple[Array, dict[str, Array]]:
        before, squares = right(saved, gradients, run)
        basis = saved.span.basis
        seen = (before @ run.xp.matrix_transpose(basis)) @ basis
        return seen + 1.05**0.5 * (before - seen), squares

    return wrong


def forgetful(right: Back) -> Back:
    """Go back through weights that are independent of the forward ones, as mean-field theory does."""

    def wrong(
        saved: linear.Projected, gradients: dict[str, Array], run: Any
    ) -> tuple[Array, dict[str, Array]]:
        _, squares = right(saved, gradients, run)
        before, width = 0.0, saved.span.basis.shape[-1]
        for name, op in saved.maps.items():
            other = run.normal(op.d_out, width)
            before = before + float(op.weight.variance) ** 0.5 * (gradients[name] @ other)
        return before, squares

    return wrong


FAULTS: dict[str, Callable[[Back], Back]] = {
    "unprojected": unprojected,
    "too strong": too_strong,
    "forgetful": forgetful,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the sampler go wrong.

    Args:
        name: One of `FAULTS`.

    Yields:
        Nothing; the sampler is right again afterwards.
    """
    with mock.patch.object(linear, "project_back", FAULTS[name](linear.project_back)):
        yield
