"""The command as a user meets it: files, re-runs, bad input, exit status."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from figures import verdicts
from figures.__main__ import FIGURES, PROG, main, read
from figures.lab import Cell, Lab, theory
from meanfield.claims import LEDGER
from meanfield.cli import run
from tests.figures.conftest import TINY as SIZES
from tests.figures.conftest import Run

TINY = ["--preset", "tiny", "--device", "cpu", "--json", "--out"]


def test_every_figure_has_png_pdf_and_data(tiny_run: Run) -> None:
    for name in FIGURES:
        assert (tiny_run.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tiny_run.out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert all(len(table) for table in read(tiny_run.out, name).values())
        assert read(tiny_run.out, name)
    leftovers = [path for path in tiny_run.out.rglob("*") if path.suffix in (".part", ".tmp")]
    assert not leftovers


def test_verdicts_are_written_and_printed_alike(tiny_run: Run) -> None:
    assert json.loads((tiny_run.out / "verdicts.json").read_text()) == tiny_run.report
    assert [claim["id"] for claim in tiny_run.report["claims"]] == list(LEDGER)
    text = (tiny_run.out / "verdicts.md").read_text()
    assert all(f"`{name}`" in text for name in LEDGER)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {9}


def test_status_says_whether_theory_and_measurement_disagree(tiny_run: Run) -> None:
    assert tiny_run.status == int(verdicts.disagrees(tiny_run.report))


def test_second_run_measures_nothing_and_draws_the_same(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {path: path.stat().st_mtime_ns for path in (tiny_run.out / "tables").iterdir()}
    before = {path.name: path.read_bytes() for path in tiny_run.out.glob("*.*")}
    monkeypatch.setattr("empirical.store.measure", pytest.fail)
    monkeypatch.setattr("empirical.token_norms", pytest.fail)
    monkeypatch.setattr("empirical.norm_jacobian", pytest.fail)
    assert main([*TINY, str(tiny_run.out), "--only", "theorem1"]) == tiny_run.status
    assert json.loads(capsys.readouterr().out) == tiny_run.report
    # The other figures are drawn from these tables alone, which test_figures checks.
    for name, figure in FIGURES.items():
        again = figure.measure(SIZES, Lab(tiny_run.out / "tables", "cpu"))
        for key, table in again.items():
            assert table.to_csv(index=False).encode() == before[f"{name}.{key}.csv"]
    assert {path: path.stat().st_mtime_ns for path in (tiny_run.out / "tables").iterdir()} == tables
    assert {path.name: path.read_bytes() for path in tiny_run.out.glob("*.*")} == before


def test_force_measures_again_and_gets_the_same(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(tiny_run.out, tmp_path / "copy"))
    main([*TINY, str(copy), "--only", "norm_jacobian", "concentration", "--force"])
    capsys.readouterr()
    for path in (copy / "tables").iterdir():
        again = path.name.startswith(("norm_jacobian", "concentration"))
        assert (path.stat().st_mtime_ns > (tiny_run.out / "tables" / path.name).stat().st_mtime_ns) == again
    for name in ("norm_jacobian.jacobian.csv", "concentration.tail.csv"):
        assert (copy / name).read_bytes() == (tiny_run.out / name).read_bytes()


def test_only_makes_that_figure_and_leaves_other_claims_unmeasured(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*TINY, str(tmp_path), "--only", "norm_jacobian"])
    report = json.loads(capsys.readouterr().out)
    assert status == int(verdicts.disagrees(report))
    measured = {claim["id"]: claim["measured"] for claim in report["claims"]}
    assert measured.pop("lemma3") == "holds_under"
    assert set(measured.values()) == {"not_measured"}
    assert report["agreement"] is None
    assert not [p for p in tmp_path.glob("*.png") if p.stem != "norm_jacobian"]


@pytest.mark.parametrize("damage", ["empty", "cut", "short of a row", "gone", "without checksums"])
def test_a_damaged_table_of_another_figure_is_named(
    tiny_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    monkeypatch.setattr("figures.__main__.save", lambda *_: None)  # what it draws is there already
    copy = Path(shutil.copytree(tiny_run.out, tmp_path / "copy"))
    (copy / "verdicts.md").unlink()
    table = copy / "theorem1.last_ffn.csv"
    content = table.read_bytes()
    if damage == "gone":
        table.unlink()
    elif damage == "without checksums":
        (copy / "theorem1.sha256").unlink()
    else:
        row = content.rindex(b"\n", 0, -1) + 1
        table.write_bytes(content[: {"empty": 0, "cut": 100, "short of a row": row}[damage]])
    with pytest.raises(SystemExit) as stop:
        run(PROG, lambda: main([*TINY, str(copy), "--only", "norm_jacobian"]))
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    named = "theorem1.exponents.csv" if damage == "without checksums" else table.name
    assert f"{named} is not as it was written: make it again with --only theorem1" in message
    assert not (copy / "verdicts.md").exists()


def test_a_wrong_theory_gives_status_1(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong:
        def __init__(self, cell: Cell) -> None:
            table = theory(cell).df
            self.df = table.assign(grad_sq=table["grad_sq"] * 10)

    copy = shutil.copytree(tiny_run.out, tmp_path / "copy")
    monkeypatch.setattr("figures.gradient_by_layer.theory", Wrong)
    assert main([*TINY, str(copy), "--only", "gradient_by_layer"]) == 1
    assert json.loads(capsys.readouterr().out)["agreement"]["within_tolerance"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "gradient_by_leyer"], "did you mean 'gradient_by_layer'?"),
        (["--preset", "quik"], "did you mean 'quick'?"),
        (["--device", "tpu"], "accepted are auto, cpu, cuda, mps"),
        (["--device", "mps"], "available are"),
        (["--frobnicate"], "--help"),
        (["--out", "{file}/inside"], "give a folder that can be written"),
        (["--out", "{file}"], "give a folder that can be written"),
        (["--out", ""], "'' is no folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments == ["--device", "mps"] and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    file = tmp_path / "file"
    file.write_text("")
    given = [argument.format(file=file) for argument in arguments]
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        run(PROG, lambda: main([*given, *out]))
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == ""


def test_the_command_starts_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "figures", "--only", "none", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("python -m figures: unknown figure 'none'")
    assert not (tmp_path / "out").exists()
