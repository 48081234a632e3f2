"""What theory says of each configuration before it is trained: the first update, and whether it is a risk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

import meanfield as mf
from empirical.corpus import Parallel
from empirical.ensemble import ONE_THREAD
from empirical.train.data import Corpus, load
from empirical.train.run import KEYS, Model, Run
from meanfield.first_update.risk import LARGEST_CHANGE

PER_CONFIGURATION = ("predicted_critical_lr", "risk", "first_order_change")
PER_PARAMETER = ("layer", "module", "parameter", "grad_norm", "weight_norm", "update_norm", "relative_update")


def predictions(
    runs: Sequence[Run], *, workers: int = 1, advance: Callable[[int], None] | None = None
) -> dict[str, pd.DataFrame]:
    """Predict the first update of every translation run from the gradient profile of its architecture.

    Sentences have the mean lengths of the corpus and the mini-batch of the run. Ids and targets are uniform over the
    vocabulary, where data have frequent words: the profile is that of the architecture at random targets. Language models are left out: the
    theory's loss is over all positions, theirs over few.

    Args:
        runs: Runs; those that differ in their seed alone are one configuration.
        workers: Processes, one an architecture.
        advance: Called with 1 for every architecture that is done.

    Returns:
        ``predictions``: one row per configuration with ``predicted_critical_lr`` (the largest lr_max, warm-up
        included, whose first step is no risk), ``risk`` (above 1: at risk) and ``first_order_change`` (of the
        loss, in nats); ``first_updates``: one row per configuration and parameter, as `meanfield.first_update`
        has them.
    """
    kept = {tuple(_keys(run).items()): run for run in runs if run.task == "translation"}
    subjects = list(dict.fromkeys((run.model, run.corpus, run.tokens) for run in kept.values()))
    found = dict(zip(subjects, _profiles(subjects, workers, advance), strict=True))
    whole: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    for run in kept.values():
        update = found[run.model, run.corpus, run.tokens].at(
            optimizer=run.optimizer.name, learning_rate=run.schedule.lr_max, warmup=run.schedule.warmup
        )
        change = update.first_order_change
        whole.append({
            **_keys(run),
            "predicted_critical_lr": mf.critical_learning_rate(update),
            "risk": change / LARGEST_CHANGE,
            "first_order_change": change,
        })
        parts.append(update.df[list(PER_PARAMETER)].assign(**_keys(run)))
    names = [name for name in KEYS if name != "seed"]
    empty = pd.DataFrame(columns=[*names, *PER_PARAMETER])
    return {
        "predictions": pd.DataFrame(whole, columns=[*names, *PER_CONFIGURATION]),
        "first_updates": pd.concat(parts, ignore_index=True)[list(empty.columns)] if parts else empty,
    }


def _profiles(
    subjects: list[tuple[Model, Corpus, int]], workers: int, advance: Callable[[int], None] | None
) -> list[mf.FirstUpdate]:
    report = advance if advance is not None else _silent
    found = []
    if workers == 1 or len(subjects) < 2:
        for subject in subjects:
            found.append(_profile(*subject))
            report(1)
        return found
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(max_workers=min(workers, len(subjects)), env=ONE_THREAD) as executor:
        for update in executor.map(_profile, *zip(*subjects, strict=True)):
            found.append(update)
            report(1)
    return found


def _profile(model: Model, which: Corpus, tokens: int) -> mf.FirstUpdate:
    data = load(which)
    assert isinstance(data, Parallel)
    source = round(float(np.mean([len(pair.source) for pair in data.train])))
    target = round(float(np.mean([len(pair.target) + 1 for pair in data.train])))
    vocab = max(data.source.size, data.target.size)
    arch = model.architecture("translation", vocab)
    return mf.first_update(
        arch, tokens=target, source_tokens=source, batch=max(1, tokens // target), learning_rate=1e-3
    )


def _keys(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.keys.items() if key != "seed"}


def _silent(done: int) -> None:
    pass
