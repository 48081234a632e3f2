import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from empirical.train.__main__ import main
from empirical.train.arguments import parser, run_of
from empirical.train.data import ParallelFiles, PlainText, PythonText
from empirical.train.folder import LOG
from empirical.train.log import read
from meanfield.errors import InputError

SIZES = ["--width", "16", "--depth", "1", "--heads", "2", "--positions", "32"]
SHORT = [*SIZES, "--steps", "6", "--tokens", "120", "--evaluations", "2", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}


def parallel(folder: Path) -> list[str]:
    """Two files whose lines translate each other, and the options that name them."""
    words = [f"w{k % 7} x{k % 5} y{k % 3}" for k in range(2200)]
    (folder / "a.txt").write_text("".join(f"{line}\n" for line in words))
    (folder / "b.txt").write_text("".join(f"{' '.join(line.split()[::-1])}\n" for line in words))
    return ["--source", str(folder / "a.txt"), "--target", str(folder / "b.txt"), "--vocabulary", "262"]


def test_files_with_empty_lines_are_refused_or_their_pairs_dropped(tmp_path: Path) -> None:
    files = [*parallel(tmp_path), "--valid", "50", "--test", "4"]
    with (tmp_path / "a.txt").open("a") as source, (tmp_path / "b.txt").open("a") as target:
        source.write("\n")
        target.write("lost\n")
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match="empty lines"):
        main(["translation", *files, *SHORT, *out])
    assert main(["translation", *files, *SHORT, *out, "--empty", "drop"]) == 0


def test_translation_of_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = parallel(tmp_path)
    run = run_of(parser().parse_args(["translation", *files, "--out", "x"]))
    assert isinstance(run.corpus, ParallelFiles)
    assert run.label_smoothing == 0.1
    assert main(["translation", *files, *SHORT, "--out", str(tmp_path / "run")]) == 0
    assert "BLEU" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["masked", "causal"])
def test_a_language_model_of_a_text_says_the_same_as_json(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(__file__).parents[3] / "LICENSE"
    arguments = [
        task,
        "--text",
        str(text),
        "--vocabulary",
        "300",
        *SHORT,
        "--length",
        "16",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "finished after 6 steps" in shown
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    last = [row for row in told["curves"] if row["valid_loss"] is not None][-1]
    assert f"{last['valid_loss']:.3f}" in shown
    assert told["status"] == "finished"


def test_defaults_are_corpora_that_every_machine_has() -> None:
    assert isinstance(run_of(parser().parse_args(["masked", "--out", "x"])).corpus, PythonText)
    text = run_of(parser().parse_args(["causal", "--text", "t", "--out", "x"]))
    assert isinstance(text.corpus, PlainText)
    assert text.label_smoothing == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either a task or --preset"),
        (["translation", "--preset", "ci"], "either a task or --preset"),
        (["--preset", "large"], "accepted are ci"),
        (["speech"], "accepted are causal, masked, translation"),
        (["masked", "--text", "a", "--table", "b"], "are two corpora: give one"),
        (["translation", "--source", "a"], "belong together"),
        (["translation", "--vocabulary", "100"], "belongs to files"),
        (["translation", "--placement", "mid_ln"], "unknown placement 'mid_ln'"),
        (["masked", "--text", "absent.txt", "--placement", "mid_ln"], "absent.txt"),
        (["translation", "--heads", "3"], "heads"),
        (["translation", "--steps", "0"], "steps=0 is too small"),
        (["translation", "--lr", "-1"], "lr_max=-1.0 is no learning rate"),
        (["translation", "--momentum", "0.9"], "belongs to 'sgd'"),
        (["translation", "--precision", "float16"], "accepted are bfloat16, float32"),
        (["translation", "--profile", "5000"], "outside of 0 to 1000"),
        (["--preset", "ci", "--workers", "0"], "workers=0 is too small"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=words):
        main([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")])


def test_a_learned_position_is_missing_for_long_sentences(tmp_path: Path) -> None:
    arguments = ["translation", *SHORT, "--out", str(tmp_path)]
    arguments[arguments.index("--positions") + 1] = "4"
    with pytest.raises(InputError, match="more than the 4 learned positions"):
        main(arguments)


def test_the_exit_status_of_a_diverged_run_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diverging = ["--optimizer", "sgd", "--lr", "1e15", "--schedule", "constant"]
    assert main(["translation", *SHORT, *diverging, "--out", str(tmp_path)]) == 1
    assert "diverged" in capsys.readouterr().out


def test_two_processes_under_torchrun_train_as_one(tmp_path: Path) -> None:
    arguments = ["translation", *SHORT, "--lr", "0.01"]
    one = [sys.executable, "-m", "empirical.train", *arguments, "--out", str(tmp_path / "one")]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "empirical.train"]
    two = [sys.executable, *start, *arguments, "--out", str(tmp_path / "two")]
    for command in (one, two):
        ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    alone, together = (read(tmp_path / name / LOG) for name in ("one", "two"))
    assert [r["kind"] for r in alone] == [r["kind"] for r in together]
    for ours, theirs in zip(alone, together, strict=True):
        for key in ("train_loss", "valid_loss"):
            if key in ours:
                assert theirs[key] == pytest.approx(ours[key], rel=1e-4)
        for name, norm in ours.get("norms", {}).items():
            assert theirs["norms"][name] == pytest.approx(norm, rel=1e-2, abs=1e-6)
    losses = [record["train_loss"] for record in alone if "train_loss" in record]
    assert losses[-1] < 0.99 * losses[0]  # so that equal losses say something of the updates
