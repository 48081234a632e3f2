"""Measure ||dL/dtheta||_F^2 of every parameter of a model, seed by seed, into one file of ``measured/``.

    loss = (1/T) sum_i <r_i, y_i>,  r_i ~ N(0, I/d)

Weights, r and, for models of vectors, inputs are new for each seed; token ids are always the same. All seeds
go to ``results/accuracy``; a run that was interrupted goes on from there.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import track

from benchmarks.accuracy.models import BATCH, MODELS, TOKENS, WIDTHS, Subject
from benchmarks.accuracy.store import MEASURED, condense, load, save, save_measured
from meanfield.cli import Parser, run
from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.ops import ParameterKey

SAVE_EVERY = 25


def sample(subject: Subject, seed: int) -> dict[ParameterKey, float]:
    """Return the squared gradient norm of every parameter of one fresh model."""
    torch.manual_seed(seed)
    model = subject.build(seed).eval()
    y = subject.run(model).flatten(0, 1)  # (batch * tokens, width)
    r = torch.randn_like(y) / y.shape[1] ** 0.5
    ((r * y).sum() / y.shape[0]).backward()
    return {
        key: float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2
        for key, gradient in subject.gradients(model)
    }


def measure(name: str, width: int, seeds: int, raw: Path, out: Path = MEASURED) -> Path:
    """Measure the missing ones of the seeds 0 ... seeds - 1 of a model, and return the condensed file."""
    subject = MODELS[name](width)
    setting = {
        "model": name,
        "width": width,
        "tokens": TOKENS,
        "batch": BATCH,
        "loss": "linear",
        "ids": subject.ids,
        "config": subject.config,
        "dtype": "float32",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    file = f"{name}_{width}.npz"
    keys: list[ParameterKey] = []
    rows: list[np.ndarray] = []
    if (raw / file).exists():
        before, keys, arrays = load(raw / file)
        if before != json.loads(json.dumps(setting)):  # keys of a configuration become text on disk
            raise InputError(f"{raw / file} was measured in another setting: remove it to measure anew")
        rows = list(arrays["values"])
    console = Console(stderr=True)
    for seed in track(range(len(rows), seeds), f"{name}, width {width}", console=console):
        found = sample(subject, seed)
        keys = list(found)
        rows.append(np.array(list(found.values()), dtype=np.float32))
        if len(rows) % SAVE_EVERY == 0 or len(rows) == seeds:
            save(raw / file, setting, keys, values=np.stack(rows))
    save_measured(out / file, condense(setting, keys, np.stack(rows)))
    return out / file


def main() -> int:
    """Run the command line."""
    parser = Parser(prog="python -m benchmarks.accuracy.measure", description=__doc__)
    parser.add_argument("model", help=", ".join(MODELS))
    parser.add_argument("width", type=int, help=" or ".join(map(str, WIDTHS)))
    parser.add_argument("seeds", type=int, help="measure the seeds 0 ... SEEDS - 1, at least two")
    parser.add_argument("--raw", type=Path, default=Path("results/accuracy"), help="folder of all seeds")
    parser.add_argument("--out", type=Path, default=MEASURED, help="folder of the condensed file")
    options = parser.parse_args()
    if options.model not in MODELS:
        raise UnknownNameError("model", options.model, MODELS)
    if options.width not in WIDTHS:
        raise UnknownNameError("width", str(options.width), map(str, WIDTHS))
    if positive_integer("seeds", options.seeds) < 2:
        raise InputError("seeds=1 gives no standard error: measure at least 2")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.ERROR)
    print(measure(options.model, options.width, options.seeds, options.raw, options.out))
    return 0


if __name__ == "__main__":
    run("python -m benchmarks.accuracy.measure", main)
