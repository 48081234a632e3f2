"""`python -m meanfield.predict`: what it prints, exit status, bad input, what it does not import."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import meanfield as mf
from meanfield import cli
from meanfield.predict import Prediction, predict, show
from meanfield.predict import __main__ as command
from meanfield.predict.arguments import PROG, parser
from meanfield.presets import OPTIONS, PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "predict.md"
SMALL = ("pre_ln", "--width", "64", "--depth", "3", "--heads", "4", "--tokens", "8")


@pytest.fixture(scope="module")
def small() -> Prediction:
    return predict(mf.pre_ln(width=64, depth=3, heads=4), tokens=8)


def _output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_it_needs_neither_torch_nor_transformers_nor_matplotlib_and_warns_of_nothing() -> None:
    code = (
        "import sys, runpy; sys.argv = ['predict', 'pre_ln', '--depth', '1', '--json']\n"
        "try: runpy.run_module('meanfield.predict', run_name='__main__')\n"
        "finally: sys.stderr.write(str({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "set()")
    assert json.loads(done.stdout)["configuration"]["depth"] == 1


def test_the_command_runs_as_a_module_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "meanfield.predict", *SMALL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_is_the_table_and_strict(capsys: pytest.CaptureFixture[str], small: Prediction) -> None:
    found = json.loads(_output(capsys, *SMALL, "--json"), parse_constant=pytest.fail)
    assert list(found) == ["configuration", "parameters", "layers"]
    assert found["configuration"] == small.configuration
    assert [row["grad_sq"] for row in found["parameters"]] == list(small.df.grad_sq)
    keys = next(
        row for row in found["parameters"] if (row["module"], row["parameter"]) == ("attention.k", "bias")
    )
    assert (keys["grad_sq"], keys["log10_grad_sq"]) == (0.0, None)
    assert sum(row["grad_sq"] for row in found["layers"]) == pytest.approx(small.df.grad_sq.sum())


def test_csv_is_the_table(capsys: pytest.CaptureFixture[str], small: Prediction) -> None:
    rows = list(csv.DictReader(io.StringIO(_output(capsys, *SMALL, "--csv"))))
    assert list(rows[0]) == list(small.df.columns)
    assert [float(row["grad_norm"]) for row in rows] == list(small.df.grad_norm)


def test_latex_is_a_booktabs_tabular_with_one_row_per_parameter(
    capsys: pytest.CaptureFixture[str], small: Prediction
) -> None:
    text = _output(capsys, *SMALL, "--latex")
    lines = text.splitlines()
    assert lines[0].startswith(r"\begin{tabular}")
    assert lines[-1] == r"\end{tabular}"
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 1 + len(small.df)
    assert {row.count("&") for row in rows} == {3}
    assert r"final\_norm" in text
    assert "_norm" not in text.replace(r"\_", "")


def test_the_table_shows_every_parameter_and_every_layer(
    capsys: pytest.CaptureFixture[str], small: Prediction
) -> None:
    text = _output(capsys, *SMALL)
    for row in small.df.to_dict("records"):
        cells = (str(row[key]) for key in ("layer", "module", "parameter"))
        pattern = r"^ *" + " +".join(map(re.escape, (*cells, show.number(row["grad_norm"])))) + r"( |$)"
        assert re.search(pattern, text, re.MULTILINE), row
    assert "left out" not in text
    assert f"All parameters: {show.number(small.df.grad_sq.sum() ** 0.5)}." in text


def test_deep_models_say_which_layers_are_left_out_and_show_them_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    deep = ("pre_ln", "--width", "64", "--depth", "40", "--heads", "4", "--tokens", "4")

    def layers(*more: str) -> list[int]:
        table = _output(capsys, *deep, *more).split("Gradient norm of each layer")[0]
        return sorted({int(row) for row in re.findall(r"^ +(\d+) {3}\w", table, re.MULTILINE)})

    usual = _output(capsys, *deep)
    assert len(usual.splitlines()) < show.HEIGHT + show.LAYERS + 25
    assert "Layers 3-39 left out: --layers 3-39 shows them" in usual
    assert layers() == [1, 2, 40, 41]
    assert layers("--layers", "3-39") == list(range(3, 40))
    assert layers("--layers", "7") == [7]
    assert layers("--layers", "all") == list(range(1, 42))


def test_shown_layers_are_whole_and_the_first_and_last_are_among_them() -> None:
    rows = pd.DataFrame({"layer": [layer for layer in range(10) for _ in range(5)]})
    assert show.shown_layers(rows, None, height=50) == list(range(10))
    assert show.shown_layers(rows, None, height=22) == [0, 1, 8, 9]
    assert show.shown_layers(rows, None, height=1) == [0, 9]
    assert show.shown_layers(rows, (2, 4), height=1) == [2, 3, 4]


def test_samples_add_an_error_and_a_band(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*SMALL, "--samples", "8")
    text = _output(capsys, *arguments)
    assert max(map(len, text.splitlines())) <= 80
    assert "95 % of seeds" in text
    rows = json.loads(_output(capsys, *arguments, "--json"))["parameters"]
    weights = [row for row in rows if row["parameter"] == "weight"]
    assert all(row["grad_sq_low"] < row["grad_sq"] < row["grad_sq_high"] for row in weights)
    assert {
        line.count("&") for line in _output(capsys, *arguments, "--latex").splitlines() if "&" in line
    } == {5}


def test_long_work_shows_progress_on_stderr_and_short_work_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "WAIT", 0.05)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stream for a terminal
    with cli.patience("drawing", None):
        time.sleep(0.6)
    assert "drawing" in capsys.readouterr().err
    with cli.patience("drawing", None):
        pass
    assert capsys.readouterr().err == ""


def test_out_writes_the_same_text_whole_or_not_at_all(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "table.csv"
    expected = _output(capsys, *SMALL, "--csv")
    assert _output(capsys, *SMALL, "--csv", "--out", str(target)) == ""
    assert target.read_text(encoding="utf-8") == expected

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        command.main([*SMALL, "--json", "--out", str(target)])
    assert target.read_text(encoding="utf-8") == expected
    assert list(tmp_path.iterdir()) == [target]


def test_options_reach_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--d-ff",
        "96",
        "--activation",
        "swiglu",
        "--norm",
        "rmsnorm",
        "--init",
        "gpt2",
        "--set",
        "qk_norm=head",
    )
    found = json.loads(_output(capsys, *SMALL, *options, "--set", "bias=false", "--json"))
    arch = mf.pre_ln(
        width=64,
        depth=3,
        heads=4,
        d_ff=96,
        activation="swiglu",
        norm="rmsnorm",
        init="gpt2",
        qk_norm="head",
        bias=False,
    )
    assert [row["grad_sq"] for row in found["parameters"]] == list(predict(arch, tokens=8).df.grad_sq)


def test_every_option_of_presets_can_be_given() -> None:
    args = parser().parse_args(["pre_ln", *(f"--set={name}=1" for name in OPTIONS)])
    assert len(args.set) == len(OPTIONS)


def test_a_configuration_file_takes_the_place_of_a_preset(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "intermediate_size": 96}), encoding="utf-8")
    found = json.loads(_output(capsys, "--config", str(path), "--json"))
    assert (found["configuration"]["arch"], found["configuration"]["d_ff"]) == ("vit", 96)


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    text = _output(capsys, "--list")
    assert max(map(len, text.splitlines())) <= 80
    for name in (*PRESETS, "paper_encoder_decoder", *OPTIONS, *mf.initializations().name):
        assert re.search(rf"\b{re.escape(name)}(,|\s|$)", text), name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "no architecture"),
        (["pre_lm"], "did you mean 'pre_ln'"),
        (["pre_ln", "--width", "many"], "'many' is not an integer"),
        (["pre_ln", "--width", "0"], "width=0"),
        (["pre_ln", "--heads", "7"], "heads=7"),
        (["pre_ln", "--activation", "rellu"], "did you mean 'relu'"),
        (["pre_ln", "--init", "gpt3"], "gpt3"),
        (["pre_ln", "--set", "qk_norm"], "NAME=VALUE"),
        (["pre_ln", "--set", "qk_nrom=head"], "did you mean 'qk_norm'"),
        (["pre_ln", "--set", "width=8", "--width", "8"], "given twice"),
        (["paper_pre_ln", "--heads", "4"], "option of paper_pre_ln"),
        (["encoder_decoder"], "needs vocab"),
        (["pre_ln", "--head"], "--head belongs to --config"),
        (["pre_ln", "--tokens", "0"], "tokens=0"),
        (["pre_ln", "--loss", "hinge"], "hinge"),
        (["pre_ln", "--label-smoothing", "x"], "'x' is not a number"),
        (["pre_ln", "--layers", "4-2"], "4-2"),
        (["pre_ln", "--json", "--csv"], "not allowed with"),
        (["pre_ln", "--config", "x.json"], "both the preset"),
        (["--config", "absent.json"], "absent.json"),
        (["--config", "absent.json", "--width", "8"], "--width with --config"),
        ([*SMALL, "--out", ""], "--out ''"),
        ([*SMALL, "--out", "absent/table.txt"], "absent"),
        ([*SMALL, "--samples", "1"], "samples=1"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.run(PROG, lambda: command.main(arguments))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err
    assert list(tmp_path.iterdir()) == []


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"^```console\n\$ python -m meanfield\.predict ([^\n]*)\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert len(blocks) == 2
    (limit, shown), (drawn, sampled) = blocks
    assert _output(capsys, *limit.split()) == shown
    assert "--samples" in drawn
    found = _output(capsys, *drawn.split())
    assert _words(found) == _words(sampled)
    pairs = list(zip(_norms(found), _norms(sampled), strict=True))
    assert len(pairs) == 18
    for (norm, error), (shown_norm, shown_error) in pairs:  # other random models may be drawn one day
        assert abs(norm - shown_norm) <= 5 * (error**2 + shown_error**2) ** 0.5


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z_]{2,}", text)


def _norms(text: str) -> list[tuple[float, float]]:
    """Gradient norm and its standard error in every row of a sampled table."""
    rows = re.findall(r"(?:weight|bias) +(\S+) +(\S+) +\S+ … \S+$", text, re.MULTILINE)
    return [(float(norm), float(error)) for norm, error in rows]
