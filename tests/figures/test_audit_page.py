"""The page of an audit stands alone, is the same again, and says what the audit says."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest

import meanfield as mf
from empirical.audit import Audit
from empirical.audit.audit import audited
from figures.audit_page import as_page
from figures.audit_plots import family, panels
from tests.empirical.own_models import builder, ids, reader

ARCH = mf.pre_ln(width=32, depth=2, heads=2, vocab=50)


def faulty(model: Any) -> None:
    model.layers[1].parts[1].branch.parts[1].down.weight.data *= 3


def audit_of(change: Any) -> Audit:
    batch = ids(2, 4, 50)
    return audited(builder(ARCH, change), batch, reader(ARCH), seeds=range(16), samples=32, tolerance=0.1)


@pytest.fixture(scope="module")
def right() -> Audit:
    return audit_of(None)


@pytest.fixture(scope="module")
def wrong() -> Audit:
    return audit_of(faulty)


@pytest.fixture(scope="module")
def page(right: Audit) -> str:
    return as_page(right)


class Elements(HTMLParser):
    """Collects tags, identifiers and text; every tag has to be closed."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def test_the_page_stands_alone(page: str) -> None:
    found = Elements(page)
    assert found.open == []
    assert {tag for tag, _ in found.seen} & {"script", "link", "img", "iframe", "object"} == set()
    for tag, attributes in found.seen:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page
    names = [attributes["id"] for _, attributes in found.seen if "id" in attributes]
    assert len(names) == len(set(names))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert set(used) <= set(names)


def test_every_plot_says_what_it_shows_and_the_page_fits_a_phone(right: Audit, page: str) -> None:
    found = Elements(page)
    plots = [attributes for tag, attributes in found.seen if tag == "svg"]
    assert len(plots) == len(panels(right.df)) + 2
    for attributes in plots:
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
        assert "width" not in attributes
        assert "viewbox" in attributes
    metas = [attributes for tag, attributes in found.seen if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas


def test_every_tensor_and_every_note_is_there(right: Audit, page: str) -> None:
    text = " ".join(" ".join(Elements(page).words).split())
    for row in right.df.to_dict("records"):
        assert row["parameter"] in text
    for note in right.notes:
        assert note in text
    assert "✓ Theory and measurement agree." in text


def test_a_fault_is_named_first_and_names_are_written_as_text(wrong: Audit) -> None:
    assert not wrong.agrees
    odd = "<script>alert(1)</script>"
    named = Audit(
        wrong.df, wrong.values, wrong.prediction, {**wrong.configuration, "module": odd}, (odd, "A & B")
    )
    written = as_page(named)
    assert "<script>" not in written
    assert written.count(html.escape(odd)) >= 3
    text = " ".join(" ".join(Elements(written).words).split())
    assert f"✗ Theory and measurement DISAGREE in {wrong.score.disagree} tensors" in text
    first = wrong.worst.parameter.iloc[0]
    assert "layers.1.parts.1.branch." in first
    assert text.index(first) < text.index("Every tensor")


def test_the_same_audit_gives_the_same_page(right: Audit, page: str) -> None:
    def undated(page: str) -> str:
        return re.sub(r"<dt>date</dt><dd>[^<]*</dd>", "", page)

    assert undated(as_page(right)) == undated(page)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("attention.k", ("", "attention")),
        ("encoder.cross_attention.v", ("encoder", "cross-attention")),
        ("decoder.ffn.gate", ("decoder", "feed-forward")),
        ("attention.q_norm", ("", "norms and factors")),
        ("gain1", ("", "norms and factors")),
        ("head", ("", "")),
        ("", ("", "")),
    ],
)
def test_modules_have_their_plot(module: str, expected: tuple[str, str]) -> None:
    assert family(module) == expected
