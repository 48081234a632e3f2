"""Predict and measure one variant of one family: what an engineer's call of `empirical.audit` gives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
import transformers

from benchmarks.audit.families import families, untuned
from benchmarks.audit.family import LOSSES, Family, Sizes
from benchmarks.audit.store import NUMBERS, TEXT, Trial, nothing
from empirical.audit import audit
from meanfield.errors import InputError, MissingRuleError

TOLERANCE = {"linear": 0.03, "cross_entropy": 0.05}  # loss: largest relative error asked for


def attempt(
    family: Family,
    variant: str,
    sizes: Sizes,
    *,
    seeds: int,
    samples: int,
    progress: Callable[[int], None] | None = None,
) -> Trial:
    """Audit a variant of a family.

    Args:
        family: The family.
        variant: Which of its modules.
        sizes: Those at which the family was made.
        seeds: Fresh modules to measure.
        samples: Random models to draw for the prediction.
        progress: Called with the number of seeds and samples finished since the last call.

    Returns:
        The table of tensors, or the reason of a refusal.
    """
    model, loss = family.variants[variant], LOSSES[variant]
    setting: dict[str, Any] = {
        "library": f"{family.library} {version(family.library)}",
        "torch": version("torch"),
        "sizes": asdict(sizes),
        "loss": loss,
        "seeds": seeds,
        "samples": samples,
        "tolerance": TOLERANCE[loss],
    }
    start = time.perf_counter()
    try:
        found = audit(
            model.build,
            model.batch(),
            range(seeds),
            loss,
            samples=samples,
            tolerance=TOLERANCE[loss],
            progress=progress,
        )
    except (InputError, MissingRuleError) as error:
        return Trial(family.name, variant, setting, str(error), (), nothing())
    setting["seconds"] = round(time.perf_counter() - start, 1)
    return Trial(family.name, variant, setting, None, found.notes, found.df[[*TEXT, *NUMBERS]])


def attempt_by_name(name: str, variant: str, sizes: Sizes, *, seeds: int, samples: int) -> Trial:
    """Audit a variant of the family of a name, in a process of its own."""
    quiet()
    family = (families(sizes) | untuned(sizes))[name]
    return attempt(family, variant, sizes, seeds=seeds, samples=samples)


def quiet() -> None:
    """Hold this process to one thread, and transformers to errors."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.ERROR)
