"""Invented words: stems of syllables, their inflected forms, and how often each stem is drawn."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
GENDERS = 3
CONJUNCTIONS, NAMES, ADVERBS = 4, 30, 30
MOST = 50_000  # stems of a class: beyond, words of at most three syllables get scarce


@dataclass(frozen=True)
class Forms:
    """The word forms of one language, each class by rank: the first stem is the most frequent.

    A noun is ``[plural]``, a verb ``[2 * past + plural]``. Where they agree with their noun, adjectives, the
    definite article and the relative pronoun are ``[2 * gender + plural]``, and the indefinite article is
    ``[gender]``; where they do not, they have a single form.
    """

    definite: tuple[str, ...]
    indefinite: tuple[str, ...]
    relative: tuple[str, ...]
    conjunctions: tuple[str, ...]
    names: tuple[str, ...]
    adverbs: tuple[str, ...]
    nouns: tuple[tuple[str, ...], ...]
    verbs: tuple[tuple[str, ...], ...]
    adjectives: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> list[str]:
        """Every form once, function words first."""
        fixed = (self.definite, self.indefinite, self.relative, self.conjunctions, self.names, self.adverbs)
        return list(itertools.chain(*fixed, *self.nouns, *self.verbs, *self.adjectives))

    @classmethod
    def draw(
        cls, chance: random.Random, verbs: int, adjectives: int, genders: Sequence[int], agreeing: bool
    ) -> Forms:
        """Draw the words of one language; no form stands for two things.

        Args:
            chance: The random numbers.
            verbs: Number of verb stems.
            adjectives: Number of adjective stems.
            genders: Gender of each noun.
            agreeing: Whether nouns show their gender, and the words around them agree with it.

        Returns:
            The forms.
        """
        sounds = _Sounds(chance)
        agreement = sounds.endings(2 * GENDERS) if agreeing else ("",)
        numbers = ("", *sounds.endings(1))
        tenses = sounds.endings(4)
        short = 0 if agreeing else 1  # an ending is a syllable by itself
        return cls(
            definite=sounds.lexeme(agreement, short),
            indefinite=sounds.lexeme(agreement[::2], short),
            relative=sounds.lexeme(agreement, short),
            conjunctions=tuple(sounds.lexeme(("",), 1)[0] for _ in range(CONJUNCTIONS)),
            names=tuple(sounds.lexeme(("",), 2)[0].capitalize() for _ in range(NAMES)),
            adverbs=tuple(sounds.lexeme(("",), 2)[0] for _ in range(ADVERBS)),
            nouns=tuple(
                sounds.lexeme(agreement[2 * gender : 2 * gender + 2] if agreeing else numbers)
                for gender in genders
            ),
            verbs=tuple(sounds.lexeme(tenses) for _ in range(verbs)),
            adjectives=tuple(sounds.lexeme(agreement) for _ in range(adjectives)),
        )


class _Sounds:
    """The sounds of one language, and the words that have been made of them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._onsets = self._some(CONSONANTS, 10)
        self._codas = self._some(CONSONANTS, 6)
        self._vowels = self._some(VOWELS, 4)
        self._used: set[str] = set()

    def _some(self, items: Sequence[str], count: int) -> list[str]:
        """Draw without repetition; of `random` alone, whose numbers no version of Python changes."""
        left = list(items)
        return [left.pop(int(len(left) * self._chance.random())) for _ in range(count)]

    def _one(self, items: Sequence[str]) -> str:
        return items[int(len(items) * self._chance.random())]

    def endings(self, count: int) -> tuple[str, ...]:
        """Draw different endings: a vowel, or a vowel and a consonant."""
        every = [vowel + coda for vowel in self._vowels for coda in ("", *self._codas)]
        return tuple(self._some(every, count))

    def lexeme(self, endings: Sequence[str], syllables: int | None = None) -> tuple[str, ...]:
        """Draw a stem none of whose forms is taken, and inflect it."""
        while True:
            count = 1 + sum(self._chance.random() < share for share in (0.8, 0.3))
            stem = "".join(
                self._one(self._onsets) + self._one(self._vowels)
                for _ in range(count if syllables is None else syllables)
            )
            stem += self._one(self._codas)  # endings begin with a vowel
            forms = tuple(stem + ending for ending in endings)
            if self._used.isdisjoint(forms):
                self._used.update(forms)
                return forms


class Zipf:
    """Ranks with Zipf frequencies: the rank k = 1 ... n has a share of k^(-exponent).

    Args:
        count: How many ranks, n.
        exponent: 0 for equal shares.

    Example:
        >>> ranks, chance = Zipf(1_000, 1.2), random.Random(0)
        >>> drawn = [ranks.draw(chance) for _ in range(10_000)]
        >>> 0.20 < drawn.count(0) / 10_000 < 0.25  # 1 / (1 + 2^-1.2 + ...) = 0.23
        True
    """

    def __init__(self, count: int, exponent: float) -> None:
        self._ends = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(count)))

    def draw(self, chance: random.Random) -> int:
        """Draw a rank.

        Args:
            chance: The random numbers.

        Returns:
            A rank, counted from 0.
        """
        return bisect.bisect_right(self._ends, chance.random() * self._ends[-1], hi=len(self._ends) - 1)
