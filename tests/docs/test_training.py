"""The page on training says what the code does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from empirical.train.arguments import parser
from empirical.train.presets import PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_block_gives_what_it_shows() -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    examples = doctest.DocTestParser().get_doctest(blocks[0], {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    doctest.DocTestRunner().run(examples, out=report.append)
    assert not "".join(report)


def test_commands_of_the_page_are_understood() -> None:
    lines = TEXT.replace("\\\n", " ").splitlines()
    commands = [line.partition("-m empirical.train")[2] for line in lines if "-m empirical.train " in line]
    assert len(commands) == 5
    for command in commands:
        parser().parse_args(command.partition("  #")[0].split())


def test_the_grids_of_the_page_are_those_of_the_code() -> None:
    table = re.findall(r"^\| `(\w+)` \| (?:`\w+`)? ?\|.*?\| (\d+) \|", TEXT, re.MULTILINE)
    assert {name: int(runs) for name, runs in table} == {name: len(runs) for name, runs in PRESETS.items()}


def test_the_pages_it_links_to_exist() -> None:
    links = set(re.findall(r"\]\(([\w./]+)\)", TEXT))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
