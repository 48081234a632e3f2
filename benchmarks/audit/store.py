"""What one trial of a family leaves behind: its table of tensors, or the reason why it was refused."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

MEASURED = Path(__file__).parent / "measured"
TEXT = ["parameter", "module", "role", "flag"]
NUMBERS = [
    *("layer", "grad_sq", "grad_sq_se", "grad_sq_sd", "grad_sq_limit"),
    *("grad_sq_hat", "grad_sq_hat_se", "grad_sq_hat_sd", "ratio", "ratio_low", "ratio_high", "inside"),
]


@dataclass(frozen=True, eq=False)
class Trial:
    """One variant of one family, predicted and measured, or refused.

    Args:
        family: Its name.
        variant: ``"linear"``, ``"tied"`` or ``"untied"``.
        setting: Sizes, seeds, samples, tolerance, versions, seconds.
        refused: Why there is no prediction, in the words of the error; None if there is one.
        notes: What the audit found beside the numbers.
        table: One row per tensor, columns `TEXT` and `NUMBERS`; empty if refused.
    """

    family: str
    variant: str
    setting: dict[str, Any]
    refused: str | None
    notes: tuple[str, ...]
    table: pd.DataFrame


def path_of(folder: Path, family: str, variant: str) -> Path:
    """Return the file of a trial."""
    return folder / f"{family}.{variant}.npz"


def save(folder: Path, trial: Trial) -> None:
    """Write a trial in one step: a reader finds the old file or the new one, never a part."""
    text = {
        "family": trial.family,
        "variant": trial.variant,
        "setting": trial.setting,
        "refused": trial.refused,
        "notes": trial.notes,
        **{name: [*map(str, trial.table[name])] for name in TEXT},
    }
    path = path_of(folder, trial.family, trial.variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        numbers = trial.table[NUMBERS].to_numpy(np.float32)  # (tensors, columns)
        packed = np.frombuffer(json.dumps(text).encode(), np.uint8)  # so that it is compressed as text
        np.savez_compressed(file, text=packed, numbers=numbers)
    os.replace(unfinished, path)  # noqa: PTH105  (atomic also where the file exists)


def load(path: Path) -> Trial:
    """Return what `save` wrote."""
    with np.load(path) as stored:
        text, numbers = json.loads(stored["text"].tobytes()), stored["numbers"].astype(np.float64)
    table = pd.DataFrame(numbers, columns=NUMBERS).astype({"layer": int})
    for name in TEXT:
        table[name] = text[name]
    return Trial(
        text["family"], text["variant"], text["setting"], text["refused"], tuple(text["notes"]), table
    )


def nothing() -> pd.DataFrame:
    """Return the table of a trial that was refused."""
    return pd.DataFrame(columns=[*TEXT, *NUMBERS])
