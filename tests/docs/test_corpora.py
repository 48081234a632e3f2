"""Every block of the page on corpora gives what it shows, and so do its tables."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path

import pytest
import torch

from empirical.corpus import generated
from empirical.corpus.grammar import Language
from tests.empirical.corpus.translator import Translator

pytest.importorskip("tokenizers")

PAGE = Path(__file__).parents[2] / "docs" / "corpora.md"
TEXT = PAGE.read_text(encoding="utf-8")


def failures(text: str) -> str:
    """Run the examples of a text, and return what doctest has against them."""
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    doctest.DocTestRunner().run(examples, out=report.append)
    return "".join(report)


def test_every_block_gives_what_it_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    assert not (found := failures("\n".join(blocks))), found


def test_a_wrong_block_is_found() -> None:
    assert "Expected:\n    3" in failures(">>> 1 + 1\n3\n")


def test_the_glossed_sentences_are_translations() -> None:
    default = Language(
        seed=0, nouns=600, verbs=250, adjectives=150, exponent=1.2, relative=0.1, subordinate=0.15
    )
    translator = Translator(default)
    rows = re.findall(r"^\| (?:today )?the (?:good )?dogs? .*? \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 6
    for source, target in rows:
        assert translator.translate(source) == target


def test_the_numbers_it_names_are_those_of_the_corpus() -> None:
    corpus = generated()
    shown = {index for pair in corpus.train for index in pair.source}
    unseen = [sum(not shown.issuperset(p.source) for p in part) for part in (corpus.test, corpus.valid)]
    mean = sum(len(pair.source) for pair in corpus.train) / len(corpus.train)
    size, smoothing = corpus.target.size, 0.1
    other = smoothing / size
    right = 1 - smoothing + other
    lowest = -right * math.log(right) - (size - 1) * other * math.log(other)
    label = torch.full((size,), other).index_fill(0, torch.tensor([7]), right)  # what a model should say
    loss = torch.nn.functional.cross_entropy(label.log()[None], torch.tensor([7]), label_smoothing=smoothing)
    assert loss.item() == pytest.approx(lowest, abs=1e-4)
    for said in (
        f"{mean:.1f} on average",
        f"{corpus.source.size - 5:,} source and {corpus.target.size - 5:,} target forms",
        f"show {len(shown):,} of the source's",
        f"{unseen[0]} of the 500 test sentences and {unseen[1]} of the validation's",
        f"{lowest:.3f} for ε = 0.1 and V = {size}",
    ):
        assert said in " ".join(TEXT.split())
