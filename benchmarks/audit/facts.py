"""What a family's modules are like: that they run forward and backward, and which tensors stand out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.audit.family import Model, output
from meanfield.errors import InputError


@dataclass(frozen=True)
class Facts:
    """What two builds of a module, one of which ran forward and backward, show.

    Args:
        shape: Shape of the output.
        tensors: Number of parameter tensors, a shared one counted once.
        parameters: Number of their entries.
        unused: Tensors without a gradient.
        constant: Tensors that are equal in both builds.
    """

    shape: tuple[int, ...]
    tensors: int
    parameters: int
    unused: tuple[str, ...]
    constant: tuple[str, ...]


def facts(model: Model) -> Facts:
    """Build a module from two seeds, run one forward and backward, and compare their tensors.

    Args:
        model: The kind of module.

    Returns:
        What was found.

    Raises:
        InputError: If the forward pass draws random numbers, or nothing depends on the seed.
    """
    module, other = model.build(0), model.build(1)
    state = torch.get_rng_state()
    result = output(module(**model.batch()))
    if not torch.equal(state, torch.get_rng_state()):
        raise InputError("the forward pass draws random numbers: build it without dropout or noise")
    torch.autograd.backward(result, torch.randn_like(result))
    named, again = dict(module.named_parameters()), dict(other.named_parameters())
    constant = tuple(name for name, tensor in named.items() if torch.equal(tensor, again[name]))
    if len(constant) == len(named):
        raise InputError("two seeds give equal weights: draw from torch's global generator")
    return Facts(
        tuple(result.shape),
        len(named),
        sum(tensor.numel() for tensor in named.values()),
        tuple(name for name, tensor in named.items() if tensor.grad is None),
        constant,
    )
