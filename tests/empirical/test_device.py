"""Bad devices and types are refused in one line."""

import pytest
import torch

from empirical.device import torch_device, torch_dtype
from meanfield.errors import InputError, UnknownNameError


def test_missing_device_names_those_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device='cuda' is not present: available are .*cpu; use") as error:
        torch_device("cuda")
    assert "\n" not in str(error.value)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert torch_device("auto").type == "cpu"


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown device 'cudda'.*did you mean 'cuda'"):
        torch_device("cudda")
    with pytest.raises(UnknownNameError, match=r"unknown dtype 'float31'.*did you mean 'float32'"):
        torch_dtype("float31", torch.device("cpu"))
    with pytest.raises(InputError, match="does not exist on device 'mps'"):
        torch_dtype("float64", torch.device("mps"))
