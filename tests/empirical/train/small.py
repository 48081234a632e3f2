"""The smallest runs that still do everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from empirical.train import Generated, Model, Optimizer, PlainText, Run, Schedule, options

CORPUS = Generated(train=60, valid=10, test=4, nouns=6, verbs=4, adjectives=4)
MODEL = Model(placement="pre_ln", width=16, depth=1, options=options(heads=2, d_ff=16, positions=32))
TRANSLATION = Run(
    task="translation",
    corpus=CORPUS,
    model=MODEL,
    optimizer=Optimizer(name="adam"),
    schedule=Schedule(kind="inverse_sqrt", lr_max=1e-2, warmup=2, hold=4),
    steps=12,
    tokens=60,
    label_smoothing=0.1,
    evaluations=3,
    translations=1,
    profile=(0, 12),
    minibatches=2,
)
TEXT = replace(
    TRANSLATION,
    task="masked",
    corpus=PlainText(path=str(Path(__file__).parents[3] / "LICENSE"), vocabulary=300),
    label_smoothing=0.0,
    length=16,
    tokens=64,
    translations=0,
)


def with_model(run: Run, **values: Any) -> Run:
    """The run with other options of its preset, or another placement."""
    sizes = {key: values.pop(key) for key in ("placement", "width", "depth") if key in values}
    more = options(**{**dict(run.model.options), **values})
    return replace(run, model=replace(run.model, options=more, **sizes))
