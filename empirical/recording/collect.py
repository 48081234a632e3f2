"""From what passed the points during a step to its records: one transfer to the host."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from empirical.frobenius import norm_by_rows
from empirical.recording.moments import Totals, fetch
from empirical.recording.probes import Probe
from empirical.recording.records import GRADIENT, MOMENTS, Record


def collect(module: nn.Module, probes: Sequence[Probe], step: int, gradients: bool) -> list[Record]:
    """Fetch everything at once and lay it out.

    Args:
        module: The recorded module.
        probes: Its points, after the passes of the step.
        step: Number of the step.
        gradients: Whether the gradients of parameters belong to it.

    Returns:
        Points in training mode, points in evaluation mode, then parameters. A point that nothing passed has
        no record; a parameter that has no gradient has one without a value.
    """
    modes = [(training, probe) for training in (True, False) for probe in probes]
    points = [(training, probe, *probe.both(training)) for training, probe in modes if probe.has(training)]
    norms = _norms(module) if gradients else {}
    numbers = [n for *_, forward, backward in points for n in (*forward.numbers(), *backward.numbers())]
    values = iter(fetch([*numbers, *(norm for norm in norms.values() if norm is not None)]))
    records = []
    for training, probe, forward, _ in points:
        q, cov = (x and x / forward.width for x in Totals.moments(*islice(values, 4)))
        measured = dict(zip(MOMENTS, [q, cov, *Totals.moments(*islice(values, 4))], strict=True))
        records.append(Record(step, probe.point.path, "activation", training, measured))
    for name, norm in norms.items():
        path, _, parameter = name.rpartition(".")
        root = None if norm is None else next(values)
        square = dict.fromkeys(GRADIENT, root and root * root)
        records.append(Record(step, path, parameter, module.training, square))
    return records


def _norms(module: nn.Module) -> dict[str, Tensor | None]:
    """Take the norm of every trained parameter's gradient, on the device; None where there is no gradient."""
    found: dict[str, Tensor | None] = {}
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            rows = gradient.coalesce().values() if gradient.is_sparse else gradient
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            norm: Any = norm_by_rows(rows.detach(), dtype)
            found[name] = (
                norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            )  # of a sharded parameter
        elif parameter.requires_grad:
            found[name] = None
    return found
