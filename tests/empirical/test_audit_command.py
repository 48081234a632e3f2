"""`python -m empirical.audit`: what it prints and writes, exit status, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from empirical.audit import __main__ as command
from empirical.audit.arguments import PROG, parser
from meanfield import cli
from meanfield.errors import InputError

HERE = "tests.empirical.own_models"
SMALL = ("--seeds", "4", "--samples", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("batch") / "batch.npz"
    np.savez(path, src=np.random.default_rng(0).standard_normal((2, 3, 32)))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = command.main([*arguments, *SMALL])
    return status, capsys.readouterr().out


def test_the_table_names_every_tensor_in_a_hundred_columns(
    capsys: pytest.CaptureFixture[str], batch: str
) -> None:
    status, text = run(capsys, "--model", f"{HERE}:encoder", "--batch", batch)
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == "TransformerEncoder"
    assert lines[-1] == "Theory and measurement agree."
    assert max(map(len, lines)) <= 100
    for kind in ("attention.q", "attention.k", "attention.v", "attention.o", "ffn.up", "ffn.down", "norm2"):
        for role in ("weight", "bias"):
            assert sum(f"  {kind} {role} " in line for line in lines) == 1
    assert "- dropout in 4 places, of rate 0.1, is off" in text
    assert "; 1 more is exactly zero." in text
    assert "With 4 seeds and 8 samples, a typical tensor has to be" in text


def test_json_is_the_table_and_strict(capsys: pytest.CaptureFixture[str], batch: str, tmp_path: Path) -> None:
    out, page = tmp_path / "audit.json", tmp_path / "audit.html"
    status, text = run(
        capsys,
        "--model",
        f"{HERE}:encoder",
        "--batch",
        batch,
        "--json",
        "--out",
        str(out),
        "--html",
        str(page),
    )
    assert (status, text) == (0, "")
    found = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert list(found) == ["agrees", "configuration", "score", "notes", "environment", "parameters"]
    assert found["agrees"] is True
    names = [row["parameter"] for row in found["parameters"]]
    assert "layers.0.self_attn.in_proj_weight[q]" in names
    assert len(names) == len(set(names)) == 16
    zero = next(row for row in found["parameters"] if row["flag"] == "zero")
    assert (zero["parameter"], zero["inside"]) == ("layers.0.self_attn.in_proj_bias[k]", None)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.html", "audit.json"]


def test_arguments_in_order_and_the_first_seed_change_what_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "batch.npz"
    np.savez(path, np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32))
    arguments = ("--model", f"{HERE}:encoder", "--batch", str(path), "--json")
    measured = []
    for seed in ("0", "0", "7"):
        status, text = run(capsys, *arguments, "--seed", seed)
        assert status in (0, 1)
        measured.append([row["grad_sq_hat"] for row in json.loads(text)["parameters"]])
    assert measured[0] == measured[1] != measured[2]


def test_a_process_of_its_own_fails_where_theory_and_measurement_disagree(batch: str) -> None:
    # Weights whose scale is drawn too: there is no law of independent entries.
    model = ("--model", f"{HERE}:uneven", "--batch", batch, "--seeds", "8", "--samples", "64")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "empirical.audit", *model],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "Theory and measurement DISAGREE in" in done.stdout.splitlines()[-1]


def test_layers_that_are_copies_are_bad_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit", "--model", f"{HERE}:cloned", "--batch", batch])
    with pytest.raises(SystemExit) as exit_:
        cli.run(PROG, command.main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        f"{PROG}: the theory does not hold: layers 1 and 2 have equal weights, as copies have: "
        "draw each layer's anew\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --hf FILE and --model"),
        (("--hf", "a", "--model", "b:c"), "give one of --hf FILE and --model"),
        (("--model", "b:c", "--head"), "--head belongs to --hf"),
        (("--model", "json"), "--model 'json' names no function: give package.module:function"),
        (("--model", "no_such_module:f"), "cannot be imported (ModuleNotFoundError"),
        (("--model", "json:no_such_function"), "json has no function 'no_such_function'"),
        (("--model", "__import__('os'):f"), "cannot be imported (ModuleNotFoundError"),
        (("--model", f"{HERE}:encoder"), "no batch: give --batch FILE, or --vocab N"),
        (("--model", f"{HERE}:encoder", "--vocab", "5", "--tokens", "0"), "tokens=0 is too small"),
        (("--model", f"{HERE}:encoder", "--batch", "no.npz"), "--batch 'no.npz' is no .npz file"),
        (("--model", f"{HERE}:encoder", "--batch", "x", "--vocab", "5"), "--vocab is for random tokens"),
        (("--model", f"{HERE}:encoder", "--seeds", "1"), "--seeds 1 --seed 0: give at least 2 seeds"),
        (("--model", f"{HERE}:encoder", "--html", "/no/folder/x"), "--html '/no/folder/x' is no file"),
        (("--model", f"{HERE}:encoder", "--out", ""), "--out '' is no file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        command.main(list(arguments))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"src": np.array([object()])}, "is no .npz file of arrays (Object arrays cannot be loaded"),
        ({"src": np.array(["text"])}, "array 'src' has the type <U4"),
        ({"labels": np.zeros((2, 3), int)}, "the batch has 'labels'"),
        ({"no_such_argument": np.zeros((2, 3, 32))}, "no_such_argument"),
    ],
)
def test_batches_are_data_alone(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError) as refusal:
        command.main(["--model", f"{HERE}:encoder", "--batch", str(path), *SMALL])
    assert message in str(refusal.value)


def test_a_module_that_is_not_understood_is_refused(batch: str) -> None:
    with pytest.raises(InputError):
        command.main(["--model", "torch.nn:Bilinear", "--batch", batch, *SMALL])


def test_help_says_what_the_exit_status_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit status 0: they agree; 1: they disagree; 2: bad input." in text
