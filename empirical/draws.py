"""Random numbers: every tensor has a stream of its own, keyed by a seed and the tensor's name.

So a draw depends neither on the order of seeds or parameters nor on the number of threads that draw. Numbers
are drawn on the host: all devices see the same weights, and bfloat16 sees the rounded float32 ones.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from meanfield.errors import InputError
from meanfield.ops import Draw, ParameterKey
from meanfield.random import Stream, fill_normal, fill_uniform, stream

THREADS = min(os.cpu_count() or 1, 8)
WORTH_A_THREAD = 2**13  # entries; handing over a smaller tensor takes longer than drawing it


class NamedParameter(NamedTuple):
    """A parameter tensor with its key columns and its law."""

    key: ParameterKey
    tensor: torch.Tensor
    law: Draw


def seed_number(seed: Any) -> int:
    """Check a seed.

    Args:
        seed: An integer of at least 0.

    Returns:
        The seed as an int.

    Raises:
        InputError: If it is no integer, or negative.

    Example:
        >>> seed_number(np.int64(7))
        7
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or operator.index(seed) < 0:
        raise InputError(f"seed={seed!r} is not an integer of at least 0: give distinct integers >= 0")
    return operator.index(seed)


def normal(generator: Stream, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Draw standard normals in the type and on the device of another tensor.

    Args:
        generator: The stream to read on from.
        shape: Shape of the draw.
        like: Gives dtype and device.

    Returns:
        The draw, of that shape.
    """
    values = np.empty(shape, _host_dtype(like))
    fill_normal([generator], values.reshape(1, -1))
    return torch.from_numpy(values).to(like)


def fill(seeds: Sequence[int], purpose: str, law: Draw, out: NDArray[Any]) -> None:
    """Fill one tensor for each seed with independent draws from a law.

    Args:
        seeds: The seeds of the runs.
        purpose: Name of the tensor; with the seed it names the stream.
        law: The law of an entry.
        out: What to fill, (seeds, ...), float32 or float64, contiguous.

    Example:
        >>> out = np.empty((1, 2))
        >>> fill([0], "bias", Draw(0, mean=3), out)
        >>> out.tolist()
        [[3.0, 3.0]]
    """
    if law.variance == 0:
        out.fill(float(law.mean))
        return
    deviation, rows = float(law.variance) ** 0.5, out.reshape(len(out), -1)
    with np.errstate(over="ignore"):  # whoever measures refuses infinities, and can say where they came from
        if law.law == "normal":
            fill_normal([stream(seed, purpose) for seed in seeds], rows, deviation)
        elif out.dtype == np.float32:
            fill_uniform(seeds, purpose, rows, deviation)
        else:
            for seed, row in zip(seeds, rows, strict=True):
                stream(seed, purpose).random(out=row)
            out -= 0.5
            out *= 12**0.5 * deviation
    if law.mean:
        out += out.dtype.type(law.mean)


def draw(parameters: Iterable[NamedParameter], seed: int) -> None:
    """Draw every parameter anew, in place.

    Args:
        parameters: The parameters with their laws.
        seed: The seed of the run.
    """
    large = []
    for parameter in parameters:
        if parameter.tensor.numel() < WORTH_A_THREAD:
            _draw_one(parameter, seed)
        else:
            large.append(parameter)
    with ThreadPoolExecutor(THREADS) as pool:  # the generators release the interpreter lock
        for _ in pool.map(lambda parameter: _draw_one(parameter, seed), large):
            pass


def _host_dtype(tensor: torch.Tensor) -> type[np.float32] | type[np.float64]:
    return np.float64 if tensor.dtype == torch.float64 else np.float32


def _draw_one(parameter: NamedParameter, seed: int) -> None:
    tensor, law = parameter.tensor.detach(), parameter.law
    if law.variance == 0:
        tensor.fill_(float(law.mean))
        return
    in_place = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)
    dtype = _host_dtype(tensor)
    values: NDArray[Any] = tensor.numpy() if in_place else np.empty(tuple(tensor.shape), dtype)
    fill([seed], "/".join(map(str, parameter.key)), law, values[None])
    if not in_place:
        tensor.copy_(torch.from_numpy(values))
