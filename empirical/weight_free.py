"""`weight_free`: the table that `empirical.ensemble` would measure, from the sampler that forms no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from empirical.backend import TorchBackend
from empirical.build import Architecture
from empirical.device import device_products
from empirical.host import fast
from empirical.measure import Measurement, tabulate
from empirical.probe import GRADIENTS, MOMENTS
from empirical.setting import Setting, seed_list
from meanfield.given import FeaturesPerStack, PerStack
from meanfield.weight_free import sample


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
        dtype: ``"float32"`` or ``"float64"``, or ``"tf32"``, single precision with products of 10 bits, on
            CUDA.
        progress: Called with the number of seeds finished since the last call; on a device, of those that are
            under way.

    Returns:
        The sample, with the columns of a measurement; ``.how`` says what products were computed by.

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
    backend = TorchBackend(dtype, setting.device)
    with device_products(dtype) if backend.remote else fast(dtype) as products:
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
            backend=backend,
            progress=progress,
        )
    squares = np.stack(list(found.values()), axis=1)  # (seeds, parameters)
    values = np.full((*squares.shape, len(GRADIENTS) + len(MOMENTS)), np.nan)
    values[..., : len(GRADIENTS)] = np.stack([squares, squares, np.sqrt(squares)], axis=-1)
    return Measurement(
        tabulate(setting.keys(arch), list(found), checked, values), f"without weights, {products}"
    )
