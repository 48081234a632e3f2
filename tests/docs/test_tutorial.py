"""Every block of the tutorial gives what it shows."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def failures(text: str) -> str:
    """Run the examples of a text, and return what doctest has against them."""
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=report.append)
    return "".join(report)


def test_every_block_gives_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"^```pycon\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    assert not (found := failures("\n".join(blocks))), found


def test_a_wrong_block_is_found() -> None:
    assert "Expected:\n    3" in failures(">>> 1 + 1\n3\n")


def test_the_files_and_pages_it_links_to_exist() -> None:
    links = set(re.findall(r"\]\(([\w./]+)\)", PAGE.read_text(encoding="utf-8")))
    assert {"examples/gpt2.json", "examples/bert.json"} <= links
    assert all((PAGE.parent / link).exists() for link in links)
