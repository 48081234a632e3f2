"""A translation corpus from a grammar: sentences of an invented language, translated exactly into another."""

from __future__ import annotations

import random
from collections.abc import Iterator

from empirical.corpus.grammar import Language
from empirical.corpus.lexicon import MOST
from empirical.corpus.values import Pair, Parallel
from empirical.corpus.vocabulary import Vocabulary
from empirical.draws import seed_number
from meanfield.errors import InputError, positive_integer

SHORTEST = 4  # words of a source sentence


def generated(
    *,
    seed: int = 0,
    train: int = 20_000,
    valid: int = 500,
    test: int = 500,
    nouns: int = 600,
    verbs: int = 250,
    adjectives: int = 150,
    exponent: float = 1.2,
    longest: int = 14,
    relative: float = 0.1,
    subordinate: float = 0.15,
) -> Parallel:
    """Draw a translation corpus from a grammar whose translations are exact.

    The target follows from the source alone: its entropy given the source is 0, and the best BLEU is 100.
    Sources have 4 words or more, and none is there twice, in whatever split. The source language says
    subject, verb, object and puts adjectives before nouns; verbs agree in number. The target language puts
    the verb last, or first after an adverb or a subordinate clause; subordinate clauses come first,
    adjectives follow nouns; articles, adjectives and relative pronouns agree with the noun in three genders
    and two numbers; an indefinite plural has no article.

    Args:
        seed: Seed of words and sentences.
        train: Pairs to train on; more or fewer leave the other splits as they are.
        valid: Pairs of the validation split.
        test: Pairs of the test split.
        nouns: Number of noun stems, two forms each in both languages.
        verbs: Number of verb stems, four forms each.
        adjectives: Number of adjective stems: one form in the source, six in the target.
        exponent: Zipf exponent of the stems; 0 makes all equally frequent, which is hardest.
        longest: Most words of a source sentence.
        relative: Share of noun phrases of main clauses with a relative clause.
        subordinate: Share of sentences with a subordinate clause.

    Returns:
        The corpus; every word form is a token.

    Raises:
        InputError: If a size is out of range, or the grammar has too few sentences of that length.

    Example:
        >>> corpus = generated(train=2, valid=1, test=1)
        >>> corpus.source.decode(corpus.test[0].source), corpus.target.decode(corpus.test[0].target)
        ('nem busem luzanefi nem lagiv', 'did bivid did tetedid fufidug')
    """
    sizes = {"train": train, "valid": valid, "test": test}
    for name, value in sizes.items():
        positive_integer(name, value)
    for name, value in {"nouns": nouns, "verbs": verbs, "adjectives": adjectives}.items():
        if positive_integer(name, value) > MOST:
            raise InputError(f"{name}={value} is too large: give at most {MOST}")
    if positive_integer("longest", longest) < SHORTEST:
        raise InputError(f"longest={longest} is too short: give at least {SHORTEST} words")
    if not 0 <= exponent <= 10:
        raise InputError(f"exponent={exponent} is out of range: give 0 (equal frequencies) to 10")
    for name, share in {"relative": relative, "subordinate": subordinate}.items():
        if not 0 <= share <= 1:
            raise InputError(f"{name}={share} is no share: give 0 to 1")
    seed = seed_number(seed)
    language = Language(
        seed=seed,
        nouns=nouns,
        verbs=verbs,
        adjectives=adjectives,
        exponent=exponent,
        relative=relative,
        subordinate=subordinate,
    )
    source = Vocabulary.words(language.source_forms.words)
    target = Vocabulary.words(language.target_forms.words)
    drawn = _different(language, random.Random(f"sentences:{seed}"), sum(sizes.values()), longest)
    pairs = [Pair(source.encode(" ".join(a)), target.encode(" ".join(b))) for a, b in drawn]
    return Parallel(  # train comes last: its size leaves the others as they are
        f"generated-{seed}",
        source,
        target,
        tuple(pairs[valid + test :]),
        tuple(pairs[:valid]),
        tuple(pairs[valid : valid + test]),
    )


def _different(
    language: Language, chance: random.Random, count: int, longest: int
) -> Iterator[tuple[list[str], list[str]]]:
    """Draw sentences and translations until there are enough different ones of the right length."""
    seen: set[str] = set()
    for _ in range(100 * count + 1_000):
        sentence = language.sentence(chance)
        words = language.source(sentence)
        if SHORTEST <= len(words) <= longest and (text := " ".join(words)) not in seen:
            seen.add(text)
            yield words, language.target(sentence)
            if len(seen) == count:
                return
    raise InputError(
        f"{count} different sentences of at most {longest} words were asked for and {len(seen)} found: "
        "give fewer, or more nouns and verbs, a smaller exponent, or a larger longest"
    )
