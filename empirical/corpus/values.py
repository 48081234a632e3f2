"""Corpora as values: token ids, their vocabularies, and a digest of all of it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from empirical.corpus.vocabulary import Vocabulary


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation as token ids, without special tokens.

    Args:
        source: Ids in the source vocabulary.
        target: Ids in the target vocabulary.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Parallel:
    """A translation corpus; the text of a reference is ``corpus.target.decode(pair.target)``.

    Args:
        name: What the corpus is, for tables and logs.
        source: Vocabulary of the source sentences.
        target: Vocabulary of the translations.
        train: Pairs to train on.
        valid: Pairs that choose between runs.
        test: Pairs for the final score.
        notes: What was done to the data, such as lines that were dropped.
    """

    name: str
    source: Vocabulary
    target: Vocabulary
    train: tuple[Pair, ...]
    valid: tuple[Pair, ...]
    test: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the vocabularies and of every pair in its order: equal only for the same data."""
        digest = hashlib.sha256(self.source.to_json().encode() + b"\n" + self.target.to_json().encode())
        for split in (self.train, self.valid, self.test):
            digest.update(f"{len(split)}".encode())
            for pair in split:
                digest.update(_bytes(pair.source) + _bytes(pair.target))
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split}={len(getattr(self, split))}" for split in ("train", "valid", "test"))
        return f"Parallel({self.name!r}, source={self.source}, target={self.target}, {sizes})"


@dataclass(frozen=True, eq=False, repr=False)
class Text:
    """A corpus of running text: documents one after the other, EOS after each.

    Args:
        name: What the corpus is, for tables and logs.
        vocabulary: The vocabulary.
        train: Token ids to train on, shape (tokens,), int32.
        valid: Token ids for validation.
    """

    name: str
    vocabulary: Vocabulary
    train: NDArray[np.int32]
    valid: NDArray[np.int32]

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the vocabulary and of every token in its order: equal only for the same data."""
        digest = hashlib.sha256(self.vocabulary.to_json().encode())
        for split in (self.train, self.valid):
            digest.update(len(split).to_bytes(8, "little") + split.astype("<i4").tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Text({self.name!r}, {self.vocabulary}, train={len(self.train)}, valid={len(self.valid)} tokens)"
        )


def _bytes(ids: Iterable[int]) -> bytes:
    """Token ids as bytes that say their own length."""
    words = np.fromiter(ids, "<i4")
    return len(words).to_bytes(4, "little") + words.tobytes()
