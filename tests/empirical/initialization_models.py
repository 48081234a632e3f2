"""Models to check: of this project, whose laws and keys are known, and of torch, read by the reader."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import empirical
from empirical.build import Architecture
from empirical.initialization import InitializationCheck, check_initialization
from empirical.names import Model, named_parameters
from empirical.readers.reading import Reading, whole
from meanfield.initialization import Initialization

WIDTH, HEADS = 64, 4


def own_reading(arch: Architecture, model: Model) -> Reading:
    """Pair the parameters of a built model with their keys; matrices are stored (d_in, d_out)."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    return Reading(
        arch,
        tuple(
            whole(names[id(parameter.tensor)], parameter.key, tuple(parameter.tensor.shape))
            for parameter in named_parameters(model)
        ),
        (),
    )


def check_own(
    arch: Architecture,
    scheme: str | Initialization | None,
    *,
    seed: int = 0,
    factors: dict[str, float] | None = None,
) -> InitializationCheck:
    """Check a built model, variances of some modules' weights multiplied by factors first."""
    model = empirical.build(arch, seed=seed)
    with torch.no_grad():
        for parameter in named_parameters(model):
            if parameter.key.parameter == "weight":
                module = parameter.key.module.rpartition("coder.")[2]  # in both stacks of a pair
                parameter.tensor.mul_((factors or {}).get(module, 1.0) ** 0.5)
    return check_initialization(model, scheme, reading=own_reading(arch, model))


def encoder(depth: int = 4, *, pre: bool = True, seed: int = 0, **options: Any) -> Any:
    """A torch encoder whose layers are drawn one by one; Any, for its layers are reached by name."""
    torch.manual_seed(seed)

    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, norm_first=pre, batch_first=True, **options
        )

    norm = nn.LayerNorm(WIDTH) if pre else None
    first: Any = layer()
    module = nn.TransformerEncoder(first, 1, norm=norm, enable_nested_tensor=False)
    module.layers = nn.ModuleList([first, *(layer() for _ in range(depth - 1))])
    module.num_layers = depth
    return module


def found(check: InitializationCheck) -> dict[str, tuple[str, ...]]:
    """Names by kind of finding; kinds that are found twice have all names."""
    kinds: dict[str, tuple[str, ...]] = {}
    for finding in check.findings:
        kinds[finding.kind] = kinds.get(finding.kind, ()) + finding.names
    return kinds


def message(check: InitializationCheck, kind: str) -> str:
    """The messages of one kind of finding or note, in one text."""
    return "\n".join(said.message for said in (*check.findings, *check.notes) if said.kind == kind)
