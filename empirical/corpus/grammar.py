"""The grammar of the generated language: sentences as trees, and what both languages make of them."""

from __future__ import annotations

import random
from typing import NamedTuple

from empirical.corpus.lexicon import ADVERBS, CONJUNCTIONS, GENDERS, NAMES, Forms, Zipf

# Shares of what a sentence may have; those that make it harder are arguments of `generated`.
ADVERB, OBJECT, PAST = 0.25, 0.8, 0.4
NAME, DEFINITE, PLURAL, ADJECTIVE = 0.15, 0.6, 0.35, 0.3


class Phrase(NamedTuple):
    """A noun with its article, and perhaps an adjective and a relative clause; or a name alone."""

    name: int | None
    noun: int = 0
    plural: bool = False
    definite: bool = False
    adjective: int | None = None
    relative: Clause | None = None


class Clause(NamedTuple):
    """A verb with its subject, which a relative clause lacks, and perhaps an object."""

    subject: Phrase | None
    verb: int
    past: bool
    object: Phrase | None


class Sentence(NamedTuple):
    """A main clause, perhaps an adverb before it and a subordinate clause after it."""

    adverb: int | None
    main: Clause
    conjunction: int | None
    subordinate: Clause | None


class Language:
    """The grammar of both languages with the words of one seed.

    Args:
        seed: Seed of the words.
        nouns: Number of noun stems.
        verbs: Number of verb stems.
        adjectives: Number of adjective stems.
        exponent: Zipf exponent of the stems of each class.
        relative: Share of noun phrases of main clauses with a relative clause.
        subordinate: Share of sentences with a subordinate clause.

    Example:
        >>> sizes = {"nouns": 600, "verbs": 250, "adjectives": 150}
        >>> language = Language(seed=0, **sizes, exponent=1.2, relative=0.1, subordinate=0.15)
        >>> cat, boys = Phrase(None, noun=0, adjective=0, definite=True), Phrase(None, noun=1, plural=True)
        >>> sentence = Sentence(0, Clause(cat, verb=0, past=True, object=boys), None, None)
        >>> " ".join(language.source(sentence))  # today the good cat saw some boys
        'fisar nem filel zipen luzanefi ser gunanem'
        >>> " ".join(language.target(sentence))  # today saw the cat good boys
        'zedod fufidug dog gepugog pipodog zedogud'
    """

    def __init__(
        self,
        *,
        seed: int,
        nouns: int,
        verbs: int,
        adjectives: int,
        exponent: float,
        relative: float,
        subordinate: float,
    ) -> None:
        chance = random.Random(f"genders:{seed}")  # seeds that are texts give the same on every Python
        self.genders = [int(GENDERS * chance.random()) for _ in range(nouns)]
        sizes = (verbs, adjectives, self.genders)
        self.source_forms = Forms.draw(random.Random(f"source:{seed}"), *sizes, agreeing=False)
        self.target_forms = Forms.draw(random.Random(f"target:{seed}"), *sizes, agreeing=True)
        self._nouns, self._verbs = Zipf(nouns, exponent), Zipf(verbs, exponent)
        self._adjectives, self._adverbs = Zipf(adjectives, exponent), Zipf(ADVERBS, exponent)
        self._names, self._conjunctions = Zipf(NAMES, exponent), Zipf(CONJUNCTIONS, exponent)
        self._relative, self._subordinate = relative, subordinate

    # --- Sentences ------------------------------------------------------------------------------------------

    def sentence(self, chance: random.Random) -> Sentence:
        """Draw a sentence.

        Args:
            chance: The random numbers.

        Returns:
            What it says, in neither language yet.
        """
        adverb = self._adverbs.draw(chance) if chance.random() < ADVERB else None
        main = self._clause(chance, self._phrase(chance, self._relative), self._relative)
        if chance.random() >= self._subordinate:
            return Sentence(adverb, main, None, None)
        conjunction = self._conjunctions.draw(chance)
        return Sentence(adverb, main, conjunction, self._clause(chance, self._phrase(chance, 0.0), 0.0))

    def _clause(self, chance: random.Random, subject: Phrase | None, relative: float) -> Clause:
        verb, past = self._verbs.draw(chance), chance.random() < PAST
        return Clause(
            subject, verb, past, self._phrase(chance, relative) if chance.random() < OBJECT else None
        )

    def _phrase(self, chance: random.Random, relative: float) -> Phrase:
        if chance.random() < NAME:
            return Phrase(self._names.draw(chance))
        noun, plural, definite = (
            self._nouns.draw(chance),
            chance.random() < PLURAL,
            chance.random() < DEFINITE,
        )
        adjective = self._adjectives.draw(chance) if chance.random() < ADJECTIVE else None
        clause = self._clause(chance, None, 0.0) if chance.random() < relative else None
        return Phrase(None, noun, plural, definite, adjective, clause)

    # --- The source language: subject verb object, adjectives before their nouns ----------------------------

    def source(self, sentence: Sentence) -> list[str]:
        """Say a sentence in the source language.

        Args:
            sentence: The sentence.

        Returns:
            Its words.
        """
        forms = self.source_forms
        words = [] if sentence.adverb is None else [forms.adverbs[sentence.adverb]]
        words += self._source_clause(sentence.main)
        if sentence.conjunction is not None and sentence.subordinate is not None:
            words += [forms.conjunctions[sentence.conjunction], *self._source_clause(sentence.subordinate)]
        return words

    def _source_clause(self, clause: Clause, plural: bool = False) -> list[str]:
        words = []
        if clause.subject is not None:
            words, plural = self._source_phrase(clause.subject), clause.subject.plural
        words.append(self.source_forms.verbs[clause.verb][2 * clause.past + plural])
        return words if clause.object is None else words + self._source_phrase(clause.object)

    def _source_phrase(self, phrase: Phrase) -> list[str]:
        forms = self.source_forms
        if phrase.name is not None:
            return [forms.names[phrase.name]]
        words = [(forms.definite if phrase.definite else forms.indefinite)[0]]
        if phrase.adjective is not None:
            words.append(forms.adjectives[phrase.adjective][0])
        words.append(forms.nouns[phrase.noun][phrase.plural])
        if phrase.relative is not None:
            words += [forms.relative[0], *self._source_clause(phrase.relative, phrase.plural)]
        return words

    # --- The target language: verb last, or first after an adverb or a clause; adjectives after nouns -------

    def target(self, sentence: Sentence) -> list[str]:
        """Say a sentence in the target language.

        Args:
            sentence: The sentence.

        Returns:
            Its words.
        """
        forms = self.target_forms
        words = []
        if sentence.conjunction is not None and sentence.subordinate is not None:
            words += [forms.conjunctions[sentence.conjunction], *self._target_clause(sentence.subordinate)]
        if sentence.adverb is not None:
            words.append(forms.adverbs[sentence.adverb])
        return words + self._target_clause(sentence.main, inverted=bool(words))

    def _target_clause(self, clause: Clause, plural: bool = False, inverted: bool = False) -> list[str]:
        words = []
        if clause.subject is not None:
            words, plural = self._target_phrase(clause.subject), clause.subject.plural
        if clause.object is not None:
            words += self._target_phrase(clause.object)
        verb = self.target_forms.verbs[clause.verb][2 * clause.past + plural]
        return [verb, *words] if inverted else [*words, verb]

    def _target_phrase(self, phrase: Phrase) -> list[str]:
        forms = self.target_forms
        if phrase.name is not None:
            return [forms.names[phrase.name]]
        gender = self.genders[phrase.noun]
        agreement = 2 * gender + phrase.plural
        words = [forms.nouns[phrase.noun][phrase.plural]]
        if phrase.definite:
            words.insert(0, forms.definite[agreement])
        elif not phrase.plural:
            words.insert(0, forms.indefinite[gender])
        if phrase.adjective is not None:
            words.append(forms.adjectives[phrase.adjective][agreement])
        if phrase.relative is not None:
            words += [forms.relative[agreement], *self._target_clause(phrase.relative, phrase.plural)]
        return words
