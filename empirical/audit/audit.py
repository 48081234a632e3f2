"""`audit`: predicted against measured gradients of any module, over fresh initialisations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from empirical.audit.batch import Batch, as_call, described
from empirical.audit.measure import Build, Measured, Plan, Reader, measure
from empirical.audit.predict import LABELS, ModulePrediction, places_of, predict_reading
from empirical.audit.statistics import DISAGREES, UNPREDICTED, Score, compare, score, worst
from empirical.device import torch_device, torch_dtype
from empirical.losses import LOSSES
from empirical.ranks import Ranks, joined
from empirical.setting import seed_list
from meanfield.errors import InputError, UnknownNameError
from meanfield.ops import ParameterKey

TOLERANCE = 0.03
COLUMNS = [
    *LABELS,
    *("grad_sq", "grad_sq_se", "grad_sq_sd", "grad_sq_low", "grad_sq_high", "grad_sq_limit"),
    *("grad_sq_hat", "grad_sq_hat_se", "grad_sq_hat_sd"),
    *("ratio", "ratio_low", "ratio_high", "inside", "flag"),
]


@dataclass(frozen=True, eq=False)
class Audit:
    """Predicted and measured gradients of one kind of module.

    Attributes:
        df: One row per parameter, or part of a packed one, in order of depth: ``parameter`` (the module's own
            name), ``layer``, ``module`` and ``role`` (what it is in the architecture); predicted ``grad_sq``
            with ``_se, _sd, _low, _high, _limit``; measured ``grad_sq_hat`` with ``_se, _sd``; ``ratio``
            (measured / predicted) with ``ratio_low, ratio_high`` (95 %); ``inside``, the share of seeds in
            the band that should hold 95 % of them; ``flag``, a key of `empirical.audit.statistics.FLAGS`.
        values: Measured square gradient norms, (seeds, rows).
        prediction: What the prediction was made from, reading and limit included.
        configuration: What was compared: module, architecture, batch, loss, seeds, samples, tolerance.
        notes: What was found beside the numbers, one sentence each.
    """

    df: pd.DataFrame
    values: NDArray[np.float64]
    prediction: ModulePrediction
    configuration: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether no tensor differs from its prediction beyond both the tolerance and chance."""
        return not (self.df.flag == DISAGREES).any()

    @cached_property
    def score(self) -> Score:
        """How well the two agree over all tensors."""
        return score(self.df)

    @property
    def worst(self) -> pd.DataFrame:
        """The rows that call for a look, the furthest off first."""
        return worst(self.df)


def audit(
    build: Build,
    batch: Batch,
    seeds: Iterable[int] = range(32),
    loss: str = "linear",
    device: str = "cpu",
    *,
    dtype: str | None = None,
    samples: int = 256,
    tolerance: float = TOLERANCE,
    label_smoothing: float = 0.0,
    progress: Callable[[int], None] | None = None,
    shard: bool | None = None,
) -> Audit:
    """Compare predicted with measured E||dL/dtheta||_F^2 of every parameter of a module.

    A fresh module is built, run forward and back for every seed, with targets of the seed's own. The
    prediction reads architecture, variances and the batch's Gram matrix in the same modules, and sees no
    gradient.

    Args:
        build: ``build(seed)`` gives a fresh module with weights of its own. Torch's global generators start
            at the seed when it is called. The module is measured in evaluation mode, on ``device``.
        batch: A tensor, a tuple of tensors, or a dict of tensors by the names of the forward pass's
            arguments: the same for all seeds.
        seeds: Distinct integers of at least 0; two or more.
        loss: ``"linear"`` or ``"mse"``, on the last hidden states, below the head where there is one; or
            ``"cross_entropy"``, on logits. Targets are random, and new for each seed.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``; as built if None.
        samples: Random models that are drawn for the prediction, without their weights.
        tolerance: Largest relative difference that counts as agreement.
        label_smoothing: For cross entropy.
        progress: Called with the number of seeds and samples finished since the last call.
        shard: Whether all processes of torch's default process group measure one model together, each with
            its share of every tensor; True where there is such a group, if None. Every process makes the same
            call, and gets the same result.

    Returns:
        The comparison.

    Raises:
        UnsupportedModuleError: If a part of the module is not understood.
        InputError: If module, batch, loss or an argument cannot be used, a number is not finite, or weights
            are not independent: layers that are copies of each other, or share tensors.
        MissingRuleError: If the theory has no rule for a part of the architecture.
    """
    from empirical.readers import read_module

    return audited(
        build,
        batch,
        read_module,
        seeds=seeds,
        loss=loss,
        device=device,
        dtype=dtype,
        samples=samples,
        tolerance=tolerance,
        label_smoothing=label_smoothing,
        progress=progress,
        shard=shard,
    )


def audited(
    build: Build,
    batch: Batch,
    read: Reader,
    *,
    seeds: Iterable[int] = range(32),
    loss: str = "linear",
    device: str = "cpu",
    dtype: str | None = None,
    samples: int = 256,
    tolerance: float = TOLERANCE,
    label_smoothing: float = 0.0,
    progress: Callable[[int], None] | None = None,
    shard: bool | None = None,
) -> Audit:
    """Audit with a reader of one's own; arguments, result and errors are those of `audit`.

    Args:
        build: As for `audit`.
        batch: As for `audit`.
        read: Reads a module on a batch.
        seeds: As for `audit`.
        loss: As for `audit`.
        device: As for `audit`.
        dtype: As for `audit`.
        samples: As for `audit`.
        tolerance: As for `audit`.
        label_smoothing: As for `audit`.
        progress: As for `audit`.
        shard: As for `audit`.

    Returns:
        The comparison.

    Raises:
        InputError: As for `audit`.
        UnknownNameError: If the loss has another name.
    """

    def plan(ranks: Ranks | None) -> Plan:
        numbers, where = seed_list(seeds), torch_device(device)
        if len(numbers) < 2:
            raise InputError(f"seeds={numbers} gives no standard error: give at least 2, such as range(32)")
        if loss not in LOSSES:
            raise UnknownNameError("loss", loss, LOSSES)
        if not isinstance(samples, int) or samples < 2:
            raise InputError(f"samples={samples!r} gives no error bars: give at least 2, such as 256")
        if not 0 < tolerance < 1:
            raise InputError(f"tolerance={tolerance} is no share between 0 and 1: give one such as 0.03")
        kind = None if dtype is None else torch_dtype(dtype, where)
        own = where if ranks is None else ranks.device(where)
        return Plan(tuple(numbers), loss, label_smoothing, own, kind)

    with joined(shard) as ranks:
        planned, site = plan(None) if ranks is None else ranks.agree(lambda: plan(ranks)), None
        if ranks is not None:
            from empirical.audit.sharded import Sharded

            asked = {"samples": samples, "tolerance": tolerance, "dtype": dtype}
            asked |= {name: getattr(planned, name) for name in ("seeds", "loss", "label_smoothing")}
            batches = ranks.agree(lambda: described(as_call(batch)))
            ranks.check_same({"device": planned.device.type, **asked, "batch": batches})
            site = Sharded(planned.device, planned.dtype, ranks)
        measured = measure(build, batch, planned, read, progress, site)
    prediction = predict_reading(
        measured.reading,
        loss,
        samples,
        label_smoothing,
        fixed=measured.fixed_input,
        progress=progress,
    )
    return _joined(prediction, measured, planned, samples, tolerance)


def _joined(
    prediction: ModulePrediction, measured: Measured, plan: Plan, samples: int, tolerance: float
) -> Audit:
    """Put predictions beside measurements, one row per measured tensor."""
    predicted = prediction.df
    keys = {label: places[0].key for label, places in places_of(measured.reading).items()}
    keys |= prediction.keys_of
    labels = list(measured.values)
    silent = [label for label in prediction.keys_of if label not in measured.values]
    unknown = ParameterKey(-1, "", "")
    named = pd.DataFrame([(label, *keys.get(label, unknown)) for label in labels], columns=LABELS)
    table = named.merge(predicted.drop(columns=LABELS[1:]), on="parameter", how="left", validate="one_to_one")
    values = np.stack([measured.values[label] for label in labels], axis=1)
    compared = compare(table, values, tolerance, torch.finfo(measured.dtype).eps)
    notes = [*prediction.notes, *measured.notes]
    if silent:
        notes.append(f"predicted, and without gradient in the module: {', '.join(silent)}")
    for label in compared.parameter[compared.flag == UNPREDICTED]:
        why = prediction.unpredicted.get(label, "the reader has not found where it acts")
        notes.append(f"{label} is measured and not predicted: {why}")
    return Audit(
        compared[COLUMNS],
        values,
        prediction,
        {
            "module": measured.name,
            **prediction.prediction.configuration,
            "seeds": len(plan.seeds),
            "samples": samples,
            "tolerance": tolerance,
            "device": str(plan.device),
            "dtype": str(measured.dtype).removeprefix("torch."),
        },
        tuple(notes),
    )
