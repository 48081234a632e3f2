"""`predict`: E||grad||^2 of a module's own parameters, without a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import nn

import meanfield as mf
from empirical.audit.batch import Batch, as_call, check_same_place, dropout, evaluation, run
from empirical.audit.readout import check_loss, target
from empirical.losses import READ_THE_HEAD
from empirical.readers import Reading, Slot
from meanfield.errors import InputError
from meanfield.ops import EncoderDecoder, ParameterKey

LABELS = ["parameter", "layer", "module", "role"]
"""Names of a row: the module's own name of the tensor; layer, op and kind in the architecture."""


@dataclass(frozen=True, eq=False)
class ModulePrediction(Mapping[str, float]):
    """Predicted E||dL/dtheta||^2 of every parameter of a module, by the module's own names.

    Attributes:
        reading: What was read in the module.
        prediction: The theory table of the architecture.
        unpredicted: Parameters for which there is no number -> why.
        notes: What is worth knowing about the module, one sentence each.
    """

    reading: Reading
    prediction: mf.Prediction
    unpredicted: dict[str, str]
    notes: tuple[str, ...]
    keys_of: dict[str, ParameterKey]

    @cached_property
    def df(self) -> pd.DataFrame:
        """One row per parameter, or part of a packed one, in order of depth.

            parameter  the module's own name, "h.0.attn.c_attn.weight[q]" for a part
            layer      in the architecture: 0 for the embedding, depth + 1 after the last
            module     what it is in the architecture, "attention.q"
            role       "weight" or "bias"

        and ``grad_sq``, ``grad_norm``, ``log10_grad_sq``; with samples the same ``grad_sq_limit``,
        ``grad_sq_se``, ``grad_sq_sd``, ``grad_sq_low`` and ``grad_sq_high`` as in `meanfield.predict`.
        """
        keys = list(ParameterKey._fields)
        table = self.prediction.df.drop(columns=list(self.prediction.configuration)).set_index(keys)
        wanted = pd.MultiIndex.from_tuples(list(self.keys_of.values()), names=keys)
        rows = table.loc[wanted].reset_index().rename(columns={"parameter": "role"})
        rows.insert(0, "parameter", list(self.keys_of))
        return rows

    def __getitem__(self, name: str) -> float:
        """Return E||dL/dtheta||^2 of a parameter."""
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @cached_property
    def _values(self) -> dict[str, float]:
        return dict(zip(self.df.parameter, self.df.grad_sq.map(float), strict=True))


def predict(
    module: nn.Module, batch: Batch, loss: str = "linear", *, samples: int = 64, label_smoothing: float = 0.0
) -> ModulePrediction:
    """Predict E||dL/dtheta||_F^2 of every parameter of a module at initialisation, without a backward pass.

    The architecture and the variances of the actual weights are read in the module; the mean is over draws of
    weights from these. The batch gives the ids, or the Gram matrix of the vectors, and which tokens are real.

    Args:
        module: Any module that `empirical.read` understands. It is left as it was; what is predicted is its
            evaluation mode, without dropout.
        batch: A tensor, a tuple of tensors, or a dict of tensors by the names of the forward pass's
            arguments.
        loss: ``"linear"``: (1/T) sum_i <r_i, y_i>, r_i ~ N(0, I/d), on the last hidden states of the T real
            tokens, below the head where there is one; ``"mse"``, on the same; ``"cross_entropy"``, on logits,
            with uniform random labels.
        samples: Random models of the real width that are drawn for means and bands, without their weights; 0
            for the limit of infinite width.
        label_smoothing: For cross entropy.

    Returns:
        Parameter name -> E||dL/dtheta||^2, and ``.df`` with the band of 95 % of single models.

    Raises:
        UnsupportedModuleError: If a part of the module is not understood.
        InputError: If module, batch or loss cannot be used, or do not fit one another, or weights are not
            independent: layers that are copies of each other, or share tensors.
        MissingRuleError: If the theory has no rule for a part of the architecture.
    """
    from empirical.readers import read_module

    call = as_call(batch)
    check_same_place(module, call)
    with evaluation(module):
        with torch.no_grad():
            run(module, call)  # the reader takes for granted that it can
        reading = read_module(module, batch)
    off = dropout(module)
    return predict_reading(reading, loss, samples, label_smoothing, notes=() if off is None else (off,))


def predict_reading(
    reading: Reading,
    loss: str = "linear",
    samples: int = 64,
    label_smoothing: float = 0.0,
    *,
    fixed: bool = True,
    notes: tuple[str, ...] = (),
    progress: Callable[[int], None] | None = None,
) -> ModulePrediction:
    """Predict the parameters of a module that has been read.

    Args:
        reading: The reading.
        loss: As for `predict`.
        samples: As for `predict`.
        label_smoothing: As for `predict`.
        fixed: Whether vectors that enter the first layer are the same in every draw of the weights.
        notes: What to say besides the notes of the reading.
        progress: Called with the number of samples drawn since the last call.

    Returns:
        The prediction.
    """
    check_independent(reading)
    check_loss(reading, loss)
    prediction = mf.predict(
        reading.arch,
        loss=loss,
        label_smoothing=label_smoothing,
        samples=samples,
        progress=progress,
        fixed=fixed and _given_vectors(reading),
        **_data(reading),
    )
    found = prediction.record.grad_sq
    keys_of: dict[str, ParameterKey] = {}
    unpredicted: dict[str, str] = {}
    for label, places in places_of(reading).items():
        keys = {key for slot in places if (key := _row(slot, found)) is not None}
        if len(keys) == 1 and all(_row(slot, found) or _head(slot) for slot in places):
            keys_of[label] = keys.pop()
        else:
            unpredicted[label] = _why(places, bool(keys), loss, target(reading).depth)
    return ModulePrediction(reading, prediction, unpredicted, (*reading.notes, *notes), keys_of)


def check_independent(reading: Reading) -> None:
    """Check that the theory holds for what was read.

    Args:
        reading: The reading.

    Raises:
        InputError: If it does not.
    """
    if reading.dependent:
        more = len(reading.dependent) - 1
        raise InputError(
            f"the theory does not hold: {reading.dependent[0]}" + (f" (and {more} more)" if more else "")
        )


def _given_vectors(reading: Reading) -> bool:
    """Whether the vectors that enter are the batch's own; those that weights make differ between draws."""
    vectors = any(stream.gram is not None for stream in reading.streams)
    return vectors and not any(stream.features for stream in reading.streams)


def places_of(reading: Reading) -> dict[str, list[Slot]]:
    """List where each tensor acts: a tied head is the table of an embedding, under one name or two.

    Args:
        reading: The reading.

    Returns:
        Label of the tensor, or of its part -> its slots, in order of depth; of several names the first.
    """
    first = {label: group[0] for group in reading.shared for label in group}
    places: dict[str, list[Slot]] = {}
    for slot in reading.slots:
        places.setdefault(first.get(slot.label, slot.label), []).append(slot)
    return places


def _data(reading: Reading) -> dict[str, Any]:
    """What the batch is, in the terms of `meanfield.predict`."""
    last = reading.streams[-1]
    data: dict[str, Any] = {"tokens": last.tokens, "batch": last.batch}
    names = ("ids", "gram", "padding", "features")
    if not isinstance(reading.arch, EncoderDecoder):
        return data | {name: getattr(last, name) for name in names}
    data["source_tokens"] = reading.streams[0].tokens
    return data | {name: tuple(getattr(stream, name) for stream in reading.streams) for name in names}


def _row(slot: Slot, found: Collection[ParameterKey]) -> ParameterKey | None:
    """The row of a tensor; a table that encoder and decoder share has one without prefix."""
    bare = slot.key._replace(module=_kind(slot))
    return slot.key if slot.key in found else bare if slot.key.layer == 0 and bare in found else None


def _kind(slot: Slot) -> str:
    return slot.key.module.rpartition(".")[2]


def _head(slot: Slot) -> bool:
    """A head: the gradient of one that is an embedding's table is counted there."""
    return _kind(slot) == "head"


def _why(places: list[Slot], known: bool, loss: str, depth: int) -> str:
    above = all(slot.key.layer > depth and not slot.key.module.startswith("encoder.") for slot in places)
    if not known and loss not in READ_THE_HEAD and above:
        return f"no gradient: loss={loss!r} is on the hidden states below the head"
    where = " and ".join(f"{slot.key.module} of layer {slot.key.layer}" for slot in places)
    if len(places) > 1:
        return f"one tensor is {where}: the theory takes weights that are used once"
    return f"the theory has no row for {where}"
