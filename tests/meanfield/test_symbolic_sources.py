"""Every handler and every public docstring that names a source names one that the bibliography has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from meanfield.claims import LEDGER
from meanfield.symbolic.backward import backward
from meanfield.symbolic.forward import forward

ROOT = Path(__file__).parents[2]
KEY = re.compile(r"\b[a-z]+(?:19|20)\d\d[a-z]?\b")
BIBLIOGRAPHY = set(
    re.findall(r"^@\w+\{(\w+),", (ROOT / "docs/references.bib").read_text(), flags=re.MULTILINE)
)


def _source(docstring: str) -> str:
    _, found, rest = docstring.partition("Source:")
    return rest.split("\n\n")[0] if found else ""


def _docstrings() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "meanfield").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                if "Source:" in text:
                    found.append((f"{path.name}:{getattr(node, 'name', 'module')}", text))
    return found


@pytest.mark.parametrize("generic", [forward, backward])
def test_every_handler_names_a_source(generic: object) -> None:
    registry = generic.registry  # type: ignore[attr-defined]  # singledispatch adds it to the function
    assert len(registry) > 9
    for op, handler in registry.items():
        assert KEY.findall(_source(handler.__doc__ or "")), f"{op} has no source"


def test_every_source_is_in_the_bibliography() -> None:
    docstrings = _docstrings()
    assert len(docstrings) > 20
    for where, text in docstrings:
        missing = set(KEY.findall(_source(text))) - BIBLIOGRAPHY
        assert not missing, f"{where} cites {missing}"
    for claim in LEDGER.values():
        assert set(KEY.findall(claim.source)) <= BIBLIOGRAPHY


def test_an_unknown_key_would_be_found() -> None:
    assert set(KEY.findall("nobody1999, Eq. (1)")) - BIBLIOGRAPHY == {"nobody1999"}
