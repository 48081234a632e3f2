"""A batch as the arguments of a module, and a module run on it: in evaluation mode, without chance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from meanfield.errors import InputError

Batch: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""One argument, several in order, or several by name."""


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of a forward pass.

    Args:
        args: Those in order.
        kwargs: Those by name.
    """

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """All arguments."""
        return [*self.args, *self.kwargs.values()]

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Call:
        """Move the arguments, and cast those of floating point.

        Args:
            device: Where to.
            dtype: The type of floating-point arguments; as they are if None.

        Returns:
            The moved arguments.
        """

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return Call(tuple(map(moved, self.args)), {name: moved(value) for name, value in self.kwargs.items()})


def as_call(batch: Batch) -> Call:
    """Turn a batch into the arguments of a forward pass.

    Args:
        batch: A tensor, several in order, or several by name.

    Returns:
        The arguments.

    Raises:
        InputError: If it is something else, or holds something else than tensors, or labels.

    Example:
        >>> call = as_call({"input_ids": torch.zeros(2, 3, dtype=torch.long)})
        >>> list(call.kwargs), call.args
        (['input_ids'], ())
    """
    if isinstance(batch, Tensor):
        call = Call((batch,), {})
    elif isinstance(batch, Mapping):
        call = Call((), dict(batch))
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        call = Call(tuple(batch), {})
    else:
        call = Call((), {})
    if not call.tensors:
        raise InputError(
            f"batch is {type(batch).__name__}: give a tensor, a tuple of tensors, or a dict of tensors by "
            "the names of the forward pass's arguments"
        )
    names = [*map(str, range(len(call.args))), *map(str, call.kwargs)]
    for name, value in zip(names, call.tensors, strict=True):
        if not isinstance(value, Tensor):
            raise InputError(f"batch[{name}] is {type(value).__name__}: give tensors alone")
        if value.is_meta:
            raise InputError(
                f"batch[{name}] is on the meta device, without values: give a tensor that holds some"
            )
    if "labels" in call.kwargs:
        raise InputError(
            "the batch has 'labels', and predictions are for uniform random ones: leave them out; "
            "loss='cross_entropy' draws its own"
        )
    return call


def described(call: Call) -> str:
    """Describe a batch so that different ones differ, in a few words.

    Args:
        call: The arguments.

    Returns:
        Sizes, and a checksum of names, types and values.

    Example:
        >>> zeros, ones = (described(as_call(fill(2, 3))) for fill in (torch.zeros, torch.ones))
        >>> zeros.partition(" ")[0], zeros == ones
        ('2x3', False)
    """
    known = hashlib.sha256(repr([*call.kwargs]).encode())
    for tensor in call.tensors:
        known.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        known.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    sizes = ", ".join("x".join(map(str, tensor.shape)) for tensor in call.tensors)
    return f"{sizes} #{known.hexdigest()[:6]}"


def place(module: nn.Module) -> torch.device:
    """Find the device of a module.

    Args:
        module: The module.

    Returns:
        The device of all its tensors.

    Raises:
        InputError: If it is no module, has no parameters, lies on several devices, or on none.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is no torch.nn.Module: give one")
    devices = {tensor.device for tensor in module.parameters()}
    if not devices:
        raise InputError(f"{type(module).__name__} has no parameters: give a model with weights")
    if any(device.type == "meta" for device in devices):
        raise InputError(
            "weights on the meta device have no values: build the module on a device that holds them, "
            "for example with torch.device('cpu')"
        )
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise InputError(f"the module lies on several devices ({names}): move it to one with .to(device)")
    return devices.pop()


def check_same_place(module: nn.Module, call: Call) -> None:
    """Check that a batch lies where the module does.

    Args:
        module: The module.
        call: The arguments.

    Raises:
        InputError: If it does not.
    """
    device = place(module)
    for tensor in call.tensors:
        if tensor.device != device:
            raise InputError(
                f"the batch is on {tensor.device} and the module on {device}: move one of them with .to()"
            )


def check_trainable(module: nn.Module) -> None:
    """Check that there is something whose gradient can be taken.

    Args:
        module: The module.

    Raises:
        InputError: If no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(
            "no parameter requires a gradient: give a module that is to be trained, or call "
            "module.requires_grad_(True)"
        )


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Hold a module in evaluation mode; every part has its own mode back afterwards.

    Args:
        module: The module.

    Yields:
        Nothing.

    Example:
        >>> layer = nn.Dropout(0.5)
        >>> with evaluation(layer):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's global generators at a seed; they go on where they were afterwards.

    Args:
        seed: The seed.
        device: Whose generator is seeded beside that of the CPU.

    Yields:
        Nothing.
    """
    own = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=own):
        torch.manual_seed(seed)
        yield


def run(module: nn.Module, call: Call) -> Any:
    """Run the forward pass.

    Args:
        module: The module.
        call: The arguments.

    Returns:
        What the module gives.

    Raises:
        InputError: If it fails; the message has the reason.
    """
    try:
        return module(*call.args, **call.kwargs)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{type(module).__name__} cannot run on this batch ({type(error).__name__}: {reason}): give the "
            "arguments that its forward pass takes"
        ) from error


def dropout(module: nn.Module) -> str | None:
    """Say what evaluation mode switches off.

    Args:
        module: The module.

    Returns:
        A sentence, or None if no dropout of its own has a rate above 0.

    Example:
        >>> dropout(nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.0)))
        'dropout in 1 place, of rate 0.1, is off: prediction and measurement are those of evaluation mode'
    """
    rates = [
        part.p for part in module.modules() if isinstance(part, nn.modules.dropout._DropoutNd) and part.p
    ]
    rates += [
        part.dropout for part in module.modules() if isinstance(part, nn.MultiheadAttention) and part.dropout
    ]
    if not rates:
        return None
    ends = sorted({min(rates), max(rates)})
    return (
        f"dropout in {len(rates)} place{'s' if len(rates) > 1 else ''}, of rate "
        f"{' to '.join(f'{rate:g}' for rate in ends)}, is off: prediction and measurement are those of "
        "evaluation mode"
    )
