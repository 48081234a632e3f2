"""Logs of runs as tidy tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from empirical.train.folder import LOG, finished
from empirical.train.log import read
from empirical.train.run import KEYS, Run
from meanfield.errors import InputError

COLUMNS = {
    "curves": ("step", "train_loss", "valid_loss", "bleu"),
    "runs": ("status", "steps", "unigram_loss", "valid_loss", "bleu", "seconds", "tokens"),
    "gradients": (
        "step",
        "layer",
        "module",
        "parameter",
        "mean_of_norms",
        "norm_of_mean",
        "minibatches",
    ),
    "norms": ("step", "layer", "module", "parameter", "grad_norm"),
}


def collected(runs: Iterable[Run], folder: Path) -> dict[str, pd.DataFrame]:
    """Read what ended runs logged.

    Args:
        runs: The runs; each has a folder of its name in ``folder``.
        folder: The folder.

    Returns:
        Tables whose first columns are the run's keys: ``curves``, one row a step with a training loss (mean
        since the row before), a validation loss or a BLEU, NaN where there is none; ``runs``, one row a run;
        ``gradients``, one row a tensor and profiled step; ``norms``, one row a tensor and evaluated step, of
        the mini-batch that was used.

    Raises:
        InputError: If a run has not ended, or its folder is damaged.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    for run in runs:
        for name, found in of_run(run, folder / run.name).items():
            rows[name] += [{**run.keys, **row} for row in found]
    return {name: pd.DataFrame(found, columns=[*KEYS, *COLUMNS[name]]) for name, found in rows.items()}


def of_run(run: Run, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read one run.

    Args:
        run: The run.
        folder: Its own folder.

    Returns:
        Rows by table, without keys.

    Raises:
        InputError: If it has not ended, or its folder is damaged.
    """
    result = finished(run, folder)
    if result is None:
        raise InputError(f"folder {str(folder)!r} holds no ended run: train it first")
    records = read(folder / LOG)
    curve: dict[int, dict[str, Any]] = {}
    for record in records:
        if record["kind"] in {"step", "valid", "bleu"}:
            row = curve.setdefault(record["step"], {"step": record["step"]})
            row.update({key: record[key] for key in ("train_loss", "valid_loss", "bleu") if key in record})
    (unigram,) = (record["unigram_loss"] for record in records if record["kind"] == "unigram")
    curves = [curve[step] for step in sorted(curve)]
    end = {name: _last(curves, name) for name in ("valid_loss", "bleu")}
    return {
        "curves": curves,
        "runs": [{**dataclasses.asdict(result), "unigram_loss": unigram, **end, "tokens": run.tokens}],
        "gradients": [_without(record, "kind") for record in records if record["kind"] == "gradient"],
        "norms": [row for record in records if record["kind"] == "norms" for row in _norms(record)],
    }


def _last(curves: list[dict[str, Any]], name: str) -> float:
    return next((row[name] for row in reversed(curves) if name in row), float("nan"))


def _norms(record: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, norm in record["norms"].items():
        layer, module, parameter = name.split("/")
        key = {"layer": int(layer), "module": module, "parameter": parameter}
        yield {"step": record["step"], **key, "grad_norm": norm}


def _without(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}
