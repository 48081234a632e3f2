"""Logged records: whole lines after a kill, strict JSON, numbers that are not finite, curves read back."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import empirical
from empirical.recording import JsonLines, Record, TensorBoard, read_json_lines, record
from meanfield.errors import InputError

POINT = Record(
    3, "h.0", "activation", True, {"q_hat": 1 / 3, "cov_hat": -0.5, "q_grad_hat": 1e-12, "cov_grad_hat": None}
)
GRADIENT = Record(3, "h.0.fc", "weight", True, {"grad_sq_hat": 2.5})


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not strict JSON")


def train(logger: JsonLines | TensorBoard, steps: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, logger=logger):
        for _ in range(steps):
            model(torch.randn(2, 3, 4)).square().sum().backward()
            optimizer.step()
    return model


# --- Lines of JSON ------------------------------------------------------------------------------------------


def test_lines_are_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    JsonLines(path).log([POINT, GRADIENT])
    JsonLines(str(path)).log([POINT])  # another run goes on
    table = read_json_lines(path)
    assert table.module.tolist() == ["h.0", "h.0.fc", "h.0"]
    assert table.q_hat.tolist()[0] == 1 / 3
    assert table.cov_grad_hat.isna().all()
    assert table.grad_sq_hat.tolist()[1] == 2.5
    assert table.attrs["torn"] == []
    run = tmp_path / "training.jsonl"
    train(JsonLines(run))
    table = read_json_lines(run)
    assert table.step.tolist() == [step for step in range(3) for _ in range(8)]  # 4 points and 4 parameters
    assert table[table.parameter == "activation"].q_grad_hat.gt(0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_strict_json(tmp_path: Path, value: float) -> None:
    path = tmp_path / "run.jsonl"
    JsonLines(path).log([Record(0, "h.0", "activation", False, {"q_hat": value, "cov_hat": None})])
    row = json.loads(path.read_text(), parse_constant=refuse)
    assert float(row["q_hat"]) == pytest.approx(value, nan_ok=True)
    assert row["cov_hat"] is None
    assert read_json_lines(path).q_hat.tolist() == pytest.approx([value], nan_ok=True)


def test_a_torn_last_line_is_named_and_run_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    JsonLines(whole).log([POINT, GRADIENT])
    content = whole.read_bytes()
    first = content.index(b"\n") + 1
    for end in range(first + 1, len(content) - 1):  # at every byte of the second line
        path.write_bytes(content[:end])
        table = read_json_lines(path)
        assert table.module.tolist() == ["h.0"]
        assert table.attrs["torn"] == [2]
        assert f"{path}: line 2 is torn" in capsys.readouterr().err
    JsonLines(path).log([POINT])  # what follows is on a line of its own
    table = read_json_lines(path)
    assert (table.module.tolist(), table.attrs["torn"]) == (["h.0", "h.0"], [2])
    path.write_bytes(content[:-1])  # a whole line but for its end is a whole line
    assert read_json_lines(path).module.tolist() == ["h.0", "h.0.fc"]
    JsonLines(path).log([POINT])
    assert read_json_lines(path).module.tolist() == ["h.0", "h.0.fc", "h.0"]


TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.empirical.test_recording_loggers import JsonLines, train
train(JsonLines(Path(sys.argv[1])), steps=10**9)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_leaves_whole_lines(tmp_path: Path) -> None:
    path, root = tmp_path / "run.jsonl", Path(__file__).parents[2]
    run = subprocess.Popen([sys.executable, "-c", TRAINING, str(path), str(root)])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < 100):
            assert run.poll() is None
            time.sleep(0.02)
    finally:
        run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    lines = path.read_bytes().split(b"\n")
    table = read_json_lines(path)
    assert len(table) >= 100
    assert table.attrs["torn"] in ([], [len(lines)])
    assert len(table) == len(lines) - 1
    whole = table.groupby("step").size().to_numpy()
    assert (whole[:-1] == 8).all()
    assert set(table.step) == set(range(len(whole)))  # no step is missing


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written .*: give a path you may write to"):
        JsonLines(tmp_path / "absent" / "run.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_json_lines(tmp_path / "absent.jsonl")
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes\n")
    with pytest.raises(InputError, match="has no whole line: give a file that JsonLines wrote"):
        read_json_lines(notes)
    for line in (
        "[1]",
        '{"step": 1}',
        '{"step": 0, "module": "", "parameter": "", "training": true, "x": 1}',
    ):
        notes.write_text(line + "\n")
        with pytest.raises(InputError, match=r"notes\.txt, line 1, is no record of a step"):
            read_json_lines(notes)


# --- TensorBoard --------------------------------------------------------------------------------------------


def test_curves_are_read_back(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    lines = JsonLines(tmp_path / "run.jsonl")
    board = TensorBoard(tmp_path / "board")

    class Both:
        def log(self, records: list[Record]) -> None:
            lines.log(records)
            board.log(records)

    train(Both())  # type: ignore[arg-type]
    board.log([Record(3, "0", "activation", False, {"q_hat": math.nan, "cov_hat": None})])
    events = reader.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    tags = events.Tags()["scalars"]
    table = read_json_lines(lines.path)
    curve = table[(table.module == "1.0") & (table.parameter == "activation")].q_grad_hat
    assert [event.value for event in events.Scalars("q_grad_hat/1.0")] == pytest.approx(
        curve.tolist(), rel=1e-6
    )
    assert [event.step for event in events.Scalars("grad_sq_hat/1.0.weight")] == [0, 1, 2]
    assert math.isnan(events.Scalars("q_hat_eval/0")[0].value)
    assert "cov_hat_eval/0" not in tags
    assert len(tags) == 4 * 4 + 4 + 1


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'meanfield-transformers\[tensorboard\]'"):
        TensorBoard(tmp_path)


# --- Documentation ------------------------------------------------------------------------------------------


def test_the_example_of_the_documentation_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "recording.md").read_text(encoding="utf-8")
    example, shown = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)[:2]
    monkeypatch.setattr(empirical, "record", record, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    found, wanted = capsys.readouterr().out.split(), shown.split()
    assert found[:6] == wanted[:6]
    assert found[7::6] == wanted[7::6]  # paths
    for column in (6, 8, 9, 10, 11):
        numbers = [[float(word) for word in words[column::6]] for words in (found, wanted)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.1)  # two digits are shown
