"""Vocabularies: text comes back as it was, specials stay apart, and JSON is exact."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empirical.corpus import Vocabulary, generated
from meanfield.errors import InputError

pytest.importorskip("tokenizers")

LINES = ["the low tower", "the lower towers", "a low flower", "the flowers of the tower"]
LEAST = 261  # five special tokens and 256 bytes
PIECES = Vocabulary.bpe(LINES, LEAST + 8)


@given(st.text())
def test_any_text_comes_back_from_byte_pairs(text: str) -> None:
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    assert all(Vocabulary.SPECIAL <= index < PIECES.size for index in ids)


@given(st.lists(st.sampled_from(["<pad>", "<bos>", "[MASK]", "the", " ", "\n", "low"])))
def test_text_that_looks_like_a_special_token_is_text(parts: list[str]) -> None:
    text = "".join(parts)
    assert PIECES.decode(PIECES.encode(text)) == text


@given(st.lists(st.text(), max_size=5))
def test_many_texts_are_encoded_as_each_by_itself(texts: list[str]) -> None:
    assert list(PIECES.encode_all(texts)) == [PIECES.encode(text) for text in texts]


def test_a_word_is_the_same_at_the_beginning_and_within() -> None:
    assert PIECES.encode("the low")[0] == PIECES.encode("low the")[-1]


def test_frequent_pairs_are_merged_first() -> None:
    merges = json.loads(PIECES.to_json())["merges"]["model"]["merges"]
    # o+w is in 7 words, more often than any other pair
    assert merges[0] == ["o", "w"]


def test_learning_again_gives_the_same() -> None:
    corpus = generated(train=500, valid=1, test=1)
    lines = [corpus.source.decode(pair.source) for pair in corpus.train]
    first, again = Vocabulary.bpe(lines, 600), Vocabulary.bpe(iter(lines), 600)
    assert first == again
    assert first.to_json() == again.to_json()
    assert first != Vocabulary.bpe(lines[:250], 600)


@pytest.mark.parametrize(
    "vocabulary", [PIECES, Vocabulary.words(["größe", "x", "<pad>"])], ids=["bpe", "words"]
)
def test_json_is_an_exact_round_trip(vocabulary: Vocabulary) -> None:
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again.to_json() == vocabulary.to_json()
    assert again.encode("größe x the lowest") == vocabulary.encode("größe x the lowest")


def test_words_that_are_not_there_are_unknown() -> None:
    vocabulary = Vocabulary.words(["b", "a"])
    assert vocabulary.size == 7
    assert vocabulary.encode(" a  b\tc <pad>") == (6, 5, Vocabulary.UNK, Vocabulary.UNK)
    assert vocabulary.decode([1, 6, 3, 5, 4, 2, 0]) == "a b"
    assert vocabulary.encode("") == ()
    assert vocabulary.decode(()) == ""
    assert vocabulary != PIECES


def test_half_a_character_is_decoded_to_the_replacement() -> None:
    first = PIECES.encode("ü")[:-1]
    assert "\ufffd" in PIECES.decode(first)


@pytest.mark.parametrize("index", [-1, 7])
def test_ids_outside_the_vocabulary_are_refused(index: int) -> None:
    with pytest.raises(InputError, match=f"token id {index} is outside the vocabulary: ids are 0 to 6"):
        Vocabulary.words(["a", "b"]).decode([5, index])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no words"),
        (["a", "b", "a"], "'a' is there twice"),
        (["a b"], "'a b' is empty or has white space"),
        ([""], "'' is empty"),
    ],
)
def test_words_must_be_single_and_different(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Vocabulary.words(words)


@pytest.mark.parametrize(
    ("size", "message"),
    [(260, "give at least 261"), (0, "vocabulary=0 is too small"), (2.5, "vocabulary=2.5 is not an integer")],
)
def test_a_vocabulary_has_room_for_every_byte(size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Vocabulary.bpe(LINES, size)


def test_the_largest_vocabulary_is_named_and_works() -> None:
    with pytest.raises(
        InputError, match=r"vocabulary=5000 is larger than the text allows: give at most (\d+)"
    ) as error:
        Vocabulary.bpe(LINES, 5_000)
    largest = int(str(error.value).split("at most ")[1].split(",")[0])
    assert Vocabulary.bpe(LINES, largest).size == largest
    with pytest.raises(InputError, match=f"give at most {largest}, or more text"):
        Vocabulary.bpe(LINES, largest + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "other"}',
        '{"kind": "words"}',
        '{"kind": "words", "words": [1]}',
        '{"kind": "words", "words": 1}',
        '{"kind": "bpe"}',
        '{"kind": "bpe", "merges": {}}',
        PIECES.to_json()[:-5],
    ],
)
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no vocabulary: give what"):
        Vocabulary.from_json(text)


def test_the_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    remedy = r"pip install 'meanfield-transformers\[train\]'"
    with pytest.raises(InputError, match=remedy):
        Vocabulary.bpe(LINES, 300)
    with pytest.raises(InputError, match=remedy):
        Vocabulary.from_json(PIECES.to_json())
    assert Vocabulary.words(["a"]).encode("a") == (5,)  # needs no library
