"""Tables on disk: whole or not there, read back bit for bit, never deleted, and refused when foreign."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import meanfield as mf
from empirical import Measurement, measure, measured, store
from meanfield.errors import InputError

ARCH = mf.paper_post_ln(width=16, depth=2)
SEEDS = range(60)  # three blocks


def equal(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    except AssertionError:
        return False
    return True


def measure_into(folder: Path, **options: Any) -> pd.DataFrame:
    return measured(ARCH, folder=folder, **{"tokens": 3, "seeds": SEEDS, **options})


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The blocks of seeds that were measured rather than read."""
    blocks: list[list[int]] = []

    def noted(arch: Any, *, seeds: list[int], **options: Any) -> Any:
        blocks.append(seeds)
        return measure(arch, seeds=seeds, **options)

    monkeypatch.setattr("empirical.store.measure", noted)
    return blocks


def test_tables_equal_the_measurement_and_are_read_the_second_time(
    tmp_path: Path, measuring: list[list[int]]
) -> None:
    direct = measure(ARCH, tokens=3, seeds=SEEDS).samples
    counts: list[int] = []
    table = measure_into(tmp_path)
    assert equal(table, direct)
    assert equal(Measurement(table).df, Measurement(direct).df)
    assert [len(block) for block in measuring] == [25, 25, 10]
    assert equal(measure_into(tmp_path, progress=counts.append), direct)
    assert len(measuring) == 3
    assert sum(counts) == 60
    assert equal(measure_into(tmp_path, seeds=reversed(SEEDS)), direct)
    assert len(measuring) == 3
    measure_into(tmp_path, seeds=range(75))  # two whole blocks are there
    assert measuring[3:] == [list(range(50, 75))]
    measure_into(tmp_path, seeds=range(25), force=True)
    assert measuring[4:] == [list(range(25))]
    assert not equal(measure_into(tmp_path, tokens=4), direct)
    assert len(measuring) == 8


def test_another_configuration_has_another_file(tmp_path: Path) -> None:
    base: dict[str, Any] = {"tokens": 2, "seeds": [0]}
    changes: list[dict[str, Any]] = [
        {}, {"tokens": 3}, {"batch": 2}, {"minibatches": 2}, {"dtype": "float64"}, {"seeds": [1]},
    ]  # fmt: skip
    for change in changes:
        measure_into(tmp_path, **{**base, **change})
    measured(mf.paper_post_ln(width=16, depth=3), folder=tmp_path, **base)
    measured(mf.paper_pre_ln(width=16, depth=2), folder=tmp_path, **base)
    assert len(list(tmp_path.glob("*.parquet"))) == len(changes) + 2


def test_numbers_of_numpy_name_the_same_file(tmp_path: Path) -> None:
    one, two, eight = (cast("int", np.int64(k)) for k in (1, 2, 8))
    arch = mf.paper_post_ln(width=eight, depth=one)
    measured(arch, folder=tmp_path, tokens=two, seeds=np.arange(1))
    measured(mf.paper_post_ln(width=8, depth=1), folder=tmp_path, tokens=2, seeds=[0])
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_metadata_say_what_was_measured_with_what(tmp_path: Path) -> None:
    measure_into(tmp_path, seeds=[3, 5])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("paper_post_ln-")
    metadata = pq.read_schema(path).metadata
    cell = json.loads(metadata[b"configuration"])
    assert cell["seeds"] == [3, 5]
    assert cell["setting"]["device"] == "cpu"
    weight = cell["arch"]["layers"][0]["block"]["ops"][0]["branch"]["value"]["weight"]
    assert weight == {"type": "Draw", "variance": "1/16", "law": "normal", "mean": 0}
    assert {"python", "torch", "numpy", "meanfield", "commit", "date"} <= set(
        json.loads(metadata[b"environment"])
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in range(200, 2000):  # inside the pages of the first columns
        content[position] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def strip(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def swap(path: Path) -> None:
    other = mf.paper_post_ln(width=16, depth=3)
    measured(other, folder=path.parent / "other", tokens=3, seeds=[0])
    (table,) = (path.parent / "other").iterdir()
    path.write_bytes(table.read_bytes())


@pytest.mark.parametrize("damage", [truncate, flip, empty, strip, swap])
def test_damaged_or_foreign_tables_are_moved_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    whole = measure_into(tmp_path, seeds=range(3))
    (path,) = tmp_path.iterdir()
    for count in (1, 2):
        damage(path)
        damaged = path.read_bytes()
        assert equal(measure_into(tmp_path, seeds=range(3), force=count == 2), whole)
        aside = path.with_name(f"{path.name}.corrupt-{count}")
        assert aside.read_bytes() == damaged
        assert aside.name in capsys.readouterr().err
    assert equal(measure_into(tmp_path, seeds=range(3)), whole)
    assert capsys.readouterr().err == ""


def test_content_is_compared_where_a_table_says_it(
    tmp_path: Path, measuring: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = measure_into(tmp_path, seeds=[0])
    (path,) = tmp_path.iterdir()
    table = pq.read_table(path)
    older = {key: value for key, value in table.schema.metadata.items() if key != b"content"}
    pq.write_table(table.replace_schema_metadata(older), path)
    assert equal(measure_into(tmp_path, seeds=[0]), whole)
    assert len(measuring) == 1
    pq.write_table(table.replace_schema_metadata({**older, b"content": b"of another table"}), path)
    assert equal(measure_into(tmp_path, seeds=[0]), whole)
    assert len(measuring) == 2
    assert "its numbers are not those that were written" in capsys.readouterr().err


def test_stale_temporary_files_are_removed_and_fresh_ones_left(tmp_path: Path) -> None:
    stale, fresh = tmp_path / ".a.parquet.host-1.tmp", tmp_path / ".b.parquet.host-2.tmp"
    for path in (stale, fresh):
        path.write_bytes(b"half a table")
    long_ago = time.time() - store.STALE_SECONDS - 60
    os.utime(stale, (long_ago, long_ago))
    measure_into(tmp_path, seeds=[0])
    assert not stale.exists()
    assert fresh.exists()


def test_unwritable_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, measuring: list[list[int]]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot be written .*: give a folder") as error:
            measure_into(folder)
        assert "\n" not in str(error.value)
    assert not measuring


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match="No space left on device"):
        measure_into(tmp_path, seeds=[0])
    assert not list(tmp_path.iterdir())


RUN = """
import sys
from pathlib import Path
import meanfield as mf
from empirical import measured
measured(mf.paper_post_ln(width=16, depth=2), folder=Path(sys.argv[1]), tokens=3, seeds=range(300))
"""


def test_a_killed_run_leaves_whole_tables_and_is_continued(
    tmp_path: Path, measuring: list[list[int]]
) -> None:
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(killed)])
    try:
        deadline = time.monotonic() + 60
        while len(list(killed.glob("*.parquet"))) < 3:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no tables after a minute"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    whole = list(killed.glob("*.parquet"))
    assert 3 <= len(whole) < 12
    for path in whole:
        assert len(pq.read_table(path, partitioning=None)) > 0
    assert all(path in whole or path.name.endswith(".tmp") for path in killed.iterdir())
    resumed = measure_into(killed, seeds=range(300))
    assert len(measuring) == 12 - len(whole)
    assert equal(resumed, measure_into(calm, seeds=range(300)))
    assert not equal(resumed, resumed.assign(grad_sq_hat=resumed["grad_sq_hat"] * (1 + 2**-52)))
