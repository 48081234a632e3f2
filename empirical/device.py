"""Where and in which precision a measurement runs."""

from __future__ import annotations

import torch

from meanfield.errors import InputError, UnknownNameError

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def torch_device(device: str) -> torch.device:
    """Find a device by name; ``"auto"`` is the fastest one that is present.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Returns:
        The device.

    Raises:
        UnknownNameError: If the name is none of these.
        InputError: If this machine has no such device.

    Example:
        >>> torch_device("cpu")
        device(type='cpu')
    """
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, there in present.items() if there]
    if device == "auto":
        return torch.device(available[0])
    if device not in available:
        raise InputError(
            f"device={device!r} is not present: available are {', '.join(available)}; use 'auto' or 'cpu'"
        )
    return torch.device(device)


def torch_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Find a floating-point type by name.

    Args:
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.
        device: The device that has to support it.

    Returns:
        The type.

    Raises:
        UnknownNameError: If the name is none of these.
        InputError: If the device has no such type.

    Example:
        >>> torch_dtype("bfloat16", torch.device("cpu"))
        torch.bfloat16
    """
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    if dtype == "float64" and device.type == "mps":
        raise InputError("dtype='float64' does not exist on device 'mps': use 'float32', or device 'cpu'")
    return DTYPES[dtype]
