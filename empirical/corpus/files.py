"""Local text files: what is missing, not UTF-8, empty or uneven is named by its file and line."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from meanfield.errors import InputError, UnknownNameError

Lines: TypeAlias = list[tuple[str, str]]  # source and target of each pair
Empty: TypeAlias = Literal["error", "drop"]
NAMED = 5  # lines that a message names, however many there are


def read_text(path: str | Path) -> str:
    r"""Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.

    Returns:
        The text; every line ends with \n, however the file ends them.

    Raises:
        InputError: If the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}: give a text file that exists") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder: give a text file") from None
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error.strerror}): give a file you may read"
        ) from None
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(_not_text(path, data, error.start)) from None
    if "\0" in text:  # plain English in UTF-16 is UTF-8 as well, with a zero for every other byte
        raise InputError(_not_text(path, data, data.index(0)))
    return text.replace("\r\n", "\n")


def _not_text(path: str | Path, data: bytes, place: int) -> str:
    line = data.count(b"\n", 0, place) + 1
    return (
        f"{str(path)!r} line {line} has the byte {data[place]:#04x}, which is no text in UTF-8: "
        "convert the file, for example by iconv -f LATIN1 -t UTF-8"
    )


def read_lines(path: str | Path) -> list[str]:
    r"""Read the lines of a text file; \n alone ends one, as other line separators stand within sentences.

    Args:
        path: The file.

    Returns:
        The lines without their ends.

    Raises:
        InputError: If the file is missing, cannot be read, is not UTF-8, or has no line.
    """
    lines = read_text(path).split("\n")
    if not lines[-1]:  # the last line's end
        lines.pop()
    if not lines:
        raise InputError(f"{str(path)!r} is empty: give a file with a sentence on each line")
    return lines


def read_pairs(source: str | Path, target: str | Path, empty: Empty) -> tuple[Lines, list[str]]:
    """Read two files whose lines are translations of each other.

    Args:
        source: File of the source sentences.
        target: File of their translations.
        empty: What becomes of pairs one side of which is empty.

    Returns:
        The pairs, and a note on those that were dropped.

    Raises:
        InputError: If a file cannot be read, the numbers of lines differ, or a line is empty and shall not be
            dropped.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise InputError(
            f"{str(source)!r} has {len(sources)} lines and {str(target)!r} {len(targets)}: "
            "give files whose lines are translations of each other"
        )
    return _without_empty(list(zip(sources, targets, strict=True)), (str(source), str(target)), empty)


def read_table(path: str | Path, empty: Empty) -> tuple[Lines, list[str]]:
    """Read a file with a sentence, a tab and its translation on each line.

    Args:
        path: The file.
        empty: What becomes of pairs one side of which is empty.

    Returns:
        The pairs, and a note on those that were dropped.

    Raises:
        InputError: If the file cannot be read, a line that has text has not exactly one tab, or a side is
            empty and shall not be dropped.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.split("\t") if line.strip() else ["", ""]
        if len(cells) != 2:
            raise InputError(
                f"{str(path)!r} line {number} has {len(cells) - 1} tabs: "
                "give a sentence, one tab and its translation"
            )
        pairs.append((cells[0], cells[1]))
    return _without_empty(pairs, (f"{path}, column 1", f"{path}, column 2"), empty)


def _without_empty(pairs: Lines, names: tuple[str, str], empty: Empty) -> tuple[Lines, list[str]]:
    """Refuse pairs one side of which is empty, or drop them and say so."""
    if empty not in get_args(Empty):
        raise UnknownNameError("empty", empty, get_args(Empty))
    numbers = [[k for k, pair in enumerate(pairs, 1) if not pair[side].strip()] for side in (0, 1)]
    if not any(numbers):
        return pairs, []
    found = [
        f"{name!r} has {len(lines)} empty lines ({_some(lines)})"
        for name, lines in zip(names, numbers, strict=True)
        if lines
    ]
    if empty == "error":
        raise InputError(f"{' and '.join(found)}: fill them, or leave out these pairs by empty='drop'")
    dropped = set().union(*numbers)
    kept = [pair for k, pair in enumerate(pairs, 1) if k not in dropped]
    return kept, [f"{' and '.join(found)}: {len(dropped)} pairs dropped, {len(kept)} kept"]


def _some(numbers: Sequence[int]) -> str:
    """Name the first of some line numbers."""
    more = ", ..." if len(numbers) > NAMED else ""
    return f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:NAMED]))}{more}"
