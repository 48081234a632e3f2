"""What a measurement leaves behind: all seeds while it runs, and the condensed file that is kept."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield.ops import ParameterKey

MEASURED = Path(__file__).parent / "measured"
KEPT_SEEDS = 256  # whose single values are kept: enough for the coverage of a band, small enough to commit


@dataclass(frozen=True)
class Measured:
    """Squared gradient norms of every parameter tensor of one model at one width.

    Args:
        setting: What was measured: model, width, tokens, batch, loss, ids, configuration, versions.
        keys: One per tensor.
        seeds: Number of seeds, each with new weights.
        mean: Over all seeds; one per tensor, as are `sd` and `quantiles`.
        sd: Standard deviation over seeds.
        quantiles: 2.5 % and 97.5 %, (2, tensors).
        values: Single values of the first `KEPT_SEEDS` seeds, (seeds, tensors).
    """

    setting: dict[str, Any]
    keys: list[ParameterKey]
    seeds: int
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    values: NDArray[np.float32]

    @property
    def se(self) -> NDArray[np.float64]:
        """Standard error of the mean."""
        return self.sd / self.seeds**0.5


def condense(setting: dict[str, Any], keys: list[ParameterKey], values: NDArray[np.float32]) -> Measured:
    """Condense the values (seeds, tensors) of all seeds."""
    precise = values.astype(np.float64)
    return Measured(
        setting,
        keys,
        len(values),
        precise.mean(axis=0),
        precise.std(axis=0, ddof=1),
        np.quantile(precise, [0.025, 0.975], axis=0),
        values[:KEPT_SEEDS],
    )


def save(path: Path, setting: dict[str, Any], keys: list[ParameterKey], **arrays: Any) -> None:
    """Write a file in one step: a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        text: dict[str, Any] = {
            "setting": json.dumps(setting),
            "keys": [" ".join(map(str, key)) for key in keys],
        }
        np.savez_compressed(file, **text, **arrays)
    os.replace(unfinished, path)  # noqa: PTH105  (atomic also where the file exists)


def load(path: Path) -> tuple[dict[str, Any], list[ParameterKey], dict[str, NDArray[Any]]]:
    """Return what `save` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    rows = (str(row).split() for row in arrays.pop("keys"))
    keys = [ParameterKey(int(layer), module, parameter) for layer, module, parameter in rows]
    return json.loads(str(arrays.pop("setting"))), keys, arrays


def save_measured(path: Path, measured: Measured) -> None:
    """Keep a condensed measurement."""
    names = ("seeds", "mean", "sd", "quantiles", "values")
    save(
        path, measured.setting, measured.keys, **{name: np.asarray(getattr(measured, name)) for name in names}
    )


def load_measured(path: Path) -> Measured:
    """Read a condensed measurement."""
    setting, keys, arrays = load(path)
    return Measured(setting, keys, int(arrays.pop("seeds")), **arrays)
