"""Where a module is measured: here, in one process; `empirical.audit.sharded` has the other place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.readers import Reading, Slot
from meanfield.errors import InputError

T = TypeVar("T")


class Site:
    """One process with the whole module.

    Args:
        device: Where to measure.
        dtype: In which type; that in which modules are built if None.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device, self.dtype = device, dtype

    def agree(self, work: Callable[[], T]) -> T:
        """Do something that may fail.

        Args:
            work: What to do.

        Returns:
            Its result.
        """
        return work()

    def read(self, module: nn.Module, read: Callable[[nn.Module], Reading]) -> Reading:
        """Read a module.

        Args:
            module: As it was built, in evaluation mode.
            read: Reads a module that is whole.

        Returns:
            The reading.
        """
        return read(module)

    def fingerprint(self, module: nn.Module, reading: Reading) -> NDArray[np.float64]:
        """Take one number for every slot, which no two draws have in common.

        Args:
            module: As it was built.
            reading: That of a module of its kind.

        Returns:
            The numbers; NaN where all entries are equal.
        """
        return np.array([
            float("nan")
            if bool((tensor == tensor.reshape(-1)[0]).all())
            else float(tensor.cpu().double().sum())
            for _, tensor in reading.tensors(module)
        ])

    def place(self, module: nn.Module) -> None:
        """Move a module to where it is measured.

        Args:
            module: As it was built.
        """
        module.to(self.device, self.dtype)

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        """Run the module that was placed last.

        Args:
            work: Runs it, and gives a tensor.

        Returns:
            The tensor.
        """
        return work()

    def gradients(self, module: nn.Module, loss: Tensor) -> dict[int, Tensor]:
        """Take the gradient of every parameter that a loss reaches.

        Args:
            module: The module.
            loss: The loss, a scalar, from `forward`.

        Returns:
            Identity of the parameter -> gradient, or this process's part of it.
        """
        tensors = [parameter for parameter in module.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        return {
            id(tensor): gradient.to_dense() if gradient.is_sparse else gradient
            for tensor, gradient in zip(tensors, gradients, strict=True)
            if gradient is not None
        }

    def squares(self, gradients: Mapping[str, tuple[Slot | None, Tensor]]) -> dict[str, float]:
        """Take square norms.

        Args:
            gradients: Label -> slot, or None for a tensor that no slot holds, and gradient of its tensor.

        Returns:
            Label -> ||dL/dtheta||^2.
        """
        return {label: _square(slot, gradient) for label, (slot, gradient) in gradients.items()}

    def name(self, module: nn.Module) -> str:
        """Name a module.

        Args:
            module: The module.

        Returns:
            The name of its class.
        """
        return type(module).__name__

    def check(self, module: nn.Module) -> None:
        """Check that a module can be measured here.

        Args:
            module: As it was built.

        Raises:
            InputError: If it is spread over processes.
        """
        check_unwrapped(module)
        for name, tensor in module.named_parameters():
            if is_sharded(tensor):
                raise InputError(
                    f"{name} is sharded over processes, and this one measures alone: initialise the process "
                    "group and leave shard=False out, or let build(seed) give the plain module"
                )


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is spread over processes.

    Args:
        tensor: The tensor.

    Returns:
        Whether it is a DTensor.

    Example:
        >>> is_sharded(torch.ones(2))
        False
    """
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def check_unwrapped(module: nn.Module) -> None:
    """Check that a module is no wrapper that spreads it over processes in another way.

    Args:
        module: The module.

    Raises:
        InputError: If it is one.
    """
    kinds = {kind.__name__ for part in module.modules() for kind in type(part).__mro__}
    if "DistributedDataParallel" in kinds:
        raise InputError(
            "build(seed) gives a DistributedDataParallel: give the module inside, its .module; the toolkit "
            "shards it"
        )
    if "FullyShardedDataParallel" in kinds:
        raise InputError(
            "build(seed) gives a FullyShardedDataParallel, of FSDP1, whose flat parameters have no shapes: "
            "shard with torch.distributed.fsdp.fully_shard, or give the plain module"
        )


def _square(slot: Slot | None, gradient: Tensor) -> float:
    # Picking single entries takes longer than the backward pass; a whole tensor needs no picking.
    whole = slot is None or slot.index.numel() == gradient.numel()
    picked = gradient if slot is None or whole else slot.take(gradient)
    exact = torch.float32 if gradient.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(picked, dtype=exact)) ** 2
