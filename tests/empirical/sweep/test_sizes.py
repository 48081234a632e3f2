"""Counts of weights against built models, and of multiplications by hand."""

from typing import Any

import pytest

import meanfield as mf
from empirical import build
from empirical.sweep.sizes import sizes

SETTING = {"tokens": 4, "source_tokens": None, "batch": 2, "loss": "linear"}


@pytest.mark.parametrize("loss", ["linear", "cross_entropy"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vocab": 50},
        {"vocab": 50, "tied": True},
        {"vocab": 50, "positions": 20, "segments": 2, "embedding_norm": True, "head_bias": False},
        {"activation": "swiglu", "kv_heads": 2, "norm": "rmsnorm", "bias": False},
    ],
)
def test_weights_are_those_of_the_built_model(loss: str, options: dict[str, Any]) -> None:
    arch = mf.pre_ln(width=16, heads=4, depth=3, **options)
    wanted = sum(tensor.numel() for tensor in build(arch).parameters())
    assert sizes(arch, {**SETTING, "loss": loss}).weights == wanted


def test_an_encoder_decoder_is_the_sum_of_its_stacks() -> None:
    arch = mf.encoder_decoder(width=16, heads=4, depth=2, decoder_depth=3, vocab=20)
    wanted = sum(tensor.numel() for tensor in build(arch).parameters())
    found = sizes(arch, {**SETTING, "loss": "cross_entropy"})
    assert (found.weights, found.layers) == (wanted, 5)


def test_multiplications_of_one_layer() -> None:
    found = sizes(mf.pre_ln(width=8, heads=2, depth=1), SETTING)
    rows = 2 * 4
    assert found.products == rows * (4 * 8 * 8 + 2 * 8 * 32) + 2 * rows * 4 * 8
    assert found.scores == 2 * rows * 4
    assert (found.tokens, found.largest, found.widest) == (rows, 256, 32)
