"""Masked language modelling: which tokens are hidden from the model, and how."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from empirical.corpus.vocabulary import Vocabulary
from meanfield.errors import InputError

IGNORED = -100  # what torch's cross entropy leaves out
HIDDEN, REPLACED = 0.8, 0.1  # shares of the chosen tokens; the others stay as they are


def masked(
    ids: Tensor, vocabulary_size: int, generator: np.random.Generator, rate: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Choose tokens that a model has to predict, and hide most of them, as BERT is pre-trained.

    Of each row, ``rate`` of the ordinary tokens are chosen, rounded, and at least one; of those 80 % become
    MASK, 10 % some ordinary token, and 10 % stay. Special tokens are never chosen.

    Args:
        ids: Token ids, shape (batch, tokens).
        vocabulary_size: Size of the vocabulary, special tokens included.
        generator: The random numbers.
        rate: Share that is chosen.

    Returns:
        The input of the model and the labels, both of the shape of ``ids``: labels are the true ids where a
        token was chosen and -100 elsewhere.

    Raises:
        InputError: If the rate is not in (0, 1], an id is outside the vocabulary, or there is no ordinary
            token.

    Source:
        devlin2019, Sec. 3.1 and App. A.1, where random tokens may be special ones as well.

    Example:
        >>> inputs, labels = masked(torch.tensor([[7, 8, 2, 9]]), 10, np.random.default_rng(0), rate=1.0)
        >>> labels.tolist()  # 2 is EOS
        [[7, 8, -100, 9]]
    """
    if not 0 < rate <= 1:
        raise InputError(f"rate={rate}: give a share above 0 and at most 1")
    true = ids.cpu().numpy()
    if true.min(initial=0) < 0 or true.max(initial=0) >= vocabulary_size:
        raise InputError(
            f"token ids are {true.min()} to {true.max()} and the vocabulary has {vocabulary_size}: "
            "give the size of the vocabulary that made them"
        )
    ordinary = true >= Vocabulary.SPECIAL
    if not ordinary.any():
        raise InputError("no ordinary token to choose: give rows with text in them")
    count = np.where(ordinary.any(1), np.maximum(np.rint(rate * ordinary.sum(1)), 1), 0)
    order = np.where(ordinary, generator.random(true.shape), np.inf).argsort(1).argsort(1)
    chosen = order < count[:, None]
    fate = generator.random(true.shape)
    inputs = true.copy()
    inputs[chosen & (fate < HIDDEN)] = Vocabulary.MASK
    replaced = chosen & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED)
    inputs[replaced] = generator.integers(Vocabulary.SPECIAL, vocabulary_size, replaced.sum())
    labels = np.where(chosen, true, IGNORED)
    return torch.from_numpy(inputs).to(ids.device), torch.from_numpy(labels).to(ids.device)
