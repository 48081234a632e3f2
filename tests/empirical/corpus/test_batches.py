"""Batches: every pair once an epoch, within the budget, whatever was asked before; shares are the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.corpus import Pair, PairBatches, TextBatches, Vocabulary, generated
from meanfield.errors import InputError

CORPUS = generated(train=400, valid=1, test=1)
sides = st.lists(st.integers(5, 99), min_size=1, max_size=12).map(tuple)
corpora = st.lists(st.builds(Pair, sides, sides), min_size=1, max_size=40)


def ordinary(row: list[int]) -> tuple[int, ...]:
    return tuple(index for index in row if index >= Vocabulary.SPECIAL)


def rows(batch: tuple[torch.Tensor, ...]) -> list[Pair]:
    source, _, target = (ids.tolist() for ids in batch)
    return [Pair(ordinary(a), ordinary(b)) for a, b in zip(source, target, strict=True)]


@given(corpora, st.integers(13, 60), st.integers(0, 3))
def test_an_epoch_has_every_pair_once_and_every_batch_its_budget(
    pairs: list[Pair], tokens: int, seed: int
) -> None:
    batches = PairBatches(pairs, tokens, seed)
    for epoch in range(2):
        steps = [batches.batch(epoch * len(batches) + place) for place in range(len(batches))]
        found = [pair for batch in steps for pair in rows(batch)]
        assert sorted(found, key=repr) == sorted(pairs, key=repr)
        for _, target_in, target_out in steps:
            assert target_out.numel() <= tokens
            assert target_in.shape == target_out.shape


@given(corpora, st.integers(13, 60))
def test_rows_begin_with_bos_end_with_eos_and_are_padded(pairs: list[Pair], tokens: int) -> None:
    source, target_in, target_out = PairBatches(pairs, tokens, 0).batch(0)
    for ids in (source, target_in, target_out):
        assert ids.dtype == torch.int64
        assert (ids != Vocabulary.PAD).any(0).all()  # no column of padding alone
    assert (target_in[:, 0] == Vocabulary.BOS).all()
    for before, after in zip(target_in.tolist(), target_out.tolist(), strict=True):
        length = after.index(Vocabulary.EOS)
        assert before[1 : length + 1] == after[:length]
        assert not any(before[length + 1 :])
        assert not any(after[length + 1 :])
    for row in source.tolist():
        assert row == [*ordinary(row), *[Vocabulary.PAD] * (len(row) - len(ordinary(row)))]


def equal(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return all(map(torch.equal, first, second))


def test_a_step_needs_no_history() -> None:
    one, other = PairBatches(CORPUS.train, 200, 3), PairBatches(CORPUS.train, 200, 3)
    steps = [0, 5, 3 * len(one) + 1, len(one), 2, 5]
    forward = [one.batch(step) for step in sorted(steps)]
    backward = [other.batch(step) for step in sorted(steps, reverse=True)]
    assert all(map(equal, forward, reversed(backward)))
    assert not equal(one.batch(5), PairBatches(CORPUS.train, 200, 4).batch(5))  # a control


def test_epochs_differ_in_order_and_in_company() -> None:
    batches = PairBatches(CORPUS.train, 200, 0)
    epochs = [
        [frozenset(rows(batches.batch(epoch * len(batches) + k))) for k in range(len(batches))]
        for epoch in (0, 1)
    ]
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])  # not the same batches in another order


def test_batches_of_about_the_same_length_have_little_padding() -> None:
    batches = PairBatches(CORPUS.train, 200, 0)
    targets = [batches.batch(step)[2] for step in range(len(batches))]
    filled = sum(int((ids != Vocabulary.PAD).sum()) for ids in targets) / sum(ids.numel() for ids in targets)
    assert filled > 0.95
    rng = np.random.default_rng(0)  # a control: unsorted pairs of 4 to 14 words
    lengths = np.array([len(pair.target) + 1 for pair in CORPUS.train])
    mixed = rng.permutation(lengths)[:396].reshape(-1, 22)
    assert mixed.mean() / mixed.max(1).mean() < 0.75


@pytest.mark.parametrize("count", range(1, 30))
def test_what_is_left_over_is_evened_out(count: int) -> None:
    batches = PairBatches([Pair((5,), (5,) * 3)] * count, tokens=40, seed=0)  # 10 rows each
    sizes = sorted(len(batches.batch(step)[0]) for step in range(len(batches)))
    assert sum(sizes) == count
    assert len(sizes) == -(-count // 10)
    assert sizes[0] >= min(count, 5)


@pytest.mark.parametrize(
    ("pairs", "tokens", "seed", "message"),
    [
        ([], 10, 0, "no pairs"),
        ([Pair((5,), (5,) * 10)], 10, 0, r"pair 1 has 11 target tokens, EOS counted, more than .*tokens=10"),
        ([Pair((5,), (5,)), Pair((), (5,))], 10, 0, "pair 2 has an empty source"),
        ([Pair((5,), (5,))], 0, 0, "tokens=0 is too small"),
        ([Pair((5,), (5,))], 10, -1, "seed=-1 is not an integer of at least 0"),
    ],
)
def test_pairs_without_a_batch_are_refused(pairs: list[Pair], tokens: int, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PairBatches(pairs, tokens, seed)


# --- Text ---------------------------------------------------------------------------------------------------

STREAM = np.arange(5, 1_005, dtype=np.int32)


@given(st.integers(0, 2**40), st.integers(0, 3), st.integers(1, 30))
def test_crops_are_parts_of_the_stream(step: int, seed: int, length: int) -> None:
    batches = TextBatches(STREAM, 100, length, seed)
    ids = batches.batch(step)
    assert ids.shape == (100 // length, length)
    assert ids.dtype == torch.int64
    assert torch.equal(ids - ids[:, :1], torch.arange(length).expand_as(ids))
    assert torch.equal(ids, TextBatches(STREAM, 100, length, seed).batch(step))


@settings(max_examples=5)
@given(st.integers(0, 3))
def test_crops_start_everywhere_the_ends_included(seed: int) -> None:
    batches = TextBatches(np.arange(12), 600, 3, seed)
    starts = torch.cat([batches.batch(step)[:, 0] for step in range(10)])
    counts = torch.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert ((counts - 200).square().sum() / 200).item() < 9 + 5 * 18**0.5  # chi-squared, 9 degrees of freedom


def test_steps_and_seeds_have_crops_of_their_own() -> None:
    batches = TextBatches(STREAM, 100, 10, 0)
    assert not torch.equal(batches.batch(0), batches.batch(1))
    assert not torch.equal(batches.batch(0), TextBatches(STREAM, 100, 10, 1).batch(0))


@pytest.mark.parametrize(
    ("tokens", "length", "message"),
    [
        (10, 11, "length=11 is more than a batch of tokens=10"),
        (2_000, 1_001, "length=1001 is more than the stream's 1000 tokens"),
        (0, 1, "tokens=0 is too small"),
        (10, 0, "length=0 is too small"),
    ],
)
def test_crops_that_do_not_fit_are_refused(tokens: int, length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextBatches(STREAM, tokens, length, 0)


def test_steps_below_0_are_refused() -> None:
    with pytest.raises(InputError, match="step=-1 is below 0"):
        PairBatches(CORPUS.train, 200, 0).batch(-1)
    with pytest.raises(InputError, match="step=-1 is below 0"):
        TextBatches(STREAM, 100, 10, 0).batch(-1)
