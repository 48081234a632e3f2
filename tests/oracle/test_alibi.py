"""Scores by distance against Bloom's own tensor, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

import meanfield as mf
from empirical.build import build_op
from empirical.layers import Attention
from meanfield.errors import InputError
from meanfield.ops import Rotary

HEADS, TOKENS, WIDTH = 4, 6, 8
BASE = mf.pre_ln(width=WIDTH, depth=1, heads=HEADS, causal=True).attention


def test_scores_are_those_of_bloom() -> None:
    """Bloom adds slope times the key's position; a row of scores may shift without consequence."""
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    tensor = bloom.build_alibi_tensor(torch.ones(1, TOKENS), HEADS, torch.float64)  # (heads, 1, tokens)
    slopes = tuple(float(slope) for slope in tensor[:, 0, 1])
    assert slopes[0] == pytest.approx(0.25)

    def ours(alibi: tuple[float, ...] | None) -> torch.Tensor:
        built = build_op(replace(BASE, alibi=alibi)).double()
        generator = torch.Generator().manual_seed(1)
        for parameter in built.parameters():
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        assert isinstance(built, Attention)
        x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64, generator=generator)
        return torch.stack([built(x), *_theirs(built, x, tensor)])

    y, expected = ours(slopes)
    assert torch.allclose(y, expected, rtol=1e-12)
    for wrong in (None, tuple(1.05 * slope for slope in slopes), tuple(-slope for slope in slopes)):
        y, expected = ours(wrong)
        assert not torch.allclose(y, expected, rtol=1e-3)


def _theirs(built: Attention, x: torch.Tensor, alibi: torch.Tensor) -> list[torch.Tensor]:
    assert built.q is not None
    assert built.k is not None
    assert built.o is not None
    q, k, v = (part(x).view(1, TOKENS, HEADS, -1).transpose(1, 2) for part in (built.q, built.k, built.v))
    hidden = torch.full((TOKENS, TOKENS), float("-inf"), dtype=torch.float64).triu(1)
    y = F.scaled_dot_product_attention(q, k, v, alibi[None] + hidden)
    return [built.o(y.transpose(1, 2).flatten(2))]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alibi": (0.5, 0.25)}, "alibi has 2 slopes for 4 heads"),
        ({"alibi": (0.5, float("nan"), 1, 1)}, "alibi slope=nan is not finite"),
        ({"alibi": (1, 1, 1, 1), "rotary": Rotary()}, "without rotary positions"),
        (
            {"alibi": (1, 1, 1, 1), "kind": "uniform", "query": None, "key": None},
            "goes with softmax attention",
        ),
        ({"alibi": (1, 1, 1, 1), "cross": True, "causal": False}, "no positions between source and target"),
    ],
)
def test_slopes_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(BASE, **options)
