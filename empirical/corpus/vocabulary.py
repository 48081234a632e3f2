"""Vocabularies: text to token ids and back, and the ids that every vocabulary keeps for itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from empirical.corpus.byte_pairs import ALPHABET, BytePairs
from meanfield.errors import InputError, positive_integer


class Vocabulary:
    """Text as token ids: one token a word, or one a piece of bytes.

    The ids PAD, BOS, EOS, UNK and MASK are special: no text encodes to them, but for words that a vocabulary
    of words lacks, which are UNK. Ids of ordinary tokens begin with 5. Equal vocabularies have the same JSON.

    Args:
        codec: What turns text into numbers from 0 on.

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
    SPECIAL: ClassVar[int] = 5  # the first ids, this many, are special

    def __init__(self, codec: Words | BytePairs) -> None:
        self._codec = codec
        self.size = self.SPECIAL + codec.size

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
        return cls(Words(words))

    @classmethod
    def bpe(cls, lines: Iterable[str], size: int) -> Vocabulary:
        r"""Learn a vocabulary of pieces from text, by byte pair encoding.

        Args:
            lines: The text.
            size: Number of tokens, the 5 special ones and the 256 single bytes included.

        Returns:
            The vocabulary: every text is encoded, and decoded to itself.

        Raises:
            InputError: If the size is below 261 or beyond what the text allows, or the package tokenizers is
                missing.

        Source:
            sennrich2016, Sec. 3.2; radford2019, Sec. 2.2 (on bytes).

        Example:
            >>> vocabulary = Vocabulary.bpe(["low low low lower"], size=264)  # merges: l+o, lo+w, ␣+low
            >>> len(vocabulary.encode("low")), len(vocabulary.encode("lower"))
            (1, 3)
            >>> vocabulary.decode(vocabulary.encode("  größer\n"))
            '  größer\n'
        """
        return cls.bpe_each([lines], size)[0]

    @classmethod
    def bpe_each(cls, texts: Iterable[Iterable[str]], size: int) -> list[Vocabulary]:
        """Learn a vocabulary of each of several texts, all of one size.

        Args:
            texts: The lines of each text.
            size: Number of tokens of each vocabulary.

        Returns:
            The vocabularies, as `bpe` learns them.

        Raises:
            InputError: If the size is below 261 or beyond what one of the texts allows, or the package
                tokenizers is missing.
        """
        smallest = cls.SPECIAL + ALPHABET
        if positive_integer("vocabulary", size) < smallest:
            raise InputError(
                f"vocabulary={size} is too small: give at least {smallest}, "
                "for single bytes and special tokens"
            )
        found = [cls(BytePairs.learn(lines, size - cls.SPECIAL)) for lines in texts]
        if (largest := min(vocabulary.size for vocabulary in found)) < size:
            raise InputError(
                f"vocabulary={size} is larger than the text allows: give at most {largest}, or more text"
            )
        return found

    def encode(self, text: str) -> tuple[int, ...]:
        """Turn text into token ids.

        Args:
            text: The text.

        Returns:
            Its ids.
        """
        return next(self.encode_all([text]))

    def encode_all(self, texts: Sequence[str]) -> Iterator[tuple[int, ...]]:
        """Turn texts into token ids, faster than one by one.

        Args:
            texts: The texts.

        Yields:
            The ids of each.
        """
        for numbers in self._codec.encode(texts):
            yield tuple(self.UNK if number is None else self.SPECIAL + number for number in numbers)

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text.

        Args:
            ids: Token ids, special ones included.

        Returns:
            The text; special tokens are dropped.

        Raises:
            InputError: If an id is outside the vocabulary.
        """
        numbers = [int(index) for index in ids]
        for index in numbers:
            if not 0 <= index < self.size:
                raise InputError(f"token id {index} is outside the vocabulary: ids are 0 to {self.size - 1}")
        return self._codec.decode([index - self.SPECIAL for index in numbers if index >= self.SPECIAL])

    def to_json(self) -> str:
        """Write the vocabulary as text.

        Returns:
            JSON that `from_json` reads.
        """
        return json.dumps(self._codec.record(), ensure_ascii=False)

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
            kinds: dict[str, type[Words] | type[BytePairs]] = {"words": Words, "bpe": BytePairs}
            return cls(kinds[record["kind"]].from_record(record))
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{text[:40]!r} is no vocabulary: give what Vocabulary.to_json wrote") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.size)

    def __repr__(self) -> str:
        return f"Vocabulary(size={self.size})"


class Words:
    """Words between white space.

    Args:
        words: The words, in the order of their numbers.

    Raises:
        InputError: If there is no word, one twice, or one that is empty or has white space in it.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = list(words)
        self.size = len(self._words)
        if not self._words:
            raise InputError("a vocabulary of no words: give at least one")
        self._numbers: dict[str, int] = {}
        for number, word in enumerate(self._words):
            if word.split() != [word]:
                raise InputError(f"word {word!r} is empty or has white space in it: give single words")
            if self._numbers.setdefault(word, number) != number:
                raise InputError(f"word {word!r} is there twice: give each word once")

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Words:
        """Read what `record` gave.

        Args:
            record: The record.

        Returns:
            The same words.

        Raises:
            TypeError: If these are no words.
        """
        words = record["words"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise TypeError("no list of texts")
        return cls(words)

    def record(self) -> dict[str, Any]:
        """Give what makes the words.

        Returns:
            Values that JSON has.
        """
        return {"kind": "words", "words": self._words}

    def encode(self, texts: Sequence[str]) -> Iterator[list[int | None]]:
        """Turn texts into numbers of words.

        Args:
            texts: The texts.

        Yields:
            The numbers of each text's words, None for one that is not there.
        """
        for text in texts:
            yield [self._numbers.get(word) for word in text.split()]

    def decode(self, numbers: Sequence[int]) -> str:
        """Turn numbers of words into text.

        Args:
            numbers: The numbers.

        Returns:
            The words with a space between them.
        """
        return " ".join(self._words[number] for number in numbers)
