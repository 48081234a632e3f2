"""Readings of several draws are pooled: sampling errors of variances shrink, structure has to be the same."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import meanfield as mf
from empirical.audit.pool import given_vectors, pooled, readings_needed
from empirical.readers import Reading, Stream
from empirical.readers.reading import whole
from meanfield.errors import InputError
from meanfield.ops import Draw, ParameterKey


def reading(arch: Any, *, width: int = 8, **stream: Any) -> Reading:
    slot = whole("w", ParameterKey(1, "ffn.up", "weight"), (width, width))
    return Reading(arch, (slot,), (Stream(1, 2, **stream),), notes=("a note",))


def with_draw(arch: mf.Transformer, draw: Draw, depth: int = 1) -> mf.Transformer:
    """The architecture with another law of the up-projection."""
    run = arch.layers[0]
    residual: Any = run.block.ops[1]
    norm, ffn = residual.branch.ops
    changed = dataclasses.replace(ffn, up=dataclasses.replace(ffn.up, weight=draw))
    branch = dataclasses.replace(residual.branch, ops=(norm, changed))
    block = dataclasses.replace(
        run.block, ops=(run.block.ops[0], dataclasses.replace(residual, branch=branch))
    )
    return dataclasses.replace(arch, layers=(dataclasses.replace(run, block=block, times=depth),))


ARCH = mf.pre_ln(width=8, depth=1, heads=2)


def test_variances_are_averaged_and_means_are_part_of_them() -> None:
    draws = [Draw(0.5, "normal"), Draw(Fraction(1, 4), "normal"), Draw(0.0, mean=0.5)]
    found = pooled([reading(with_draw(ARCH, draw)) for draw in draws])
    law = found.arch.feed_forward.up.weight  # type: ignore[union-attr]  # one stack
    # E x^2 = (1/2 + 1/4 + 1/4) / 3, E x = 1/6
    assert law.mean == pytest.approx(1 / 6)
    assert law.variance == pytest.approx(1 / 3 - 1 / 36)
    assert found.notes == ("a note",)


def test_everything_else_stays_as_it_is() -> None:
    one = reading(with_draw(ARCH, Draw(0.5)))
    assert pooled([one]) is one
    found = pooled([one, reading(with_draw(ARCH, Draw(0.7, "uniform")))])
    assert found.arch == with_draw(ARCH, Draw(0.6, "normal"))
    with_draw_again = pooled([one, one, one])
    assert with_draw_again.arch == one.arch


def test_another_structure_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"different structure for different seeds \(a tuple of 1 and a tuple of 2\)"
    ):
        pooled([reading(ARCH), reading(with_draw(ARCH, Draw(0.5), depth=2))])
    with pytest.raises(
        InputError, match=r"different structure for different seeds \('pre_ln' and 'post_ln'\)"
    ):
        pooled([reading(ARCH), reading(mf.post_ln(width=8, depth=1, heads=2))])


def test_layers_that_have_one_law_in_some_draws_alone_are_pooled_one_by_one() -> None:
    def two(first: float, second: float) -> mf.Transformer:
        return dataclasses.replace(
            ARCH, layers=with_draw(ARCH, Draw(first)).layers + with_draw(ARCH, Draw(second)).layers
        )

    alike = with_draw(ARCH, Draw(0.25), depth=2)
    found: Any = pooled([reading(alike), reading(two(0.5, 0.75))]).arch
    assert found == two(0.375, 0.5)
    again: Any = pooled([reading(alike), reading(two(0.5, 0.5))]).arch
    assert again == with_draw(ARCH, Draw(0.375), depth=2)
    pair = mf.EncoderDecoder("pair", alike, two(0.5, 0.75))
    both: Any = pooled([reading(pair), reading(dataclasses.replace(pair, encoder=two(0.75, 0.75)))]).arch
    assert both.encoder == with_draw(ARCH, Draw(0.5), depth=2)


def test_gram_matrices_are_averaged_and_given_vectors_told_from_made_ones() -> None:
    eye, ones = np.eye(2), np.ones((2, 2))
    made = [reading(ARCH, gram=gram, features={"p": gram}) for gram in (eye, ones)]
    found = pooled(made).streams[0]
    assert found.gram is not None
    assert found.gram.tolist() == found.features["p"].tolist() == [[1, 0.5], [0.5, 1]]
    assert not given_vectors(made)
    assert given_vectors([reading(ARCH, gram=eye), reading(ARCH, gram=eye)])
    assert not given_vectors([reading(ARCH, gram=eye), reading(ARCH, gram=ones)])
    assert not given_vectors([reading(ARCH, ids=torch.zeros(1, 2).long().numpy())])


def test_small_tensors_are_read_more_often() -> None:
    def drawn(width: int, *laws: Draw) -> Reading:
        slots = [whole("w", ParameterKey(k, "ffn.up", "weight"), (width, width)) for k in range(len(laws))]
        known = {slot.key: law for slot, law in zip(slots, laws, strict=True)}
        return dataclasses.replace(reading(ARCH), slots=tuple(slots), laws=known)

    assert readings_needed(drawn(8, Draw(1))) == 313  # 20,000 entries in matrices of 64
    assert readings_needed(drawn(8, Draw(1), Draw(1))) == 157  # in two layers
    assert readings_needed(drawn(8, Draw(0, mean=1))) == 1  # a constant is known from one
    assert readings_needed(drawn(512, Draw(1))) == 1
