"""Translation corpora from local files: two whose lines are translations of each other, or one table."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from empirical.corpus.files import Empty, Lines, read_pairs, read_table
from empirical.corpus.values import Pair, Parallel
from empirical.corpus.vocabulary import Vocabulary
from empirical.draws import seed_number
from meanfield.errors import InputError, positive_integer


def parallel_files(
    source_path: str | Path,
    target_path: str | Path,
    *,
    vocabulary: int = 8_000,
    shared: bool = False,
    valid: int | tuple[str | Path, str | Path] = 500,
    test: int | tuple[str | Path, str | Path] = 500,
    seed: int = 0,
    empty: Empty = "error",
) -> Parallel:
    """Read a translation corpus from two files whose lines are translations of each other.

    Byte pairs are learnt from the training pairs alone. Pairs that are held out by number are drawn by the
    seed.

    Args:
        source_path: File of the source sentences, one a line, UTF-8.
        target_path: File of their translations.
        vocabulary: Tokens of each side's vocabulary.
        shared: Whether both sides have one vocabulary, learnt from both.
        valid: How many pairs to hold out for validation, or the two files that have them.
        test: The same for the test.
        seed: Seed of the pairs held out.
        empty: ``"error"`` refuses pairs with an empty line, ``"drop"`` leaves them out and says so in
            ``notes``.

    Returns:
        The corpus.

    Raises:
        InputError: If a file cannot be read, is not UTF-8, is uneven or has empty lines, there are too few
            pairs to hold out, or the vocabulary is larger than the text allows.
    """
    pairs, notes = read_pairs(source_path, target_path, empty)
    held: dict[str, int | Lines] = {}
    for name, given in (("valid", valid), ("test", test)):
        if isinstance(given, tuple | list):
            if len(given) != 2:
                raise InputError(f"{name}={given!r}: give a number of pairs, or two files (source, target)")
            held[name], more = read_pairs(*given, empty)
            notes += more
        elif isinstance(given, str | Path):
            raise InputError(f"{name}={str(given)!r}: give a number of pairs, or two files (source, target)")
        else:
            held[name] = positive_integer(name, given)
    name = f"{Path(source_path).name}, {Path(target_path).name}"
    return _corpus(name, pairs, held, vocabulary=vocabulary, shared=shared, seed=seed, notes=notes)


def parallel_table(
    tsv_path: str | Path,
    *,
    vocabulary: int = 8_000,
    shared: bool = False,
    valid: int | str | Path = 500,
    test: int | str | Path = 500,
    seed: int = 0,
    empty: Empty = "error",
) -> Parallel:
    """Read a translation corpus from a table: a sentence, a tab and its translation on each line, no heading.

    Args:
        tsv_path: The table, UTF-8. Quotation marks mean themselves.
        vocabulary: Tokens of each side's vocabulary.
        shared: Whether both sides have one vocabulary, learnt from both.
        valid: How many pairs to hold out for validation, or the table that has them.
        test: The same for the test.
        seed: Seed of the pairs held out.
        empty: ``"error"`` refuses pairs with an empty side, ``"drop"`` leaves them out and says so in
            ``notes``.

    Returns:
        The corpus.

    Raises:
        InputError: If a file cannot be read, is not UTF-8, has a line without exactly one tab or an empty
            side, there are too few pairs to hold out, or the vocabulary is larger than the text allows.
    """
    pairs, notes = read_table(tsv_path, empty)
    held: dict[str, int | Lines] = {}
    for name, given in (("valid", valid), ("test", test)):
        if isinstance(given, str | Path):
            held[name], more = read_table(given, empty)
            notes += more
        else:
            held[name] = positive_integer(name, given)
    return _corpus(
        Path(tsv_path).name, pairs, held, vocabulary=vocabulary, shared=shared, seed=seed, notes=notes
    )


def _corpus(
    name: str,
    pairs: Lines,
    held: Mapping[str, int | Lines],
    *,
    vocabulary: int,
    shared: bool,
    seed: int,
    notes: list[str],
) -> Parallel:
    """Hold out pairs, learn the vocabularies from the others, and encode all."""
    train, valid, test = _split(pairs, held["valid"], held["test"], seed_number(seed))
    sides = [[pair[side] for pair in train] for side in (0, 1)]
    if shared:
        source = target = Vocabulary.bpe([*sides[0], *sides[1]], vocabulary)
    else:
        source, target = Vocabulary.bpe_each(sides, vocabulary)
    known = {pair[0] for pair in train}
    for split, lines in (("valid", valid), ("test", test)):
        if count := sum(pair[0] in known for pair in lines):
            notes = [*notes, f"{count} of {len(lines)} {split} sources are among those of train as well"]
    splits = [_encoded(lines, source, target) for lines in (train, valid, test)]
    return Parallel(name, source, target, splits[0], splits[1], splits[2], tuple(notes))


def _encoded(pairs: Lines, source: Vocabulary, target: Vocabulary) -> tuple[Pair, ...]:
    sources = source.encode_all([pair[0] for pair in pairs])
    return tuple(map(Pair, sources, target.encode_all([pair[1] for pair in pairs])))


def _split(pairs: Lines, valid: int | Lines, test: int | Lines, seed: int) -> tuple[Lines, Lines, Lines]:
    """Hold out pairs by the seed, where a number is asked for; each part keeps the file's order."""
    counts = [count if isinstance(count, int) else 0 for count in (valid, test)]
    if len(pairs) <= sum(counts):
        raise InputError(
            f"{len(pairs)} pairs are too few to hold out valid={counts[0]} and test={counts[1]}: "
            "give smaller valid and test, or more lines"
        )
    chance = random.Random(f"split:{seed}")
    order = sorted(range(len(pairs)), key=[chance.random() for _ in pairs].__getitem__)
    places = (order[: counts[0]], order[counts[0] : sum(counts)], order[sum(counts) :])
    first, second, rest = ([pairs[index] for index in sorted(part)] for part in places)
    return rest, first if isinstance(valid, int) else valid, second if isinstance(test, int) else test
