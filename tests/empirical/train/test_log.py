import math
from pathlib import Path

import pytest

from empirical.train.log import Log, read
from meanfield.errors import InputError


def test_records_come_back_with_numbers_that_are_not_finite(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", 0)
    log.write("step", 1, train_loss=math.nan, lr=0.1)
    log.write("norms", 1, norms={"1/ffn.up/weight": math.inf})
    length = log.sync()
    log.close()
    first, second = read(tmp_path / "log.jsonl")
    assert math.isnan(first["train_loss"])
    assert first["lr"] == 0.1
    assert second["norms"] == {"1/ffn.up/weight": math.inf}
    assert length == (tmp_path / "log.jsonl").stat().st_size


def test_what_no_checkpoint_vouches_for_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n{"kind": "step", "step": 2}\n{"kin')
    log = Log(path, 28)
    log.write("step", 2)
    log.close()
    assert [record["step"] for record in read(path)] == [1, 2]


def test_a_torn_last_line_is_left_out_and_a_damaged_one_before_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n{"kin')
    assert len(read(path)) == 1
    for damaged in (b"{}\n", b"no\n", b"[1]\n", b'{"kind": 3}\n', b"\xff\xfe\n"):
        path.write_bytes(b'{"kind": "step", "step": 1}\n' + damaged)
        with pytest.raises(InputError, match="line 2 is no record"):
            read(path)


def test_missing_and_unwritable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a folder of a run"):
        read(tmp_path / "log.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        Log(tmp_path / "absent" / "log.jsonl", 0)
