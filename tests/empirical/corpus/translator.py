"""A translator that has the words of the source sentence alone: the documented grammar from its other end."""

from dataclasses import dataclass
from typing import Any

from empirical.corpus.grammar import Language


@dataclass
class Noun:
    """What a noun or a name says on, in the target language, and what agrees with it."""

    words: list[str]
    plural: bool


class Translator:
    """Parses a source sentence by its words, from left to right, and says it in the target language.

    ``inverts``, ``agrees`` and ``turns`` can be switched off: a translator without a rule must be found out.
    """

    def __init__(
        self, language: Language, *, inverts: bool = True, agrees: bool = True, turns: bool = True
    ) -> None:
        self.inverts, self.agrees, self.turns = inverts, agrees, turns
        self.to, self.genders = language.target_forms, language.genders
        source = language.source_forms
        self.meaning: dict[str, tuple[str, Any]] = {
            source.definite[0]: ("article", True),
            source.indefinite[0]: ("article", False),
            source.relative[0]: ("relative", None),
        }
        for kind, words in (
            ("conjunction", source.conjunctions),
            ("name", source.names),
            ("adverb", source.adverbs),
        ):
            self.meaning |= {word: (kind, k) for k, word in enumerate(words)}
        self.meaning |= {forms[0]: ("adjective", k) for k, forms in enumerate(source.adjectives)}
        for k, forms in enumerate(source.nouns):
            self.meaning |= {form: ("noun", (k, bool(plural))) for plural, form in enumerate(forms)}
        for k, forms in enumerate(source.verbs):
            self.meaning |= {form: ("verb", (k, place >= 2)) for place, form in enumerate(forms)}

    def translate(self, text: str) -> str:
        self.left = [self.meaning[word] for word in text.split()]
        adverb = [self.to.adverbs[self.take("adverb")]] if self.next() == "adverb" else []
        main, place = self.clause(self.noun_phrase())
        before = []
        if self.next() == "conjunction":
            before = [self.to.conjunctions[self.take("conjunction")]]
            before += self.clause(self.noun_phrase())[0]
        assert not self.left, text
        if (adverb or before) and self.inverts:
            main.insert(0, main.pop(place))
        return " ".join(before + adverb + main)

    def next(self) -> str:
        return self.left[0][0] if self.left else ""

    def take(self, kind: str) -> Any:
        found, value = self.left.pop(0)
        assert found == kind, (found, kind)
        return value

    def clause(self, subject: Noun) -> tuple[list[str], int]:
        """The words of a clause with its verb last, and the verb's place."""
        verb, past = self.take("verb")
        words = list(subject.words)
        if self.next() in {"article", "name"}:
            words += self.noun_phrase().words
        form = self.to.verbs[verb][(2 if past else 0) + (1 if subject.plural else 0)]
        return [*words, form], len(words)

    def noun_phrase(self) -> Noun:
        if self.next() == "name":
            return Noun([self.to.names[self.take("name")]], False)
        definite = self.take("article")
        adjective = self.take("adjective") if self.next() == "adjective" else None
        noun, plural = self.take("noun")
        gender = self.genders[noun] if self.agrees else 0
        ending = gender * 2 + (1 if plural else 0)
        words = [self.to.nouns[noun][plural]]
        if adjective is not None:
            words.insert(1 if self.turns else 0, self.to.adjectives[adjective][ending])
        if definite:
            words = [self.to.definite[ending], *words]
        elif not plural:
            words = [self.to.indefinite[gender], *words]
        if self.next() == "relative":
            self.take("relative")
            words += [self.to.relative[ending], *self.clause(Noun([], plural))[0]]
        return Noun(words, plural)
