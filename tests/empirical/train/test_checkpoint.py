from pathlib import Path

import pytest
import torch
from torch import nn

from empirical.train.checkpoint import Place, difference, restore, save
from meanfield.errors import InputError


def pair(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


def test_what_is_saved_is_restored_to_the_bit(tmp_path: Path) -> None:
    path, place = tmp_path / "checkpoint.pt", Place(7, 123, 4.5)
    module, optimizer = pair(0)
    save(path, {"a": 1}, "data", module, optimizer, place)
    other, its = pair(1)
    assert restore(path, {"a": 1}, "data", other, its) == place
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for key, value in optimizer.state[ours].items():
            assert torch.equal(value, its.state[theirs][key])


def test_nothing_is_left_behind_and_nothing_lost_where_a_write_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    module, optimizer = pair(0)
    save(path, {"a": 1}, "data", module, optimizer, Place(1, 0, 0.0))
    before = path.read_bytes()

    def full(content: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]  # an open file
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(path, {"a": 1}, "data", module, optimizer, Place(2, 0, 0.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", ["data", "other"])
def test_other_configurations_and_other_data_are_refused(data: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    module, optimizer = pair(0)
    save(path, {"a": {"b": 1}}, "data", module, optimizer, Place(1, 0, 0.0))
    configuration = {"a": {"b": 1 if data == "other" else 2}}
    with pytest.raises(InputError, match="other data" if data == "other" else "a.b is 1 there and 2 here"):
        restore(path, configuration, data, module, optimizer)


def test_a_file_of_torch_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="none of this program's"):
        restore(tmp_path / "checkpoint.pt", {}, "data", *pair(0))


def test_the_first_difference_is_named_whatever_side_has_more() -> None:
    assert difference({"a": 1}, {"a": 1}) is None
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "b is None there and 2 here"
    assert difference({"a": [1, 2]}, {"a": [1, 3]}) == "a is [1, 2] there and [1, 3] here"
