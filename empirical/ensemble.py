"""`ensemble`: gradients of every parameter over many seeds, as fast as this machine can.

The pass is that of `empirical.dense`: real weights, several seeds at once where they are small, and no
gradient of a weight where Gram matrices give its norm for less.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import uuid
from collections.abc import Callable, Iterable

import numpy as np

from empirical.build import Architecture
from empirical.host import fast
from empirical.measure import Measurement, measure, tabulate
from empirical.passes import Pass, Squares
from empirical.probe import GRADIENTS, MOMENTS
from empirical.setting import Conditions, Setting, conditions, seed_list
from meanfield.checks import check_architecture
from meanfield.errors import InputError, positive_integer
from meanfield.given import PerStack

WORTH_WORKERS = 20.0  # seconds of work; a process needs some to start
STAY = 120  # seconds that workers wait for the next call
PARTS = 4  # for each worker: at the end others wait for one part at most


def ensemble(
    arch: Architecture,
    *,
    tokens: int = 16,
    batch: int = 1,
    source_tokens: int | None = None,
    seeds: Iterable[int] = range(64),
    loss: str = "linear",
    minibatches: int = 1,
    label_smoothing: float = 0.0,
    ids: PerStack | None = None,
    gram: PerStack | None = None,
    padding: PerStack | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure ||dL/dtheta||_F^2 of every parameter on real models, over seeds.

        grad_sq_hat = ||X^T G||_F^2 = <X X^T, G G^T>   for a linear map of tokens X with gradients G

    The models are those of `empirical.measure`, which differentiates them by torch and records their hidden
    states as well. Numbers agree to rounding, on the host seed by seed; a device draws its own weights from
    the same law. Where an activation has a kink, rounding may take a unit to its other side.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences in a mini-batch.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        seeds: Distinct integers of at least 0.
        loss: ``"linear"`` or ``"mse"``, on hidden states, or ``"cross_entropy"``, which needs a head; see
            `empirical.losses`.
        minibatches: Mini-batches per seed; several are left to `empirical.measure`.
        label_smoothing: For cross entropy.
        ids: Ids in place of random ones; for this one and the next two see `empirical.measure`.
        gram: Covariance of the input vectors.
        padding: Which tokens are real.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"`` or ``"float64"``; ``"tf32"``, single precision with products of 10 bits, on CUDA;
            or ``"bfloat16"``, which is left to `empirical.measure`.
        workers: Processes that share the seeds. If None, as many as there are processors where that is worth
            it. Numbers do not depend on it.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        The measurement, without hidden states; ``.how`` says what was chosen.

    Raises:
        InputError: If the setting cannot be measured, one seed needs more memory than there is, a worker is
            killed, or a gradient is not finite.

    Source:
        definition.

    Example:
        The shift of the last norm sees the probe alone, ||r||^2 for one token, which is 1 in the mean.

        >>> import meanfield as mf
        >>> found = ensemble(mf.paper_post_ln(width=64, depth=2), tokens=1, seeds=range(64))
        >>> round(float(found.df.query("module == 'norm2' and parameter == 'bias'").grad_sq_hat.iloc[-1]), 1)
        1.0
        >>> found.how.split(",")[0]
        '32 seeds at once'
    """
    setting = Setting(tokens, batch, loss, minibatches, label_smoothing, device, dtype, source_tokens)
    checked, arch = seed_list(seeds), check_architecture(arch)
    workers = None if workers is None else positive_integer("workers", workers)
    fixed = conditions(arch, setting, ids=ids, gram=gram, padding=padding)
    report = progress if progress is not None else _silent
    if minibatches > 1 or dtype == "bfloat16":
        settings = dataclasses.asdict(setting)
        return measure(arch, seeds=checked, ids=ids, gram=gram, padding=padding, progress=report, **settings)
    with fast(setting.dtype, setting.device) as products:
        run = Pass(arch, setting, fixed)
        chunks = [checked[k : k + run.at_once] for k in range(0, len(checked), run.at_once)]
        if not run.backend.looks and workers in (None, 1):
            chunks = [checked]  # a device is waited for once
        found, rest = [], chunks
        if workers is None:  # the second pass tells how long the others take; the first one is slower
            found = [run(chunk, report) for chunk in chunks[:1]]
            start = time.perf_counter()
            found += [run(chunk, report) for chunk in chunks[1:2]]
            rest = chunks[2:]
            seconds = (time.perf_counter() - start) * len(rest)
            workers = _processors() if setting.device == "cpu" and seconds > WORTH_WORKERS else 1
        workers = min(workers, len(rest) or 1)
        if workers == 1:
            found += [run(chunk, report) for chunk in rest]
    if workers > 1:
        found += _shared(arch, setting, fixed, rest, workers, report)
    how = f"{run.at_once} seeds at once, {workers} process{'es' * (workers > 1)}, {products}"
    return measurement(arch, setting, checked, found, how)


def measurement(
    arch: Architecture, setting: Setting, seeds: list[int], found: list[Squares], how: str
) -> Measurement:
    """Lay squared norms out as a measurement.

    Args:
        arch: The architecture.
        setting: What was measured.
        seeds: The seeds.
        found: Their squared norms, block by block.
        how: How they were measured, in words.

    Returns:
        The measurement, without hidden states.
    """
    values = np.concatenate([part.values for part in found])  # (seeds, parameters)
    rows = np.full((*values.shape, len(GRADIENTS) + len(MOMENTS)), np.nan)
    rows[..., : len(GRADIENTS)] = np.stack([values, values, np.sqrt(values)], axis=-1)
    return Measurement(tabulate(setting.keys(arch), found[0].keys, seeds, rows), how)


def _silent(seeds: int) -> None:
    pass


def _shared(
    arch: Architecture,
    setting: Setting,
    fixed: Conditions,
    chunks: list[list[int]],
    workers: int,
    report: Callable[[int], None],
) -> list[Squares]:
    """Run chunks of seeds on processes that stay for the next call."""
    from loky import get_reusable_executor
    from loky.process_executor import BrokenProcessPool

    share = -(-len(chunks) // (PARTS * workers))
    parts = [chunks[k : k + share] for k in range(0, len(chunks), share)]
    executor = get_reusable_executor(max_workers=workers, timeout=STAY, env=ONE_THREAD)
    work = functools.partial(_some, uuid.uuid4().hex, arch, setting, fixed)
    found = []
    try:
        for part, squares in zip(parts, executor.map(work, parts), strict=True):
            found += squares
            report(sum(map(len, part)))
    except BrokenProcessPool as error:
        raise InputError(
            f"one of workers={workers} was killed, probably for want of memory: give fewer, or workers=1"
        ) from error
    return found


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_passes: dict[str, Pass] = {}  # of the call that a worker is at


def _some(
    call: str, arch: Architecture, setting: Setting, fixed: Conditions, chunks: list[list[int]]
) -> list[Squares]:
    """Run chunks in a worker, in the memory of those before."""
    with fast(setting.dtype, setting.device):
        if call not in _passes:
            _passes.clear()
            _passes[call] = Pass(arch, setting, fixed)
        return [_passes[call](chunk) for chunk in chunks]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
