"""Checkpoints: whole or not there, read without running code, and only by the run that wrote them."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meanfield.errors import InputError

KEYS = {"configuration", "data", "step", "model", "optimizer", "log_bytes", "seconds"}


@dataclass(frozen=True)
class Place:
    """Where a run stands.

    Args:
        step: Updates done.
        log_bytes: Length of its log then.
        seconds: Time spent.
    """

    step: int = 0
    log_bytes: int = 0
    seconds: float = 0.0


def save(
    path: Path,
    configuration: dict[str, Any],
    data: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    place: Place,
) -> None:
    """Write a checkpoint under another name and rename it when it is on the disk.

    Args:
        path: The file.
        configuration: That of the run.
        data: Digest of the corpus.
        model: What is trained.
        optimizer: Its optimiser.
        place: Where the run stands.

    Raises:
        InputError: If the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    content = {
        "configuration": json.dumps(configuration, sort_keys=True),
        "data": data,
        "step": place.step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "log_bytes": place.log_bytes,
        "seconds": place.seconds,
    }
    try:
        with draft.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise InputError(
            f"checkpoint {str(path)!r} cannot be written ({error}): free space, or write elsewhere"
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def restore(
    path: Path,
    configuration: dict[str, Any],
    data: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Place:
    """Continue from a checkpoint where there is one.

    Args:
        path: The file.
        configuration: That of the run, which has to be the checkpoint's.
        data: Digest of the corpus, which has to be the checkpoint's.
        model: Gets the weights.
        optimizer: Gets its state.

    Returns:
        Where the run stands; the start, with nothing changed, where there is no file.

    Raises:
        InputError: If the file is no checkpoint, or another run's.
    """
    if not path.exists():
        return Place()
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"checkpoint {str(path)!r} cannot be read ({reason}): move it away to start anew"
        ) from None
    if not isinstance(found, dict) or set(found) != KEYS:
        raise InputError(f"checkpoint {str(path)!r} is none of this program's: move it away to start anew")
    if (other := difference(json.loads(found["configuration"]), configuration)) is not None:
        raise InputError(
            f"checkpoint {str(path)!r} is of another configuration: {other}; give this run its own folder"
        )
    if found["data"] != data:
        raise InputError(
            f"checkpoint {str(path)!r} was trained on other data of the same name ({found['data']}, now "
            f"{data}): bring the files back, or give this run a folder of its own"
        )
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    return Place(found["step"], found["log_bytes"], found["seconds"])


def difference(theirs: Any, ours: Any, path: str = "") -> str | None:
    """Name the first place where two descriptions differ.

    Args:
        theirs: Values of JSON's types.
        ours: The same.
        path: Where in a larger description they stand.

    Returns:
        The place with both values; None where there is no difference.

    Example:
        >>> difference({"model": {"depth": 6}}, {"model": {"depth": 12}})
        'model.depth is 6 there and 12 here'
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            place = f"{path}.{key}" if path else key
            if (found := difference(theirs.get(key), ours.get(key), place)) is not None:
                return found
        return None
    return None if theirs == ours else f"{path} is {theirs!r} there and {ours!r} here"
