"""`weight_free`: the table that `empirical.ensemble` would measure, from the sampler that forms no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from numpy.typing import NDArray

from empirical.build import Architecture
from empirical.device import torch_device, torch_dtype
from empirical.measure import Measurement, tabulate
from empirical.probe import GRADIENTS, MOMENTS
from empirical.setting import Setting, seed_list
from meanfield.given import FeaturesPerStack, PerStack
from meanfield.weight_free import Backend, sample
from meanfield.weight_free.backend import Array, generator


class TorchBackend(Backend):
    """Torch arrays on a device, with random numbers drawn there.

    Args:
        dtype: ``"float32"`` or ``"float64"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    xp = array_api_compat.torch

    def __init__(self, dtype: str, device: str) -> None:
        super().__init__(dtype)
        self.device = torch_device(device)
        self.dtype = torch_dtype(dtype, self.device)
        if self.device.type != "cpu":
            self.entries = 2**24  # a device wants many seeds at once

    def streams(self, seeds: Sequence[int]) -> list[Any]:
        """Open one stream on the device for each seed."""
        keys = [int(generator(seed, self.device.type).integers(2**63)) for seed in seeds]
        return [torch.Generator(self.device).manual_seed(key) for key in keys]

    def normal(self, streams: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw standard normals of shape (seeds, *shape)."""
        out = torch.empty((len(streams), *shape), dtype=self.dtype, device=self.device)
        for stream, part in zip(streams, out, strict=True):
            part.normal_(generator=stream)
        return out

    def uniform(self, streams: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1) of shape (seeds, *shape)."""
        out = torch.empty((len(streams), *shape), dtype=self.dtype, device=self.device)
        for stream, part in zip(streams, out, strict=True):
            part.uniform_(generator=stream)
        return out

    def asarray(self, values: NDArray[Any]) -> Array:
        """Bring host values to the device; floating-point values take the backend's type."""
        tensor = torch.from_numpy(np.array(values))
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def host(self, values: Array) -> NDArray[np.float64]:
        """Bring values to the host in double precision."""
        return np.asarray(values.cpu().numpy(), dtype=np.float64)

    def erf(self, x: Array) -> Array:
        """Compute the error function."""
        return torch.erf(x)

    def cholesky(self, gram: Array) -> Array:
        """Factorise each matrix of a stack; NaN where one is not positive definite."""
        lower, fault = torch.linalg.cholesky_ex(gram)
        return torch.where(fault[:, None, None] == 0, lower, torch.nan)


def weight_free(
    arch: Architecture,
    *,
    tokens: int = 16,
    batch: int = 1,
    source_tokens: int | None = None,
    seeds: Iterable[int] = range(64),
    loss: str = "linear",
    label_smoothing: float = 0.0,
    ids: PerStack | None = None,
    gram: PerStack | None = None,
    padding: PerStack | None = None,
    features: FeaturesPerStack | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Sample ||dL/dtheta||_F^2 in the law that `empirical.ensemble` measures, without ever forming a weight.

    Seeds are not those of the ensemble: the two agree in law, not number by number. Hidden states are not
    recorded, and weights of another law than the normal one count as normal with the same variance.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        seeds: Distinct integers of at least 0.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``; see `empirical.losses`.
        label_smoothing: For cross entropy.
        ids: Ids in place of random ones, (batch, tokens).
        gram: Second moments of the input vectors, (T, T), T = batch * tokens.
        padding: Which tokens are real, (batch, tokens) of bool.
        features: Inner products of what makes the vectors, by the names of the parameters; for this one and
            the three before see `meanfield.predict`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"`` or ``"float64"``.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        The sample, with the columns of a measurement.

    Raises:
        InputError: If the setting cannot be sampled, or a gradient is not finite.
        MissingRuleError: If the sampler has no rule for a part of the architecture.

    Source:
        `meanfield.weight_free.sample`.

    Example:
        >>> import meanfield as mf
        >>> table = weight_free(mf.paper_post_ln(width=32, depth=2), tokens=4, seeds=range(8)).df
        >>> table.module.unique()[-1], bool((table.grad_sq_hat_se > 0).all())
        ('norm2', True)
    """
    setting = Setting(tokens, batch, loss, 1, label_smoothing, device, dtype, source_tokens)
    checked = seed_list(seeds)
    found = sample(
        arch,
        tokens=tokens,
        batch=batch,
        source_tokens=source_tokens,
        seeds=checked,
        loss=loss,
        label_smoothing=label_smoothing,
        ids=ids,
        gram=gram,
        padding=padding,
        features=features,
        backend=TorchBackend(dtype, setting.device),
        progress=progress,
    )
    squares = np.stack(list(found.values()), axis=1)  # (seeds, parameters)
    values = np.full((*squares.shape, len(GRADIENTS) + len(MOMENTS)), np.nan)
    values[..., : len(GRADIENTS)] = np.stack([squares, squares, np.sqrt(squares)], axis=-1)
    return Measurement(tabulate(setting.keys(arch), list(found), checked, values))
