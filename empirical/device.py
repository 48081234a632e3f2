"""Where and in which precision a measurement runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meanfield.errors import InputError, UnknownNameError

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
TF32 = "tf32"
"""Single precision whose matrix products read 10 bits of each number, on CUDA."""


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
        InputError: If the device has no such type, or it is no type but a way to multiply, ``"tf32"``.

    Example:
        >>> torch_dtype("bfloat16", torch.device("cpu"))
        torch.bfloat16
    """
    if dtype == TF32:
        raise InputError(
            "dtype='tf32' is a way to multiply, of empirical.ensemble, stream and weight_free alone: "
            "give 'float32'"
        )
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    if dtype == "float64" and device.type == "mps":
        raise InputError("dtype='float64' does not exist on device 'mps': use 'float32', or device 'cpu'")
    return DTYPES[dtype]


def stored(dtype: str, device: torch.device) -> str:
    """Name the type in which numbers are kept: that of TF32's is single precision.

    Args:
        dtype: A type, or ``"tf32"``.
        device: The device that has to support it.

    Returns:
        The type's name.

    Raises:
        UnknownNameError: If the name is none of these.
        InputError: If the device has no such type.

    Example:
        >>> stored("float64", torch.device("cpu")), stored("tf32", torch.device("cuda"))
        ('float64', 'float32')
    """
    if dtype != TF32:
        torch_dtype(dtype, device)
        return dtype
    if device.type != "cuda":
        raise InputError(
            f"dtype='tf32' does not exist on device {device.type!r}: give 'float32', or device='cuda'"
        )
    return "float32"


@contextmanager
def device_products(dtype: str) -> Iterator[str]:
    """Let CUDA multiply single precision as it is, or in TF32 where that is asked for.

    Args:
        dtype: ``"tf32"``, or the type of the matrices.

    Yields:
        What is done, in words; torch's own setting, which may be another, comes back afterwards.

    Example:
        >>> with device_products("tf32") as how:
        ...     how, torch.get_float32_matmul_precision()
        ('products in TF32', 'high')
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == TF32 else "highest")
    try:
        yield "products in TF32" if dtype == TF32 else f"products in {dtype}"
    finally:
        torch.set_float32_matmul_precision(before)
