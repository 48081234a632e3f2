import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from empirical import build
from empirical.train import Optimizer, Run, Schedule, train
from empirical.train.folder import CHECKPOINT, LOCK, LOG, RESULT
from empirical.train.log import read
from empirical.train.tasks import Loss
from empirical.train.training import LOGGED, seed_of, task_of
from meanfield.errors import InputError
from tests.empirical.train.small import MODEL, TEXT, TRANSLATION, with_model

DROPPING = with_model(TRANSLATION, dropout=0.2)


def log_of(run: Run, folder: Path) -> bytes:
    train(run, folder)
    return (folder / LOG).read_bytes()


@pytest.mark.parametrize("run", [DROPPING, TEXT], ids=["translation", "masked"])
def test_equal_runs_have_equal_logs_and_other_seeds_have_others(run: Run, tmp_path: Path) -> None:
    first = log_of(run, tmp_path / "first")
    assert log_of(run, tmp_path / "second") == first
    assert log_of(replace(run, seed=1), tmp_path / "other") != first
    kinds = [record["kind"] for record in read(tmp_path / "first" / LOG)]
    assert kinds.count("step") == run.steps
    assert kinds.count("valid") == 1 + run.evaluations
    assert kinds.count("bleu") == run.translations
    assert kinds[-1] == "end"


def test_training_lowers_the_loss_by_the_updates_of_a_plain_loop(tmp_path: Path) -> None:
    run = replace(TRANSLATION, label_smoothing=0.0)
    records = [record for record in read_log(run, tmp_path) if record["kind"] == "step"]
    task = task_of(run)
    loss = Loss(build(MODEL.architecture("translation", task.vocab), seed=run.seed), 0.0)
    optimizer = torch.optim.Adam(loss.parameters(), betas=(0.9, 0.98), eps=1e-9)
    for step, record in enumerate(records):
        for group in optimizer.param_groups:
            group["lr"] = run.schedule.rate(step + 1, steps=run.steps)
        batch = task.batch(step)
        value = loss(batch.inputs, batch.picked, batch.targets) / len(batch.targets)
        assert record["train_loss"] == pytest.approx(value.item(), rel=2e-4)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert records[-1]["train_loss"] < 0.9 * records[0]["train_loss"]


def read_log(run: Run, folder: Path) -> list[dict[str, Any]]:
    train(run, folder)
    return read(folder / LOG)


SCRIPT = """
import pickle, sys
from pathlib import Path
from typing import Any
from empirical.train import train
run, folder = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
train(run, folder, every=0.0)
"""


def test_a_run_that_is_killed_again_and_again_leaves_the_log_of_one_that_is_not(tmp_path: Path) -> None:
    import pickle

    run = replace(DROPPING, steps=60, evaluations=4, profile=(0, 30, 60), optimizer=Optimizer(name="radam"))
    undisturbed = log_of(run, tmp_path / "whole")
    (tmp_path / "run").write_bytes(pickle.dumps(run))
    folder, kills = tmp_path / "killed", 0
    for steps in (10, 25, 40):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(folder)])
        while process.poll() is None:
            log = (folder / LOG).read_bytes() if (folder / LOG).exists() else b""
            if log.count(b'"kind": "step"') >= steps:
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                break
            time.sleep(0.001)
    assert kills == 3
    assert not (folder / RESULT).exists()
    assert (folder / CHECKPOINT).exists()
    assert train(run, folder).status == "finished"
    assert (folder / LOG).read_bytes() == undisturbed


def test_a_checkpoint_older_than_the_log_cuts_the_log_and_goes_on(tmp_path: Path) -> None:
    run, folder = replace(TRANSLATION, steps=9, profile=(0, 9)), tmp_path / "run"
    whole = log_of(run, tmp_path / "whole")
    taken: list[bytes] = []

    def copy(steps: int) -> None:
        if (folder / CHECKPOINT).exists():
            taken.append((folder / CHECKPOINT).read_bytes())

    train(run, folder, every=0.0, advance=copy)
    (folder / RESULT).unlink()
    (folder / CHECKPOINT).write_bytes(taken[2])
    with (folder / LOG).open("ab") as file:
        file.write(b'{"kind": "st')  # torn
    assert train(run, folder).steps == 9
    assert (folder / LOG).read_bytes() == whole


def test_a_run_that_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    first = train(TRANSLATION, tmp_path)
    before = (tmp_path / LOG).stat().st_mtime_ns
    done: list[int] = []
    assert train(TRANSLATION, tmp_path, advance=done.append) == first
    assert done == [TRANSLATION.steps]
    assert (tmp_path / LOG).stat().st_mtime_ns == before


def test_a_run_that_diverges_is_recorded_as_such(tmp_path: Path) -> None:
    sgd = Optimizer(name="sgd", momentum=0.9)
    run = replace(TRANSLATION, optimizer=sgd, schedule=Schedule(kind="constant", lr_max=1e12), profile=())
    result = train(run, tmp_path)
    assert result.status == "diverged"
    assert result.steps < run.steps
    end = read(tmp_path / LOG)[-1]
    assert (end["kind"], end["status"], end["step"]) == ("end", "diverged", result.steps)
    assert not (tmp_path / CHECKPOINT).exists()
    json.loads((tmp_path / RESULT).read_text())


def test_a_checkpoint_of_another_configuration_is_refused_by_the_place_that_differs(tmp_path: Path) -> None:
    train(TRANSLATION, tmp_path)
    (tmp_path / RESULT).unlink()
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(InputError, match=r"schedule\.lr_max is 0\.01 there and 0\.02 here"):
        train(replace(TRANSLATION, schedule=replace(TRANSLATION.schedule, lr_max=2e-2)), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_result_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(TRANSLATION, tmp_path)
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        train(replace(TRANSLATION, seed=1), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(InputError, match="move it away to start anew"):
        train(TRANSLATION, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "was here"),)

    torch.save({"configuration": Evil()}, tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="cannot be read"):
        train(TRANSLATION, tmp_path)
    assert not (tmp_path / "was here").exists()


def test_a_log_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    train(TRANSLATION, tmp_path)
    (tmp_path / RESULT).unlink()
    (tmp_path / LOG).write_bytes(b"")
    with pytest.raises(InputError, match="its checkpoint vouches for"):
        train(TRANSLATION, tmp_path)


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process's at the moment"):
            train(TRANSLATION, tmp_path)
    assert train(TRANSLATION, tmp_path).status == "finished"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give a folder you may write to"):
        train(TRANSLATION, tmp_path / "file" / "run")


def test_mixed_precision_trains_to_about_the_same_loss(tmp_path: Path) -> None:
    single, mixed = (
        [r["valid_loss"] for r in read_log(run, tmp_path / run.precision) if r["kind"] == "valid"][-1]
        for run in (TRANSLATION, replace(TRANSLATION, precision="bfloat16"))
    )
    assert isinstance(mixed, float)
    assert mixed != single
    assert mixed == pytest.approx(single, rel=0.02)


def test_clipping_bounds_the_first_update_of_sgd(tmp_path: Path) -> None:
    sgd = Optimizer(name="sgd", clip=1e-9)
    run = replace(TRANSLATION, optimizer=sgd, profile=())
    values = [r["valid_loss"] for r in read_log(run, tmp_path) if r["kind"] == "valid"]
    assert len(set(values)) <= 2  # nothing moves beyond rounding
    assert values[0] == pytest.approx(values[-1], rel=1e-6)


def test_seeds_of_steps_are_distinct() -> None:
    assert len({seed_of(0, f"dropout, step {step}, rank 0") for step in range(1000)}) == 1000
    assert not math.isnan(seed_of(0, "x"))
    assert LOGGED >= 1
