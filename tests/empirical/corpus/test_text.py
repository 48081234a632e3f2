"""Running text: documents, what is held out, and the English of this Python."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from empirical.corpus import Text, plain_text, python_text
from empirical.corpus.text import _docstrings
from meanfield.errors import InputError

pytest.importorskip("tokenizers")

DOCUMENTS = [f"document {k} is about the number {k}\nand about {k + 1}" for k in range(40)]


def documents(corpus: Text, split: str) -> list[str]:
    stream = getattr(corpus, split)
    assert stream.dtype == np.int32
    assert stream[-1] == corpus.vocabulary.EOS
    ends = np.flatnonzero(stream == corpus.vocabulary.EOS)
    return [corpus.vocabulary.decode(part) for part in np.split(stream, ends + 1)[:-1]]


def test_documents_end_at_empty_lines_and_ends_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\n\n".join(DOCUMENTS[:20]).replace("\n", "\r\n").encode())
    (tmp_path / "b").write_text("\n\n" + "\n \t\n\n".join(DOCUMENTS[20:]) + "\n")
    corpus = plain_text([tmp_path / "a", tmp_path / "b"], vocabulary=270)
    train, valid = documents(corpus, "train"), documents(corpus, "valid")
    assert sorted(train + valid) == sorted(DOCUMENTS)
    assert train == sorted(train, key=DOCUMENTS.index)
    assert len(valid) == 4
    assert corpus.name == "a, b"
    assert not corpus.train.flags.writeable


def test_what_is_held_out_follows_from_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("\n\n".join(DOCUMENTS))
    first, again = (plain_text(path, vocabulary=270) for _ in range(2))
    other = plain_text(str(path), vocabulary=270, seed=1)
    assert first.digest == again.digest != other.digest
    assert documents(first, "valid") != documents(other, "valid")
    assert len(documents(plain_text(path, vocabulary=270, valid=0.5), "valid")) in {20, 21}
    swapped = Text(first.name, first.vocabulary, first.valid, first.train)
    assert swapped.digest != first.digest


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "one document\nof two lines\n",
            {},
            "a has 1 documents, too few to train on some and hold out valid=0.1",
        ),
        ("", {}, "a has 0 documents"),
        ("one\n\ntwo\n", {"valid": 0.9}, "a has 2 documents, too few"),
        ("one\n\ntwo\n", {"valid": 1.0}, "valid=1.0: give the share to hold out, between 0 and 1"),
        ("one\n\ntwo\n", {"valid": 0}, "valid=0: give the share"),
        ("one\n\ntwo\n", {"valid": float("nan")}, "valid=nan: give the share"),
        (
            "one\n\ntwo\n",
            {"vocabulary": 262},
            "vocabulary=262 is larger than the text allows: give at most 261",
        ),
        ("one\n\ntwo\n", {"seed": -1}, "seed=-1 is not an integer of at least 0"),
    ],
)
def test_text_that_is_not_enough_is_refused(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match=message):
        plain_text(tmp_path / "a", **{"vocabulary": 261} | options)


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        plain_text(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no files: give at least one"):
        plain_text([])
    (tmp_path / "a").write_bytes(b"a\n\n\xe9t\xe9\n")
    with pytest.raises(InputError, match=r"a' line 3 has the byte 0xe9"):
        plain_text(tmp_path / "a")


# --- Python's own text --------------------------------------------------------------------------------------


def test_the_text_of_this_python_is_enough_for_a_small_model() -> None:
    corpus = python_text(valid=0.1)
    assert corpus.name.startswith("python-3.")
    assert corpus.vocabulary.size == 2_000
    assert len(corpus.train) > 300_000
    assert 0.08 < len(corpus.valid) / len(corpus.train) < 0.14
    train, valid = documents(corpus, "train"), documents(corpus, "valid")
    assert len({*train, *valid}) == len(train) + len(valid)  # nothing held out is in training as well
    assert sum("Return" in document for document in train) > 1_000


def test_docstrings_are_read_from_sources_without_tests_and_other_packages(tmp_path: Path) -> None:
    source = '"""Module."""\nclass A:\n    """Class.\n\n    More.\n    """\n'
    source += '    async def f(self):\n        "Method."\n    x = "no"\n'
    for place in ("b.py", "a.py", "test/c.py", "site-packages/d.py", "package/tests/e.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(source.replace("Module", place))
    (tmp_path / "none.py").write_text("x = 1\n")
    found = [text for text in _docstrings(tmp_path) if text]
    assert found == ["a.py.", "Class.\n\nMore.", "Method.", "b.py.", "Class.\n\nMore.", "Method."]


def test_a_python_without_its_reference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match=r"comes without pydoc_data, .* or give files to plain_text"):
        python_text()
