"""What theory says of each configuration before it is trained: the first update, and whether it is a risk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

import meanfield as mf
from empirical.corpus import Parallel
from empirical.ensemble import ONE_THREAD
from empirical.train.data import Corpus, load
from empirical.train.run import KEYS, Model, Run
from meanfield.first_update import LARGEST_CHANGE

PER_CONFIGURATION = ("predicted_critical_lr", "risk", "first_order_change", "output_change")
PER_PARAMETER = ("layer", "module", "parameter", "grad_norm", "weight_norm", "update_norm", "relative_update")

TOKENS = 512
"""The largest mini-batch that is predicted (a kernel has a row for each token); it stands for larger ones."""


def predictions(
    runs: Sequence[Run], *, workers: int = 1, advance: Callable[[int], None] | None = None
) -> dict[str, pd.DataFrame]:
    """Predict the first update of every translation run from the gradient profile of its architecture.

    Sentences have the mean lengths of the corpus, mini-batches the size of the run's up to `TOKENS`, and two
    targets are the same as often as in the corpus. Input ids are uniform, and targets do not depend on them.
    Language models are left out: the theory's loss is over all positions, theirs over few.

    Args:
        runs: Runs; those that differ in their seed alone are one configuration.
        workers: Processes, one an architecture.
        advance: Called with 1 for every architecture that is done.

    Returns:
        ``predictions``: one row per configuration with ``predicted_critical_lr`` (the largest lr_max, warm-up
        included, whose first step is no risk), ``risk`` (above 1: at risk), ``first_order_change`` (of the
        loss, in nats) and ``output_change`` (of the last hidden states, relative); ``first_updates``: one row
        per configuration and parameter, as `meanfield.first_update` has them.
    """
    kept = {tuple(_keys(run).items()): run for run in runs if run.task == "translation"}
    subjects: dict[tuple[Model, Corpus, int], list[Run]] = {}
    for run in kept.values():
        subjects.setdefault((run.model, run.corpus, run.tokens), []).append(run)
    found = _over(_of_one_architecture, list(subjects.values()), workers, advance)
    names = [name for name in KEYS if name != "seed"]
    whole = [row for rows, _ in found for row in rows]
    parts = [part for _, tables in found for part in tables]
    empty = pd.DataFrame(columns=[*names, *PER_PARAMETER])
    return {
        "predictions": pd.DataFrame(whole, columns=[*names, *PER_CONFIGURATION]),
        "first_updates": pd.concat(parts, ignore_index=True)[list(empty.columns)] if parts else empty,
    }


Found: TypeAlias = tuple[list[dict[str, Any]], list[pd.DataFrame]]


def _over(
    work: Callable[[list[Run]], Found],
    groups: list[list[Run]],
    workers: int,
    advance: Callable[[int], None] | None,
) -> list[Found]:
    found = []
    if workers == 1 or len(groups) < 2:
        for group in groups:
            found.append(work(group))
            if advance is not None:
                advance(1)
        return found
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(max_workers=min(workers, len(groups)), env=ONE_THREAD) as executor:
        for result in executor.map(work, groups):
            found.append(result)
            if advance is not None:
                advance(1)
    return found


def _of_one_architecture(runs: list[Run]) -> Found:
    """Predict runs of one architecture, data and size of mini-batch: their gradients are the same."""
    first = runs[0]
    data = load(first.corpus)
    assert isinstance(data, Parallel)
    source = round(float(np.mean([len(pair.source) for pair in data.train])))
    target = round(float(np.mean([len(pair.target) + 1 for pair in data.train])))
    start = mf.first_update(
        first.model.architecture("translation", max(data.source.size, data.target.size)),
        tokens=target,
        source_tokens=source,
        batch=max(1, min(first.tokens, TOKENS) // target),
        learning_rate=first.schedule.lr_max,
        label_smoothing=first.label_smoothing,
        label_collision=_collision(data),
    )
    whole, parts = [], []
    for run in runs:
        update = start.at(
            optimizer=run.optimizer.name, learning_rate=run.schedule.lr_max, warmup=run.schedule.warmup
        )
        whole.append({
            **_keys(run),
            "predicted_critical_lr": mf.critical_learning_rate(update),
            "risk": update.output_change / LARGEST_CHANGE,
            "first_order_change": update.first_order_change,
            "output_change": update.output_change,
        })
        parts.append(update.df[list(PER_PARAMETER)].assign(**_keys(run)))
    return whole, parts


def _collision(data: Parallel) -> float:
    """The probability that two target tokens of the corpus are the same."""
    ids = np.concatenate([[*pair.target, data.target.EOS] for pair in data.train])
    shares = np.bincount(ids) / len(ids)
    return float((shares**2).sum())


def _keys(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.keys.items() if key != "seed"}
