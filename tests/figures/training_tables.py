"""Tables as `empirical.train` writes them, of made-up training runs whose course is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from figures.outcomes import CELL

START, FLOOR = 8.0, 1.0
STEPS, EVERY = 2000, 100
RATES, WARMUPS = (0.001, 0.004), (1, 100, 400)


class Course(NamedTuple):
    """How a run goes: the loss it comes to, the steps in which the gap falls to 1/e, whether it diverges."""

    final: float = FLOOR
    time: float = 300.0
    diverges: bool = False


def paper(key: Mapping[str, Any]) -> Course:
    """Go as the paper says: only Post-LN without warm-up fails; RAdam and Pre-LN as it claims."""
    slow = key["warmup"] / 4
    if key["schedule"] == "constant":
        return Course(1.6, 600.0)
    if key["placement"] == "pre_ln":
        return Course(FLOOR, 200.0 + slow)
    if key["optimizer"] == "radam":
        return Course(3.0, 400.0)
    if key["warmup"] == 1:
        return Course(5.5, 300.0, diverges=key["optimizer"] == "sgd" and key["seed"] == 2)
    return Course(FLOOR + 0.05 * (key["warmup"] == 100), 300.0 + slow)


def grid(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Run keys of everything that the experiments train."""
    for placement in ("post_ln", "pre_ln"):
        base: dict[str, Any] = {"task": "translation", "placement": placement, "schedule": "inverse_sqrt"}
        base |= {"width": 64, "depth": 6}
        cells = [
            *(base | {"optimizer": "adam", "lr_max": lr, "warmup": w} for lr in RATES for w in WARMUPS),
            *(base | {"optimizer": "radam", "lr_max": lr, "warmup": 1} for lr in RATES),
            *(base | {"optimizer": "sgd", "lr_max": 0.5, "warmup": w} for w in (1, 400)),
            *(
                base | {"optimizer": "adam", "lr_max": lr, "warmup": 1}
                for lr in (0.00025, 0.0005, 0.002, 0.008)
            ),
            *(
                base | {"optimizer": "adam", "lr_max": 0.004, "warmup": 1, "depth": depth}
                for depth in (2, 4, 12)
            ),
            *(
                base
                | {"task": "masked", "schedule": "linear", "optimizer": "adam", "lr_max": 0.001, "warmup": w}
                for w in (1, 200)
            ),
        ]
        if placement == "post_ln":
            cells.append(base | {"schedule": "constant", "optimizer": "adam", "lr_max": 0.0002, "warmup": 1})
        for cell in cells:
            for seed in range(seeds):
                yield cell | {"seed": seed}


def trained(
    course: Callable[[Mapping[str, Any]], Course] = paper,
    seeds: int = 3,
    noise: float = 0.02,
    unigram: float = START,
) -> dict[str, pd.DataFrame]:
    """Tables of all runs of `grid`, each going as ``course`` says, with noise by seed; no gradients.

    Where tokens are equally frequent (``unigram`` as it is) what is learnt is what is gained.
    """
    rng = np.random.default_rng(0)
    curves, runs = [], []
    for key in grid(seeds):
        how, start = course(key), START + noise * rng.standard_normal()
        final = how.final + noise * rng.standard_normal()
        step = np.arange(0, STEPS + 1, EVERY)
        loss = final + (start - final) * np.exp(-step / how.time)
        if how.diverges:
            step, loss = step[:8], loss[:8]
        translated = key["task"] == "translation"
        bleu = (
            100 * np.clip((START - loss) / (START - FLOOR), 0, 1) ** 3
            if translated
            else np.full(len(step), np.nan)
        )
        curves.append(
            pd.DataFrame(key | {"step": step, "train_loss": loss, "valid_loss": loss, "bleu": bleu})
        )
        last = {"status": "diverged", "valid_loss": np.nan, "bleu": np.nan} if how.diverges else {}
        whole = {"status": "finished", "valid_loss": loss[-1], "bleu": bleu[-1], "steps": int(step[-1])}
        runs.append(key | whole | {"unigram_loss": unigram, "seconds": 60.0, "tokens": 1000} | last)
    return {
        "curves": pd.concat(curves, ignore_index=True),
        "runs": pd.DataFrame(runs),
    }


def gradients(seeds: int = 3, noise: float = 0.02) -> pd.DataFrame:
    """Gradients of the same runs, with growth by layer for Post-LN before training."""
    rng = np.random.default_rng(1)
    return pd.DataFrame([row for key in grid(seeds) for row in _gradients(key, rng, noise)])


def _gradients(key: Mapping[str, Any], rng: np.random.Generator, noise: float) -> Iterator[dict[str, Any]]:
    for step in sorted({0, key["warmup"], STEPS}):
        for stack in ("encoder", "decoder"):
            for module in ("up", "down"):
                for layer in range(1, key["depth"] + 1):
                    post = key["placement"] == "post_ln" and step == 0
                    norm = (1.4 if post else 0.95) ** layer * np.exp(5 * noise * rng.standard_normal())
                    yield {
                        **key,
                        "step": step,
                        "layer": layer,
                        "module": f"{stack}.ffn.{module}",
                        "parameter": "weight",
                        "mean_of_norms": 1.3 * norm,
                        "norm_of_mean": norm,
                        "minibatches": 8,
                    }


def predictions(tables: Mapping[str, pd.DataFrame], risk: Callable[[Any], float]) -> pd.DataFrame:
    """A risk for every configuration."""
    table = tables["runs"][CELL].drop_duplicates(ignore_index=True)
    return table.assign(predicted_critical_lr=0.001, risk=[risk(row) for row in table.to_dict("records")])
