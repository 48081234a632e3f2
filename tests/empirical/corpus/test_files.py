"""Text files: lines end where they should, and what is wrong is named by file and line."""

import re
from pathlib import Path

import pytest

from empirical.corpus.files import read_lines, read_pairs, read_table, read_text
from meanfield.errors import InputError, UnknownNameError


def made(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\nb", ["a", "b"]),
        (b"a\n\xef\xbb\xbfb", ["a", "\ufeffb"]),  # no mark of the file, but a character within it
        (b"a\n\nb\n\n", ["a", "", "b", ""]),
        (b"\n", [""]),
        ("a\u2028b\x0bc\x85d\x1ce\n".encode(), ["a\u2028b\x0bc\x85d\x1ce"]),  # str.splitlines would make five
        ("größe\n".encode(), ["größe"]),
        (b" a \n", [" a "]),
    ],
)
def test_lines_end_with_a_line_feed(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    assert read_lines(made(tmp_path, "text", data)) == lines


@pytest.mark.parametrize(
    ("data", "line", "byte"),
    [
        (b"good\nbad \xff\n", 2, "0xff"),
        ("größe".encode("latin-1"), 1, "0xf6"),
        (b"a\n" * 7 + b"\xc3", 8, "0xc3"),  # a character cut off at the end
        (b"\xef\xbb\xbfa\n\xed\xa0\x80", 2, "0xed"),  # a surrogate
        ("plain".encode("utf-16"), 1, "0xff"),
        ("a\nplain".encode("utf-16-le"), 1, "0x00"),
        (b"a\nb\nc\0\n", 3, "0x00"),
    ],
)
def test_bytes_that_are_not_utf8_are_named_with_their_line(
    tmp_path: Path, data: bytes, line: int, byte: str
) -> None:
    path = made(tmp_path, "text", data)
    wanted = (
        f"{re.escape(repr(str(path)))} line {line} has the byte {byte}, which is no text in UTF-8: convert"
    )
    with pytest.raises(InputError, match=wanted):
        read_text(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file '.*nowhere': give"):
        read_text(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a folder: give a text file"):
        read_text(tmp_path)
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        read_text(made(tmp_path, "text", b"a\n") / "inside")
    with pytest.raises(InputError, match="is empty: give a file with a sentence on each line"):
        read_lines(made(tmp_path, "void", b""))
    with pytest.raises(InputError, match="is empty"):
        read_lines(made(tmp_path, "mark", b"\xef\xbb\xbf"))


# --- Two files ----------------------------------------------------------------------------------------------


def test_pairs_are_the_lines_of_both_files(tmp_path: Path) -> None:
    source, target = made(tmp_path, "a", b"one\r\ntwo\r\n"), made(tmp_path, "b", b"eins\nzwei")
    assert read_pairs(source, str(target), "error") == ([("one", "eins"), ("two", "zwei")], [])


def test_unequal_numbers_of_lines_are_named(tmp_path: Path) -> None:
    source, target = made(tmp_path, "a", b"one\ntwo\n"), made(tmp_path, "b", b"eins\nzwei\ndrei\n")
    for empty in ("error", "drop"):
        with pytest.raises(InputError, match=r"a' has 2 lines and '.*b' 3: give files whose lines"):
            read_pairs(source, target, empty)


def test_empty_lines_are_named_and_dropped_only_when_told(tmp_path: Path) -> None:
    source = made(tmp_path, "a", b"1\n\n3\n4\n5\n \t\n7\n")
    target = made(tmp_path, "b", b"1\n2\n3\n\n5\n\n7\n")
    wanted = (
        r"a' has 2 empty lines \(lines 2, 6\) and '.*b' has 2 empty lines \(lines 4, 6\): "
        r"fill them, or .* empty='drop'"
    )
    with pytest.raises(InputError, match=wanted):
        read_pairs(source, target, "error")
    pairs, notes = read_pairs(source, target, "drop")
    assert pairs == [("1", "1"), ("3", "3"), ("5", "5"), ("7", "7")]
    assert len(notes) == 1
    assert notes[0].endswith("3 pairs dropped, 4 kept")


def test_of_many_empty_lines_the_first_are_named(tmp_path: Path) -> None:
    source, target = made(tmp_path, "a", b"x\n" * 9), made(tmp_path, "b", b"\n" * 8 + b"x\n")
    with pytest.raises(
        InputError, match=r"^'[^']*b' has 8 empty lines \(lines 1, 2, 3, 4, 5, \.\.\.\): fill"
    ):
        read_pairs(source, target, "error")


def test_empty_takes_two_names(tmp_path: Path) -> None:
    path = made(tmp_path, "a", b"x\n")
    with pytest.raises(
        UnknownNameError, match="unknown empty 'dropp': accepted are drop, error; did you mean 'drop'"
    ):
        read_pairs(path, path, "dropp")  # type: ignore[arg-type]  # what it must refuse


# --- A table ------------------------------------------------------------------------------------------------


def test_a_table_has_both_sides_on_a_line(tmp_path: Path) -> None:
    path = made(tmp_path, "t.tsv", b'\xef\xbb\xbfone, "two"\teins\r\n a\tb \r\n')
    assert read_table(path, "error") == ([('one, "two"', "eins"), (" a", "b ")], [])


@pytest.mark.parametrize(("line", "tabs"), [(b"one eins", 0), (b"one\teins\tuno", 2), (b"one\t\teins", 2)])
def test_a_line_without_exactly_one_tab_is_named(tmp_path: Path, line: bytes, tabs: int) -> None:
    path = made(tmp_path, "t.tsv", b"a\tb\n" + line + b"\na\tb\n")
    for empty in ("error", "drop"):
        with pytest.raises(InputError, match=rf"t\.tsv' line 2 has {tabs} tabs: give a sentence, one tab"):
            read_table(path, empty)


def test_empty_sides_of_a_table_are_named_and_dropped_only_when_told(tmp_path: Path) -> None:
    path = made(tmp_path, "t.tsv", b"a\tb\n\tb\na\t \n\n\t\nc\td\n")
    wanted = (
        r"column 1' has 3 empty lines \(lines 2, 4, 5\) and '.*column 2' has 3 empty lines \(lines 3, 4, 5\)"
    )
    with pytest.raises(InputError, match=wanted):
        read_table(path, "error")
    pairs, notes = read_table(path, "drop")
    assert pairs == [("a", "b"), ("c", "d")]
    assert notes[0].endswith("4 pairs dropped, 2 kept")
