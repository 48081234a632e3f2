"""Translation corpora from files: what is held out, what the vocabularies have seen, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from empirical.corpus import Parallel, generated, parallel_files, parallel_table
from meanfield.errors import InputError

pytest.importorskip("tokenizers")

GENERATED = generated(train=298, valid=1, test=1)
PAIRS = [
    (GENERATED.source.decode(pair.source), GENERATED.target.decode(pair.target))
    for split in (GENERATED.train, GENERATED.valid, GENERATED.test)
    for pair in split
]
SIZES: dict[str, Any] = {"vocabulary": 300, "valid": 20, "test": 30}


def written(folder: Path, pairs: list[tuple[str, str]], name: str = "all") -> tuple[Path, Path, Path]:
    """Source, target, and both as a table."""
    paths = (folder / f"{name}.src", folder / f"{name}.trg", folder / f"{name}.tsv")
    for path, lines in zip(paths, (*zip(*pairs, strict=True), map("\t".join, pairs)), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))
    return paths


def texts(corpus: Parallel, split: str) -> list[tuple[str, str]]:
    pairs = getattr(corpus, split)
    return [(corpus.source.decode(pair.source), corpus.target.decode(pair.target)) for pair in pairs]


def test_every_line_is_in_one_split_as_it_was(tmp_path: Path) -> None:
    source, target, table = written(tmp_path, PAIRS)
    corpus = parallel_files(source, target, **SIZES)
    splits = {split: texts(corpus, split) for split in ("train", "valid", "test")}
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 250, "valid": 20, "test": 30}
    assert sorted(pair for pairs in splits.values() for pair in pairs) == sorted(PAIRS)
    for pairs in splits.values():
        assert pairs == sorted(pairs, key=PAIRS.index)
    assert corpus.name == "all.src, all.trg"
    assert corpus.notes == ()
    same = parallel_table(table, **SIZES)
    assert same.name == "all.tsv"
    assert same.digest == corpus.digest


def test_what_is_held_out_follows_from_the_seed(tmp_path: Path) -> None:
    source, target, _ = written(tmp_path, PAIRS)
    first, again = (parallel_files(source, target, **SIZES) for _ in range(2))
    other = parallel_files(source, target, seed=1, **SIZES)
    assert first.digest == again.digest != other.digest
    assert set(texts(first, "test")) != set(texts(other, "test"))


def test_files_held_out_are_used_as_they_are(tmp_path: Path) -> None:
    source, target, table = written(tmp_path, PAIRS[:250])
    held = written(tmp_path, PAIRS[250:], "held")
    corpus = parallel_files(source, target, vocabulary=300, valid=held[:2], test=held[:2])
    assert texts(corpus, "train") == PAIRS[:250]
    assert texts(corpus, "valid") == texts(corpus, "test") == PAIRS[250:]
    assert parallel_table(table, vocabulary=300, valid=held[2], test=str(held[2])).digest == corpus.digest
    mixed = parallel_files(source, target, vocabulary=300, valid=held[:2], test=10)
    assert (len(mixed.train), len(mixed.valid), len(mixed.test)) == (240, 50, 10)


def test_vocabularies_are_learnt_from_the_training_pairs_alone(tmp_path: Path) -> None:
    source, target, _ = written(tmp_path, PAIRS[:250])
    strange = written(tmp_path, [("żółw żółw", "żółw")] * 20, "strange")
    corpus = parallel_files(source, target, vocabulary=300, valid=strange[:2], test=10)
    assert len(corpus.source.encode("żółw")) == 1 + len("żółw".encode())  # single bytes
    assert texts(corpus, "valid") == [("żółw żółw", "żółw")] * 20
    assert corpus.source != corpus.target
    shared = parallel_files(source, target, vocabulary=300, valid=10, test=10, shared=True)
    assert shared.source is shared.target


def test_the_largest_vocabulary_is_that_of_both_sides(tmp_path: Path) -> None:
    small = [(source, "a b a b") for source, _ in PAIRS]
    for pairs, name in ((small, "right"), ([pair[::-1] for pair in small], "left")):
        source, target, table = written(tmp_path, pairs, name)
        with pytest.raises(InputError, match=r"give at most (\d+)") as error:
            parallel_files(source, target, **SIZES | {"vocabulary": 300})
        largest = int(str(error.value).split("at most ")[1].split(",")[0])
        assert parallel_table(table, **SIZES | {"vocabulary": largest}).source.size == largest


def test_what_was_done_to_the_data_is_noted(tmp_path: Path) -> None:
    source, target, _ = written(tmp_path, [*PAIRS[:250], ("", "a")])
    held = written(tmp_path, [*PAIRS[240:270], ("a", " ")], "held")
    corpus = parallel_files(source, target, vocabulary=300, valid=held[:2], test=10, empty="drop")
    assert len(corpus.notes) == 3
    assert "all.src' has 1 empty lines (line 251): 1 pairs dropped, 250 kept" in corpus.notes[0]
    assert "held.trg' has 1 empty lines (line 31): 1 pairs dropped, 30 kept" in corpus.notes[1]
    assert "of 30 valid sources are among those of train as well" in corpus.notes[2]


def test_a_digest_is_of_everything() -> None:
    corpus = GENERATED
    parts = {"train": corpus.train[1:], "valid": corpus.test, "test": corpus.valid, "source": corpus.target}
    values = {name: getattr(corpus, name) for name in ("name", "source", "target", "train", "valid", "test")}
    digests = {Parallel(**values | {name: part}).digest for name, part in parts.items()}
    assert len(digests | {corpus.digest}) == 5
    assert Parallel(**values).digest == corpus.digest


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"valid": 200, "test": 100}, "300 pairs are too few to hold out valid=200 and test=100"),
        ({"valid": 0}, "valid=0 is too small"),
        ({"test": 0.1}, "test=0.1 is not an integer"),
        ({"valid": ("a",)}, r"valid=\('a',\): give a number of pairs, or two files"),
        ({"valid": "dev.de"}, "valid='dev.de': give a number of pairs, or two files"),
        ({"valid": ("nowhere", "nowhere")}, "there is no file 'nowhere'"),
        ({"vocabulary": 5_000}, r"vocabulary=5000 is larger than the text allows: give at most \d+"),
        ({"vocabulary": 100}, "vocabulary=100 is too small: give at least 261"),
        ({"seed": 0.5}, "seed=0.5 is not an integer"),
        ({"empty": "keep"}, "unknown empty 'keep'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    source, target, table = written(tmp_path, PAIRS)
    with pytest.raises(InputError, match=message):
        parallel_files(source, target, **SIZES | wrong)
    if not isinstance(wrong.get("valid"), tuple | str):
        with pytest.raises(InputError, match=message):
            parallel_table(table, **SIZES | wrong)
