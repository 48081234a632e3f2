import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from empirical.train.folder import CHECKPOINT, LOG, RESULT
from empirical.train.grid import train_grid
from empirical.train.pool import train_all
from empirical.train.presets import PRESETS
from empirical.train.run import KEYS
from empirical.train.tables import COLUMNS, collected
from meanfield.errors import InputError
from tests.empirical.train.small import TRANSLATION, with_model

RUNS = tuple(
    replace(run, seed=seed)
    for run in (with_model(TRANSLATION, placement="post_ln"), TRANSLATION)
    for seed in range(2)
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pd.DataFrame]]:
    folder = tmp_path_factory.mktemp("grid")
    return folder, train_grid(RUNS, folder, workers=2)


def test_tables_have_every_run_and_the_columns_that_others_rely_on(
    trained: tuple[Path, dict[str, pd.DataFrame]],
) -> None:
    _, tables = trained
    for name, columns in COLUMNS.items():
        assert list(tables[name].columns) == [*KEYS, *columns]
    assert len(tables["runs"]) == 4
    assert set(tables["runs"]["status"]) == {"finished"}
    curves = tables["curves"]
    assert curves.groupby(["placement", "seed"]).size().tolist() == [13] * 4  # step 0 and each of 12
    assert curves["bleu"].notna().sum() == 4
    layers = tables["gradients"][tables["gradients"]["module"] == "decoder.ffn.down"]
    assert sorted(layers["step"].unique()) == [0, 12]
    assert len(tables["predictions"]) == 2
    assert (tables["predictions"]["risk"] > 0).all()


def test_one_process_gives_the_logs_of_two(
    trained: tuple[Path, dict[str, pd.DataFrame]], tmp_path: Path
) -> None:
    folder, _ = trained
    train_all(RUNS[:1], tmp_path, workers=1)
    name = RUNS[0].name
    assert (tmp_path / name / LOG).read_bytes() == (folder / name / LOG).read_bytes()
    assert not (tmp_path / name / CHECKPOINT).exists()


def test_a_second_call_trains_nothing_and_keeps_the_predictions(
    trained: tuple[Path, dict[str, pd.DataFrame]],
) -> None:
    folder, tables = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done: list[float] = []
    again = train_grid(RUNS, folder, workers=2, advance=done.append)
    changed = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert all(path.name == "trial" or not path.exists() for path in changed)
    assert sum(done) == sum(run.steps for run in RUNS)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)


def test_runs_that_have_not_ended_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no ended run"):
        collected(RUNS, tmp_path)


SCRIPT = """
import pickle, sys
from pathlib import Path
from empirical.train.pool import train_all
runs, folder = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
train_all(runs, folder, workers=2)
"""


def test_a_killed_worker_is_said_and_a_killed_driver_frees_its_folders(tmp_path: Path) -> None:
    import pickle

    runs = tuple(replace(run, steps=400, evaluations=1, translations=0, profile=()) for run in RUNS[1:3])
    (tmp_path / "runs").write_bytes(pickle.dumps(runs))
    folder = tmp_path / "grid"

    def start() -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "runs"), str(folder)]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        while sum(_steps(folder / run.name) for run in runs) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        return process

    driver = start()
    os.kill(_child(driver.pid), signal.SIGKILL)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert b"was killed" in said
    driver = start()
    driver.kill()
    driver.communicate(timeout=60)
    train_all([replace(run, steps=400) for run in runs[:1]], folder, workers=1)
    assert json.loads((folder / runs[0].name / RESULT).read_text())["status"] == "finished"


def _steps(folder: Path) -> int:
    return (folder / LOG).read_bytes().count(b'"step"') if (folder / LOG).exists() else 0


def _child(parent: int) -> int:
    """A loky worker of a process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(words[1]) == parent and b"LokyProcess" in command:
                return int(entry.name)
    raise AssertionError("no worker")


def test_the_ci_preset_trains_and_is_deterministic(tmp_path: Path) -> None:
    runs = PRESETS["ci"]
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        assert {result.status for result in train_all(runs, folder, workers=1)} == {"finished"}
    for run in runs:
        assert (first / run.name / LOG).read_bytes() == (second / run.name / LOG).read_bytes()
    curves = collected(runs, first)["curves"].dropna(subset="valid_loss")
    for _, curve in curves.groupby("placement"):
        assert curve["valid_loss"].iloc[-1] < 0.8 * curve["valid_loss"].iloc[0]


def test_presets_are_what_their_names_say() -> None:
    warmup, paper = PRESETS["warmup"], PRESETS["paper"]
    assert all(2 * run.model.depth >= 12 for run in warmup)
    for runs in (warmup, paper):
        cells: dict[tuple[object, ...], set[int]] = {}
        for run in runs:
            keys = {key: value for key, value in run.keys.items() if key != "seed"}
            cells.setdefault(tuple(keys.values()), set()).add(run.seed)
        assert all(len(seeds) >= 3 for seeds in cells.values())
        assert len({run.name for run in runs}) == len(runs)
    adam = {(r.schedule.lr_max, r.schedule.warmup) for r in paper if r.optimizer.name == "adam"}
    assert adam >= {(lr, warmup) for lr in (5e-4, 1e-3) for warmup in (1, 500, 4000)}
    assert {run.model.width for run in paper} == {512}
