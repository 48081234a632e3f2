"""Vocabularies: text to token ids and back, and the ids that every vocabulary keeps for itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import ClassVar

from meanfield.errors import InputError


class Vocabulary:
    """Text as token ids: one token a word. Five ids are special; no text encodes to any of them but UNK.

    Args:
        tokens: The words, in the order of their ids; the first has the id 5.

    Example:
        >>> vocabulary = Vocabulary.words(["the", "cat", "sleeps"])
        >>> vocabulary.size, vocabulary.encode("the dog sleeps")
        (8, (5, 3, 7))
        >>> vocabulary.decode((Vocabulary.BOS, 5, 6, 7, Vocabulary.EOS))
        'the cat sleeps'
    """

    PAD: ClassVar[int] = 0
    BOS: ClassVar[int] = 1
    EOS: ClassVar[int] = 2
    UNK: ClassVar[int] = 3
    MASK: ClassVar[int] = 4
    SPECIAL: ClassVar[int] = 5  # how many ids are special: the first

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.tokens = tokens
        self.size = self.SPECIAL + len(tokens)
        self._ids = {token: self.SPECIAL + index for index, token in enumerate(tokens)}

    @classmethod
    def words(cls, words: Iterable[str]) -> Vocabulary:
        """Make a vocabulary with one token a word.

        Args:
            words: The words, in the order of their ids.

        Returns:
            The vocabulary.

        Raises:
            InputError: If there is no word, one twice, or one that is empty or has white space in it.
        """
        tokens = tuple(words)
        if not tokens:
            raise InputError("a vocabulary of no words: give at least one")
        seen: set[str] = set()
        for token in tokens:
            if token.split() != [token]:
                raise InputError(f"word {token!r} is empty or has white space in it: give single words")
            if token in seen:
                raise InputError(f"word {token!r} is there twice: give each word once")
            seen.add(token)
        return cls(tokens)

    def encode(self, text: str) -> tuple[int, ...]:
        """Turn text into token ids.

        Args:
            text: Words between white space.

        Returns:
            An id for each; UNK for a word that the vocabulary lacks.
        """
        return tuple(self._ids.get(word, self.UNK) for word in text.split())

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text.

        Args:
            ids: Token ids, special ones included.

        Returns:
            The text; special tokens are dropped.

        Raises:
            InputError: If an id is outside the vocabulary.
        """
        return " ".join(self.tokens[index - self.SPECIAL] for index in self._ordinary(ids))

    def _ordinary(self, ids: Iterable[int]) -> list[int]:
        """Drop the special ids and check the others."""
        kept = [int(index) for index in ids]
        for index in kept:
            if not 0 <= index < self.size:
                raise InputError(f"token id {index} is outside the vocabulary: ids are 0 to {self.size - 1}")
        return [index for index in kept if index >= self.SPECIAL]

    def to_json(self) -> str:
        """Write the vocabulary as text.

        Returns:
            JSON that `from_json` reads.
        """
        return json.dumps({"kind": "words", "tokens": self.tokens}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read what `to_json` wrote.

        Args:
            text: The JSON.

        Returns:
            The same vocabulary.

        Raises:
            InputError: If it is not that of a vocabulary.
        """
        try:
            record = json.loads(text)
            return cls.words(record["tokens"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{text[:40]!r} is no vocabulary: give what Vocabulary.to_json wrote") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary(size={self.size})"
