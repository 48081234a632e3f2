"""Byte pair encoding by the library tokenizers: merges learnt from text, and text as their pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from meanfield.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ALPHABET = 256  # every byte is a piece, so that no text is unknown
SEEN = 2  # a merge that is seen once says nothing about other text
TOGETHER = 1_000  # lines encoded at a time: the library keeps far more of each than its ids


class BytePairs:
    """Pieces of bytes. A space is put before each text, so that a word is the same at its start as within it.

    Args:
        tokenizer: The learnt merges, without special tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        self._numbers = list(range(self.size))  # one object for each id, however often a corpus has it

    @classmethod
    def learn(cls, lines: Iterable[str], size: int) -> BytePairs:
        """Learn merges, most frequent pair first, until there are enough pieces.

        Args:
            lines: The text.
            size: Pieces wanted, the bytes included.

        Returns:
            The pieces; fewer than ``size`` where no pair is left that the text has twice.

        Raises:
            InputError: If the library is missing.

        Source:
            sennrich2016, Sec. 3.2; radford2019, Sec. 2.2 (on bytes).
        """
        library = _library()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=SEEN,
            show_progress=False,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator((f" {line}" for line in lines), trainer)
        return cls(tokenizer)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> BytePairs:
        """Read what `record` gave.

        Args:
            record: The record.

        Returns:
            The same pieces.

        Raises:
            InputError: If the library is missing.
            ValueError: If the record is none of the library's.
        """
        library = _library()
        try:
            return cls(library.Tokenizer.from_str(json.dumps(record["merges"])))
        except Exception as error:  # the library raises the bare Exception
            raise ValueError(str(error)) from error

    def record(self) -> dict[str, Any]:
        """Give what makes the pieces.

        Returns:
            Values that JSON has.
        """
        return {"kind": "bpe", "merges": json.loads(self._tokenizer.to_str())}

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Turn texts into pieces.

        Args:
            texts: The texts.

        Yields:
            The numbers of each text's pieces.
        """
        for start in range(0, len(texts), TOGETHER):
            spaced = [f" {text}" if text else "" for text in texts[start : start + TOGETHER]]
            for encoding in self._tokenizer.encode_batch(spaced, add_special_tokens=False):
                yield [self._numbers[number] for number in encoding.ids]

    def decode(self, numbers: Sequence[int]) -> str:
        """Turn pieces into text.

        Args:
            numbers: Numbers of pieces.

        Returns:
            The text; bytes that are no UTF-8, which a model may well say, are U+FFFD.
        """
        return self._tokenizer.decode(list(numbers)).removeprefix(" ")


def _library() -> Any:
    """Import the library, which only this module needs."""
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            "byte pair encoding needs the package tokenizers, which is not installed: "
            "pip install 'meanfield-transformers[train]'"
        ) from error
    return tokenizers
