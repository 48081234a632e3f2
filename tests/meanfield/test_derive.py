"""`python -m meanfield.derive`: formats, exit status, bad input, and what it does not import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser

from meanfield import derive as command
from meanfield.claims import DERIVABLE, Derivation, Setting, derive
from meanfield.cli import run
from meanfield.symbolic.plain import plain, plain_text
from meanfield.symbolic.render import FORMATS


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meanfield.derive", *arguments], capture_output=True, text=True, check=False
    )


def test_json_is_strict_and_complete_and_needs_nothing_heavy() -> None:
    code = (
        "import sys; from meanfield.derive import main; status = main(['--format', 'json']); "
        "heavy = {'torch', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules); "
        "sys.stderr.write(str(heavy)); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "set()")
    records = json.loads(done.stdout, parse_constant=pytest.fail)["claims"]
    assert [record["id"] for record in records] == list(DERIVABLE)
    for record in records:
        assert list(record) == [
            "id", "statement", "assumptions", "steps", "result", "verdict", "condition", "numbers",
        ]  # fmt: skip
        assert all(
            set(step) == {"latex", "check", "holds"} and step["holds"] is True for step in record["steps"]
        )
        assert all(isinstance(value, (int, float)) for value in record["numbers"].values())


def test_json_flag_is_the_json_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--json", "--claim", "lemma4"]) == 0
    flag = capsys.readouterr().out
    assert command.main(["--format", "json", "--claim", "lemma4"]) == 0
    assert capsys.readouterr().out == flag


def test_claims_may_be_given_together_or_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--json", "--claim", "lemma4", "lemma5", "--claim", "definition1"])
    records = json.loads(capsys.readouterr().out)["claims"]
    assert [record["id"] for record in records] == ["lemma4", "lemma5", "definition1"]


def test_a_failed_step_makes_the_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(name: str, setting: Setting) -> Derivation:
        derivation = derive(name, setting)
        return replace(derivation, steps=(replace(derivation.steps[0], holds=False),))

    monkeypatch.setattr(command, "derive", failing)
    for format_, mark in (
        ("text", "✗"),
        ("latex", "check failed"),
        ("markdown", "check failed"),
        ("json", "false"),
    ):
        assert command.main(["--claim", "lemma4", "--format", format_]) == 1
        out, err = capsys.readouterr()
        assert mark in out
        assert err == "python -m meanfield.derive: a step failed its check in lemma4\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claim", "lema1"], "unknown claim 'lema1': accepted are .* did you mean 'lemma1'"),
        (["--claim", "small_lr"], "about training"),
        (["--depth", "0"], "depth=0 is too small: give a whole number of at least 1"),
        (["--width", "1"], "width=1 is too small"),
        (["--width", "nan"], "'nan' is not an integer: give a whole number"),
        (["--tokens", "1.5"], "'1.5' is not an integer"),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
        (["--json", "--format", "latex"], "not allowed with argument"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(command.PROG, lambda: command.main(arguments))
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(message, err)


def test_the_module_exits_with_the_status_of_bad_input() -> None:
    done = _run("--claim", "lema1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_an_output_that_cannot_hold_the_formulas_is_one_line_and_status_2(
    derivations: dict[str, Derivation],
) -> None:
    command_line = [sys.executable, "-m", "meanfield.derive", "--claim", "lemma1"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command_line, capture_output=True, text=True, check=False, env=ascii_only)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "encoding 'ascii' has no" in done.stderr
    for format_ in ("json", "latex", "markdown"):
        assert FORMATS[format_](derivations).isascii()


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_full_disk_is_one_line_and_status_2(format_: str) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs a device that is always full")
    command_line = [sys.executable, "-m", "meanfield.derive", "--claim", "lemma1", "--format", format_]
    with full.open("w") as out:
        done = subprocess.run(command_line, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_reader_who_has_had_enough_is_no_error() -> None:
    command_line = [sys.executable, "-m", "meanfield.derive", "--claim", "lemma1"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_depth_ten_thousand(capsys: pytest.CaptureFixture[str]) -> None:
    iterated = ["lemma2.pre", "theorem1.pre", "extension.post", "extension.pre", "fig3a/b"]
    assert command.main(["--depth", "10000", "--json", "--claim", *iterated]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


TAILS = tuple(name for name in DERIVABLE if name.startswith(("concentration", "theorem1")))


@pytest.mark.parametrize(
    ("sizes", "claims"),
    [
        ((2, 1, 1), DERIVABLE),
        ((3, 1, 1_000_000), DERIVABLE),
        ((300_001, 1, 1), TAILS),  # widths at which a series for a tail would not end
        ((1_000_001, 2, 2), TAILS),
        ((10**15, 1, 1), DERIVABLE),
    ],
)
def test_extreme_sizes_give_finite_numbers(sizes: tuple[int, int, int], claims: tuple[str, ...]) -> None:
    setting = Setting(*sizes)
    for name in claims:
        printed = json.loads(FORMATS["json"]({name: derive(name, setting)}), parse_constant=pytest.fail)
        assert [claim["id"] for claim in printed["claims"]] == [name]


def test_text_fits_eighty_columns_and_has_no_latex(derivations: dict[str, Derivation]) -> None:
    assert max(len(line) for line in FORMATS["text"](derivations).splitlines()) <= 80
    for derivation in derivations.values():
        for formula in (derivation.result, *(step.latex for step in derivation.steps)):
            assert not set(plain(formula)) & set("\\$"), formula
        for text in (derivation.condition, *(step.check for step in derivation.steps)):
            assert not set(plain_text(text)) & set("\\$"), text


def test_every_formula_is_valid_mathematics(derivations: dict[str, Derivation]) -> None:
    parser = MathTextParser("path")
    fragment = FORMATS["latex"](derivations)
    formulas = re.findall(r"\$(?:\\displaystyle )?([^$]+)\$", fragment) + re.findall(
        r"\\\[\n(.*)\n\\\]", fragment
    )
    assert len(formulas) > 150
    for formula in formulas:
        # The parser of matplotlib knows these commands by their long names alone.
        known = re.sub(r"\\(le|ge|ne)(?![A-Za-z])", r"\\\1q", formula)
        parser.parse(f"${known}$")
    with pytest.raises(ValueError, match="frac"):
        parser.parse(r"$\frac{1}{$")


def test_latex_environments_are_closed_and_specials_escaped(derivations: dict[str, Derivation]) -> None:
    fragment = FORMATS["latex"](derivations)
    opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", fragment) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed)
    outside = re.sub(r"\$[^$]+\$|\\\[\n.*\n\\\]", "", fragment)
    assert not re.search(r"(?<!\\)[_^#%]", outside)


def test_markdown_formulas_close_where_markdown_sees_it(derivations: dict[str, Derivation]) -> None:
    text = FORMATS["markdown"](derivations)
    for line in text.splitlines():
        assert line.count("$") % 2 == 0, line
        for formula in re.findall(r"\$([^$]+)\$", line):
            assert formula == formula.strip(), line
            assert not re.search(r"\\[^A-Za-z]", formula), line
