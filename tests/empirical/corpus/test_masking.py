"""Masking: which tokens are chosen, how often they are hidden, and that nothing else is touched."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empirical.corpus import Vocabulary, masked
from meanfield.errors import InputError

SIZE = 1_000
batches = st.integers(1, 6).flatmap(
    lambda tokens: st.lists(
        st.lists(st.integers(0, 20), min_size=tokens, max_size=tokens), min_size=1, max_size=5
    ).filter(lambda rows: any(index >= Vocabulary.SPECIAL for row in rows for index in row))
)


@given(batches, st.floats(0.01, 1.0), st.integers(0, 9))
def test_of_each_row_its_share_is_chosen_and_nothing_else_is_touched(
    rows: list[list[int]], rate: float, seed: int
) -> None:
    ids = torch.tensor(rows)
    kept = ids.clone()
    inputs, labels = masked(ids, 21, np.random.default_rng(seed), rate)
    chosen = labels != -100
    assert torch.equal(ids, kept)
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert (ids[chosen] >= Vocabulary.SPECIAL).all()
    new = inputs[chosen]
    assert ((new == Vocabulary.MASK) | ((new >= Vocabulary.SPECIAL) & (new < 21))).all()
    ordinary = (ids >= Vocabulary.SPECIAL).sum(1)
    for count, total in zip(chosen.sum(1).tolist(), ordinary.tolist(), strict=True):
        assert count == (max(1, round(rate * total)) if total else 0)
    assert inputs.dtype == labels.dtype == torch.int64


def test_of_the_chosen_80_percent_are_hidden_and_10_replaced() -> None:
    ids = torch.full((2_000, 100), 7)
    inputs, labels = masked(ids, SIZE, np.random.default_rng(0))
    chosen = labels != -100
    count = int(chosen.sum())
    assert count == 15 * 2_000
    hidden, stayed = (inputs == Vocabulary.MASK).sum().item(), (inputs[chosen] == 7).sum().item()

    def far(found: float, share: float) -> bool:
        return abs(found / count - share) > 4 * (share * (1 - share) / count) ** 0.5

    assert not far(hidden, 0.8)
    assert not far(stayed, 0.1 + 0.1 / (SIZE - Vocabulary.SPECIAL))
    assert far(hidden, 0.8 * 1.05)  # controls 5 % off
    assert far(stayed, 0.1 * 1.1)
    places = chosen.float().mean(0)  # every place is chosen as often
    assert (places - 0.15).abs().max() < 5 * (0.15 * 0.85 / 2_000) ** 0.5
    replaced = inputs[chosen & (inputs != 7) & (inputs != Vocabulary.MASK)]
    assert replaced.min() < 20
    assert replaced.max() >= SIZE - 20


def test_the_generator_alone_decides() -> None:
    ids = torch.arange(5, 105).reshape(2, 50)
    first, again = (masked(ids, SIZE, np.random.default_rng(3)) for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], masked(ids, SIZE, np.random.default_rng(4))[0])


@pytest.mark.parametrize(
    ("rows", "size", "rate", "message"),
    [
        ([[5]], 10, 0.0, "rate=0.0: give a share above 0"),
        ([[5]], 10, 1.1, "rate=1.1: give"),
        ([[5]], 10, float("nan"), "rate=nan: give"),
        ([[5, 10]], 10, 0.15, "token ids are 5 to 10 and the vocabulary has 10"),
        ([[5, -1]], 10, 0.15, "token ids are -1 to 5"),
        ([[0, 2]], 10, 0.15, "no ordinary token to choose"),
    ],
)
def test_what_cannot_be_masked_is_refused(
    rows: list[list[int]], size: int, rate: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        masked(torch.tensor(rows), size, np.random.default_rng(0), rate)
