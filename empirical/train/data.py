"""Which data a run reads: small values that load a corpus, equal ones once in a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from empirical import corpus
from empirical.corpus.files import Empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The generated translation language; see `empirical.corpus.generated`.

    Args:
        seed: Of grammar and sentences.
        train: Sentence pairs to train on.
        valid: Pairs for the validation loss.
        test: Pairs to translate.
        nouns: Number of nouns.
        verbs: Number of verbs.
        adjectives: Number of adjectives.
    """

    seed: int = 0
    train: int = 20_000
    valid: int = 500
    test: int = 100
    nouns: int = 300
    verbs: int = 150
    adjectives: int = 150

    def load(self) -> corpus.Parallel:
        """Generate it."""
        return corpus.generated(
            seed=self.seed,
            train=self.train,
            valid=self.valid,
            test=self.test,
            nouns=self.nouns,
            verbs=self.verbs,
            adjectives=self.adjectives,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelFiles:
    """Two text files whose lines translate each other; see `empirical.corpus.parallel_files`."""

    source: str
    target: str
    vocabulary: int = 8000
    valid: int = 1000
    test: int = 1000
    shared: bool = False
    empty: Empty = "error"

    def load(self) -> corpus.Parallel:
        """Read it."""
        return corpus.parallel_files(
            Path(self.source),
            Path(self.target),
            vocabulary=self.vocabulary,
            valid=self.valid,
            test=self.test,
            shared=self.shared,
            empty=self.empty,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelTable:
    """A file of source, tab, target; see `empirical.corpus.parallel_table`."""

    path: str
    vocabulary: int = 8000
    valid: int = 1000
    test: int = 1000
    shared: bool = False
    empty: Empty = "error"

    def load(self) -> corpus.Parallel:
        """Read it."""
        return corpus.parallel_table(
            Path(self.path),
            vocabulary=self.vocabulary,
            valid=self.valid,
            test=self.test,
            shared=self.shared,
            empty=self.empty,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainText:
    """A text file; see `empirical.corpus.plain_text`."""

    path: str
    vocabulary: int = 8000
    valid: float = 0.1

    def load(self) -> corpus.Text:
        """Read it."""
        return corpus.plain_text(Path(self.path), vocabulary=self.vocabulary, valid=self.valid)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonText:
    """Text of the Python installation; see `empirical.corpus.python_text`."""

    vocabulary: int = 2000
    valid: float = 0.01

    def load(self) -> corpus.Text:
        """Read it."""
        return corpus.python_text(vocabulary=self.vocabulary, valid=self.valid)


Corpus: TypeAlias = Generated | ParallelFiles | ParallelTable | PlainText | PythonText


@lru_cache(maxsize=4)
def load(which: Corpus) -> corpus.Parallel | corpus.Text:
    """Load a corpus, or hand on what this process has loaded.

    Args:
        which: The corpus.

    Returns:
        The data.
    """
    return which.load()
