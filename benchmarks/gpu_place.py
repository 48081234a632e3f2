"""Where the parts of the GPU benchmark run: a device, or the host in its ways; clock and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import meanfield as mf
from empirical.backend import TorchBackend
from empirical.dense import Dense
from empirical.device import device_products, torch_device
from empirical.matrices import Matrices
from empirical.passes import Pass
from empirical.setting import Setting, conditions
from meanfield import ops
from meanfield.ops import Draw
from meanfield.weight_free import sample
from meanfield.weight_free.backend import Array


class Chooser(TorchBackend):
    """A backend that remembers how many seeds it has chosen to run at once.

    Args:
        dtype: As for `TorchBackend`.
        device: On the host it goes the ways of a device.
        same: Whether numbers of double precision are those of single precision, so that both see one model.
    """

    def __init__(self, dtype: str, device: str, *, same: bool = False) -> None:
        super().__init__(dtype, device)
        self.chosen, self.same = 0, same
        if self.device.type == "cpu":
            self.go_remote()
            self.ahead = self.worth_a_call = 2**14

    def together(self, largest: int, kept: int) -> int:
        """Choose how many seeds run at once."""
        self.chosen = super().together(largest, kept) if self.device.type != "cpu" else 8
        return self.chosen

    def _draw(self, generator: torch.Generator, law: Draw, out: Array) -> None:
        if not self.same or out.dtype == torch.float32:
            super()._draw(generator, law, out)
            return
        single = torch.empty_like(out, dtype=torch.float32)
        super()._draw(generator, law, single)
        out.copy_(single)


@dataclass(frozen=True, slots=True)
class Place:
    """A device and the sizes that suit it.

    Args:
        device: ``"cuda"``, or ``"cpu"`` in its ways.
        smoke: Whether everything is a toy, to see that it runs.
    """

    device: str
    smoke: bool

    @property
    def precisions(self) -> tuple[str, ...]:
        """Single precision, and TF32 where there is one."""
        return ("float32", "tf32") if self.cuda else ("float32",)

    @property
    def cuda(self) -> bool:
        """Whether this is a CUDA device."""
        return torch_device(self.device).type == "cuda"

    def ready(self) -> None:
        """Wait for all that is under way."""
        if self.cuda:
            torch.cuda.synchronize()

    def peak(self) -> float | None:
        """Find the most memory that arrays have taken since `forget`, in GB; None on the host."""
        return round(torch.cuda.max_memory_allocated() / 1e9, 3) if self.cuda else None

    def forget(self) -> None:
        """Give free memory back, and start to count anew."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Time work, from a device that is idle to one that is idle again."""
        self.ready()
        start = time.perf_counter()
        work()
        self.ready()
        return time.perf_counter() - start


def encoder(width: int, depth: int, **options: Any) -> mf.Transformer:
    """Describe a Pre-LN encoder as torch initialises it, heads 64 wide, d_ff = 4 d.

    Args:
        width: d.
        depth: Layers.
        options: Further ones.

    Returns:
        The architecture.
    """
    how: dict[str, Any] = {"activation": "gelu", "init": "torch", "final_norm": False, **options}
    return mf.pre_ln(width=width, depth=depth, heads=max(1, width // 64), **how)


def dense(
    arch: mf.Transformer,
    place: Place,
    dtype: str,
    *,
    same: bool = False,
    run: type[Dense] = Dense,
    **how: Any,
) -> Pass:
    """Prepare passes with real weights.

    Args:
        arch: The architecture.
        place: Where.
        dtype: In which precision.
        same: As for `Chooser`.
        run: The kind of pass.
        how: Fields of the setting.

    Returns:
        What measures seeds; the caller asks for the products of the precision.
    """
    device = torch_device(place.device).type
    setting = Setting(**how, device=device, dtype=dtype)
    passes = Pass(arch, setting, conditions(arch, setting), run)
    passes.backend = Chooser(dtype, device, same=same)
    passes.matrices = Matrices(passes.backend)
    if not place.cuda:
        passes.at_once = 8
    return passes


def dense_values(
    arch: mf.Transformer, place: Place, dtype: str, seeds: range, **how: Any
) -> NDArray[np.float64]:
    """Measure with real weights, the same ones in every precision.

    Args:
        arch: The architecture.
        place: Where.
        dtype: In which precision.
        seeds: The seeds.
        how: Fields of the setting.

    Returns:
        Squared norms (seeds, parameters).
    """
    with device_products(dtype):
        return dense(arch, place, dtype, same=True, **how)(list(seeds)).values


def sampled_values(
    arch: mf.Transformer, place: Place, dtype: str, seeds: range, **how: Any
) -> tuple[NDArray[np.float64], int]:
    """Sample without weights.

    Args:
        arch: The architecture.
        place: Where.
        dtype: In which precision.
        seeds: The seeds.
        how: As for `meanfield.weight_free.sample`.

    Returns:
        Squared norms (seeds, parameters), and how many seeds ran at once.
    """
    backend = Chooser(dtype, torch_device(place.device).type)
    with device_products(dtype):
        found = sample(arch, seeds=seeds, backend=backend, **how)
    return np.stack(list(found.values()), axis=1), min(backend.chosen, len(seeds))


def products_of(arch: mf.Transformer, tokens: int, *, forward: int = 1) -> float:
    """Count the floating-point operations of the linear maps of one seed with real weights.

        sum over maps of 2 (f + 1) T d_in d_out + min(2 T d_in d_out, 2 T^2 (d_in + d_out))

    Forward f times, back, and the norm of the weight's gradient by the cheaper way; attention weights, norms
    and random numbers are not counted.

    Args:
        arch: The architecture.
        tokens: T.
        forward: f; a stream goes forward twice.

    Returns:
        The count.

    Example:
        >>> products_of(encoder(64, 1), 1)  # 12 d^2 weights, and 18 d ends of maps
        198912.0
    """
    total = 0.0
    for run in arch.layers:
        for op in ops.walk(run.block):
            if isinstance(op, ops.Linear):
                one = 2.0 * tokens * op.d_in * op.d_out
                total += run.times * ((forward + 1) * one + min(one, 2.0 * tokens**2 * (op.d_in + op.d_out)))
    return total
