"""Plain text for language models: local files, or the English that comes with Python."""

from __future__ import annotations

import ast
import platform
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from empirical.corpus.files import read_text
from empirical.corpus.values import Text
from empirical.corpus.vocabulary import Vocabulary
from empirical.draws import seed_number
from meanfield.errors import InputError

# Folders of the standard library that are left out: tests, packages of others, bundled applications.
TESTS = frozenset({"test", "tests", "idle_test"})
LEFT_OUT = TESTS | {"site-packages", "dist-packages", "idlelib", "turtledemo", "lib2to3"}


def plain_text(
    path_or_paths: str | Path | Sequence[str | Path],
    *,
    vocabulary: int = 8_000,
    valid: float = 0.1,
    seed: int = 0,
) -> Text:
    """Read a text corpus from files; an empty line or the end of a file ends a document.

    Byte pairs are learnt from the documents to train on alone.

    Args:
        path_or_paths: The file or files, UTF-8.
        vocabulary: Tokens of the vocabulary.
        valid: Share of the characters to hold out for validation, in whole documents that the seed draws.
        seed: Seed of the documents held out.

    Returns:
        The corpus.

    Raises:
        InputError: If a file cannot be read or is not UTF-8, there are fewer than two documents, the share is
            not between 0 and 1, or the vocabulary is larger than the text allows.
    """
    paths = [path_or_paths] if isinstance(path_or_paths, str | Path) else list(path_or_paths)
    if not paths:
        raise InputError("no files: give at least one")
    documents = [document for path in paths for document in _documents(read_text(path))]
    names = ", ".join(Path(path).name for path in paths)
    return _corpus(names, documents, vocabulary, valid, seed)


def python_text(*, vocabulary: int = 2_000, valid: float = 0.1, seed: int = 0) -> Text:
    """Collect this Python's own English: the language reference of ``help()`` and the library's docstrings.

    Nothing is imported but the reference: docstrings are read from the sources, tests and bundled
    applications left out; each is a document, and one that is there twice counts once. Another version of
    Python has another text, and so another digest.

    Args:
        vocabulary: Tokens of the vocabulary.
        valid: Share of the characters to hold out for validation.
        seed: Seed of the documents held out.

    Returns:
        The corpus, about 2 million characters.

    Raises:
        InputError: If this Python comes without the text, the share is not between 0 and 1, or the vocabulary
            is larger than the text allows.
    """
    try:
        from pydoc_data.topics import topics  # half a megabyte, and some systems leave it out
    except ImportError as error:
        raise InputError(
            "this Python comes without pydoc_data, its language reference: "
            "install the whole standard library, or give files to plain_text"
        ) from error
    documents = [*topics.values(), *_docstrings(Path(sysconfig.get_path("stdlib")))]
    stripped = dict.fromkeys(document.strip() for document in documents)
    return _corpus(f"python-{platform.python_version()}", list(stripped), vocabulary, valid, seed)


def _documents(text: str) -> Iterator[str]:
    """Cut a text at its empty lines."""
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []


def _docstrings(library: Path) -> Iterator[str]:
    """Read the docstrings of a folder of sources, in the order of the files' names."""
    for path in sorted(library.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(library).parts):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield ast.get_docstring(node) or ""


def _corpus(name: str, documents: Sequence[str], vocabulary: int, valid: float, seed: int) -> Text:
    """Hold out documents, learn the vocabulary from the others, and encode all."""
    if not 0 < valid < 1:
        raise InputError(f"valid={valid}: give the share to hold out, between 0 and 1")
    train, held = _split(documents, valid, seed_number(seed))
    if not train or not held:
        raise InputError(
            f"{name} has {len(documents)} documents, too few to train on some and hold out "
            f"valid={valid}: give more text, or put empty lines between documents"
        )
    pieces = Vocabulary.bpe(train, vocabulary)
    return Text(name, pieces, _stream(pieces, train), _stream(pieces, held))


def _split(documents: Sequence[str], valid: float, seed: int) -> tuple[list[str], list[str]]:
    """Hold out whole documents by the seed until they have their share; each part keeps its order."""
    chance = random.Random(f"split:{seed}")
    order = sorted(range(len(documents)), key=[chance.random() for _ in documents].__getitem__)
    ends = np.cumsum([len(documents[index]) for index in order])
    count = int(np.searchsorted(ends, valid * ends[-1])) + 1 if len(documents) else 0
    held, train = sorted(order[:count]), sorted(order[count:])
    return [documents[index] for index in train], [documents[index] for index in held]


def _stream(vocabulary: Vocabulary, documents: Sequence[str]) -> NDArray[np.int32]:
    """Encode documents as one stream, EOS after each."""
    ids = [np.array([*found, vocabulary.EOS], np.int32) for found in vocabulary.encode_all(documents)]
    stream = np.concatenate(ids)
    stream.flags.writeable = False
    return stream
