"""A reading of a model that this project built: every tensor of it has its key."""

from __future__ import annotations

from empirical.build import Architecture
from empirical.names import Model, named_parameters
from empirical.readers.reading import Reading, Slot, whole


def own_reading(arch: Architecture, model: Model) -> Reading:
    """Pair the parameters of a built model with their keys; matrices are stored (d_in, d_out)."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    slots: list[Slot] = [
        whole(names[id(parameter.tensor)], parameter.key, tuple(parameter.tensor.shape))
        for parameter in named_parameters(model)
    ]
    return Reading(arch, tuple(slots), ())
