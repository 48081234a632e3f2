"""Square gradient norms of the parameters of fresh modules, seed by seed, and what was read in those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.audit.batch import (
    Batch,
    Call,
    as_call,
    check_trainable,
    dropout,
    evaluation,
    place,
    run,
    seeded,
)
from empirical.audit.pool import given_vectors, pooled, readings_needed
from empirical.audit.predict import check_independent, places_of
from empirical.audit.readout import check_loss, check_repeatable, loss_of, rows
from empirical.audit.sites import Site
from empirical.readers import Reading, Slot
from meanfield.errors import InputError

Build = Callable[[int], nn.Module]
"""Gives a fresh module for a seed."""
Reader = Callable[[nn.Module, Batch], Reading]


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Args:
        seeds: Distinct seeds, at least two.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``.
        label_smoothing: For cross entropy.
        device: Where.
        dtype: In which type; that in which modules are built if None.
    """

    seeds: tuple[int, ...]
    loss: str
    label_smoothing: float
    device: torch.device
    dtype: torch.dtype | None


@dataclass(frozen=True, eq=False)
class Measured:
    """What fresh modules showed.

    Args:
        reading: Their readings, pooled.
        fixed_input: Whether the vectors that enter the first layer are those of the batch in every module.
        values: ||dL/dtheta||^2 by slot label, one number per seed; slots without gradient are left out.
        notes: What was found beside the numbers, one sentence each.
        dtype: The type in which was measured.
        name: The modules' type.
    """

    reading: Reading
    fixed_input: bool
    values: dict[str, NDArray[np.float64]]
    notes: tuple[str, ...]
    dtype: torch.dtype
    name: str


def measure(
    build: Build,
    batch: Batch,
    plan: Plan,
    read: Reader,
    progress: Callable[[int], None] | None = None,
    site: Site | None = None,
) -> Measured:
    """Measure the gradients of fresh modules.

    Args:
        build: Gives a fresh module for a seed. Torch's global generators start at the seed when it is called.
        batch: What the modules are run on.
        plan: How to measure.
        read: Reads a module on a batch.
        progress: Called with the number of seeds finished since the last call.
        site: Where: this process if None.

    Returns:
        The measurement.

    Raises:
        InputError: If modules, batch and loss do not fit, or a number is not finite.
    """
    site = site or Site(plan.device, plan.dtype)
    call, loop = as_call(batch), _Loop(site)
    moved = call.to(plan.device, plan.dtype)
    for seed in plan.seeds:
        module = site.agree(partial(loop.take, seed, build))
        with evaluation(module):
            if not loop.readings or len(loop.readings) < readings_needed(loop.readings[0]):
                loop.readings.append(site.read(module, partial(loop.read, batch=batch, call=call, read=read)))
            reading = loop.readings[0]
            loop.fingerprints.append(site.fingerprint(module, reading))
            site.place(module)
            if seed == plan.seeds[0]:
                check_independent(reading)
                check_loss(reading, plan.loss)
                output = partial(rows, module, moved, reading, plan.loss)
                check_repeatable(partial(site.forward, output), plan.device, site.name(module))
                loop.notes += [note for note in (dropout(module),) if note]
            loop.found.append(_squares(module, moved, reading, plan, seed, site))
        if progress is not None:
            progress(1)
    return loop.measured(plan)


@dataclass
class _Loop:
    """What is carried from seed to seed."""

    site: Site
    readings: list[Reading] = field(default_factory=list)
    fingerprints: list[NDArray[np.float64]] = field(default_factory=list)
    found: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    module: nn.Module | None = None
    shapes: dict[str, torch.Size] = field(default_factory=dict)

    def read(self, module: nn.Module, batch: Batch, call: Call, read: Reader) -> Reading:
        """Read a module: the first one as a whole, of others the laws of their weights."""
        again = self.readings[0].again if self.readings else None
        if again is not None:
            return again(module)
        with torch.no_grad():
            run(module, call.to(place(module)))  # the reader takes for granted that it can
        return read(module, batch)

    def take(self, seed: int, build: Build) -> nn.Module:
        """Build the next module and hold it against the one before."""
        try:
            with seeded(seed, self.site.device):
                module = build(seed)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"build({seed}) fails ({type(error).__name__}: {reason}): give a function from a seed to a "
                "module"
            ) from error
        place(module)
        check_trainable(module)
        self.site.check(module)
        if self.module is not None and (
            module is self.module or next(module.parameters()) is next(self.module.parameters())
        ):
            raise InputError(
                "build(seed) gives the same module again: let it build a new one, with new weights, each time"
            )
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        if self.shapes and shapes != self.shapes:
            odd = min(set(shapes.items()) ^ set(self.shapes.items()))[0]
            raise InputError(
                f"build({seed}) has other parameters than the module before (the first is {odd}): let the "
                "seed choose the weights alone"
            )
        self.module, self.shapes = module, shapes
        return module

    def measured(self, plan: Plan) -> Measured:
        """Put everything together."""
        assert self.module is not None
        _check_weights(self.readings[0], np.array(self.fingerprints), plan.seeds)
        for found, seed in zip(self.found, plan.seeds, strict=True):
            odd = set(found) ^ set(self.found[0])
            if odd:
                raise InputError(
                    f"{min(odd)} has a gradient for some seeds and not for seed {seed}: give a module whose "
                    "forward pass does not depend on the weights' values"
                )
        values = {label: np.array([found[label] for found in self.found]) for label in self.found[0]}
        reading = pooled(self.readings)
        silent = _without_gradient(reading, self.module, set(values))
        if silent:
            self.notes.append(f"without gradient under this loss, hence not compared: {', '.join(silent)}")
        return Measured(
            reading,
            given_vectors(self.readings),
            values,
            tuple(self.notes),
            next(self.module.parameters()).dtype,
            self.site.name(self.module),
        )


def _squares(
    module: nn.Module, call: Call, reading: Reading, plan: Plan, seed: int, site: Site
) -> dict[str, float]:
    """||dL/dtheta||^2 of one module, by slot label; a tensor that no slot holds has its name as label."""

    def compute() -> Tensor:
        return loss_of(rows(module, call, reading, plan.loss), plan.loss, seed, plan.label_smoothing)

    with torch.enable_grad():
        loss = site.forward(compute)
    if not torch.isfinite(loss):
        raise InputError(
            f"the loss is {loss.item()} for seed {seed}: give weights and a batch whose outputs are finite, "
            "or dtype='float32'"
        )
    if not loss.requires_grad:
        raise InputError(
            "the loss does not depend on any parameter that requires a gradient: give a module whose forward "
            "pass keeps the graph, without torch.no_grad() or .detach()"
        )
    by_tensor = site.gradients(module, loss)
    named = dict(module.named_parameters(remove_duplicate=False))
    labelled: dict[str, tuple[Slot | None, Tensor]] = {}
    known = set()
    for label, (slot, *_) in places_of(reading).items():
        gradient = by_tensor.get(id(named.get(slot.name)))
        if gradient is not None:
            labelled[label] = slot, gradient
            known.add(id(named[slot.name]))
    for name, tensor in named.items():
        if id(tensor) in by_tensor and id(tensor) not in known:
            known.add(id(tensor))
            labelled[name] = None, by_tensor[id(tensor)]
    found = site.squares(labelled)
    for label, value in found.items():
        if not np.isfinite(value):
            raise InputError(
                f"the gradient of {label} is {value} for seed {seed}: look for weights that are not finite, "
                "or use a type of larger range"
            )
    return found


def _check_weights(reading: Reading, fingerprints: NDArray[np.float64], seeds: tuple[int, ...]) -> None:
    """Refuse two seeds with the same weights; fingerprints are (seeds, slots)."""
    drawn = ~np.isnan(fingerprints).any(axis=0)
    rows = [tuple(row) for row in fingerprints[:, drawn]]
    first: dict[tuple[float, ...], int] = {}
    for seed, row in zip(seeds, rows, strict=True):
        if first.setdefault(row, seed) != seed:
            raise InputError(
                f"build({first[row]}) and build({seed}) have the same weights: draw them from the seed, or "
                "from torch's global generator"
            )


def _without_gradient(reading: Reading, module: nn.Module, labels: set[str]) -> list[str]:
    """Names of parameters that the loss did not reach, or that require none; without those read as unused."""
    named = dict(module.named_parameters(remove_duplicate=False))
    names = {slot.label: slot.name for slot in reading.slots}
    reached = {id(named[names.get(label, label)]) for label in labels}
    said = " ".join(reading.notes)
    silent = [name for name, tensor in module.named_parameters() if id(tensor) not in reached]
    return [name for name in silent if name not in said]
