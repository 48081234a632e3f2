"""Norms of hidden states token by token, and the Jacobian of a real norm."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from empirical.build import Architecture, build, build_op
from empirical.device import torch_device, torch_dtype
from empirical.draws import draw, normal
from empirical.inputs import Inputs
from empirical.names import dropouts, named_parameters, open_streams
from empirical.probe import one_thread, recorded
from empirical.setting import KEYS, Setting, seed_list
from meanfield import ops
from meanfield.errors import InputError
from meanfield.random import stream


def token_norms(
    arch: Architecture,
    *,
    tokens: int = 16,
    batch: int = 1,
    seeds: Iterable[int] = range(64),
    device: str = "cpu",
    dtype: str = "float32",
) -> pd.DataFrame:
    """Measure the square norm of every token at every point of a model, forward only.

        q_hat = ||x_i||^2 / d

    Weights and inputs are those that `empirical.ensemble` draws for the same seed.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence.
        batch: Sequences.
        seeds: Distinct integers of at least 0.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.

    Returns:
        Key columns (``loss`` is ``"none"``), seed, token (counted through the batch), q_hat.

    Example:
        >>> import meanfield as mf
        >>> table = token_norms(mf.paper_pre_ln(width=8, depth=1), tokens=2, seeds=[0])
        >>> list(table["module"].unique())[:3]
        ['input', 'norm1', 'attention']
    """
    setting = Setting(tokens=tokens, batch=batch, device=device, dtype=dtype)
    seeds = seed_list(seeds)
    model = build(arch, seed=seeds[0], device=setting.device, dtype=dtype)
    parameters = named_parameters(model)
    keys: list[ops.ParameterKey] = []
    values = []
    with recorded(model) as outputs, one_thread(), torch.no_grad():
        for seed in seeds:
            draw(parameters, seed)
            open_streams(dropouts(model), seed)
            outputs.clear()
            model.hidden(*Inputs(arch, seed, parameters[0].tensor).draw(setting.batch, setting.tokens))
            keys = keys or list(outputs)
            squares = [x.flatten(2).flatten(0, 1).float().square().mean(1) for x in outputs.values()]
            values.append(torch.stack(squares).cpu().numpy())  # (points, batch * tokens)
    per_point = setting.batch * setting.tokens
    rows = [key for key in keys for _ in range(per_point)]
    table = pd.DataFrame(rows * len(seeds), columns=list(ops.ParameterKey._fields))
    for column, value in {**setting.keys(arch), "loss": "none"}.items():
        table[column] = value
    table = table[KEYS]
    return table.assign(
        seed=np.repeat(seeds, len(rows)),
        token=np.tile(np.arange(per_point), len(keys) * len(seeds)),
        q_hat=np.stack(values).astype(np.float64).ravel(),
    )


def norm_jacobian(
    norm_op: ops.Norm,
    *,
    radii: Iterable[float],
    mean_share: float | None = None,
    seeds: Iterable[int] = range(8),
    device: str = "cpu",
    dtype: str = "float64",
) -> pd.DataFrame:
    """Measure the spectral norm of a norm's Jacobian by automatic differentiation.

        J_pq = dN(x)_q / dx_p at x = radius * u,  ||u|| = 1, one u per seed

    Args:
        norm_op: The norm.
        radii: Values of ||x||, greater than 0.
        mean_share: Share of ||x||^2 that the mean of the coordinates carries, in [0, 1), the rest being
            uniform among vectors of mean 0; None draws u uniformly from the whole sphere.
        seeds: Distinct integers of at least 0.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"`` or ``"float64"``.

    Returns:
        seed, radius = ||x||, centred_norm = ||x - mean(x)||, spectral_norm.

    Raises:
        InputError: If a radius is not greater than 0, the share is outside [0, 1) or the width leaves no room
            beside the mean, or the type is too coarse for a singular value.

    Source:
        xiong2020, Lemma 3.

    Example:
        >>> table = norm_jacobian(ops.Norm("norm1", 8, eps=0.0), radii=[2.0], seeds=[0])
        >>> bool(abs(table.spectral_norm[0] - 8**0.5 / table.centred_norm[0]) < 1e-12)
        True

        With 3/4 of ||x||^2 = 4 in the mean, y = x - mean(x) has norm 1: the spectral norm is sqrt(d).

        >>> table = norm_jacobian(ops.Norm("norm1", 9, eps=0.0), radii=[2.0], mean_share=0.75, seeds=[0])
        >>> [round(float(value), 12) for value in table.loc[0, ["centred_norm", "spectral_norm"]]]
        [1.0, 3.0]
    """
    radii = [float(radius) for radius in radii]
    for radius in radii:
        if not 0 < radius < float("inf"):
            raise InputError(f"radius={radius} is not a length: give finite numbers greater than 0")
    if mean_share is not None and not 0 <= mean_share < 1:
        raise InputError(f"mean_share={mean_share} is no share: give a number of at least 0 and below 1")
    if mean_share is not None and norm_op.width < 2:
        raise InputError(
            f"mean_share={mean_share} needs width 2 or more: width 1 has nothing beside its mean"
        )
    if dtype == "bfloat16":
        raise InputError("dtype='bfloat16' has no singular values in torch: use 'float32' or 'float64'")
    where = torch_device(device)
    norm = build_op(norm_op).to(where, torch_dtype(dtype, where)).requires_grad_(False)
    rows = []
    for seed in seed_list(seeds):
        direction = normal(stream(seed, "direction"), (norm_op.width,), next(norm.parameters()))
        if mean_share is not None:
            direction -= direction.mean()
        direction /= direction.norm()
        if mean_share is not None:
            direction = (1 - mean_share) ** 0.5 * direction + (mean_share / norm_op.width) ** 0.5
        for radius in radii:
            x = radius * direction
            jacobian = torch.func.jacrev(norm)(x)  # (width, width)
            spectral = torch.linalg.matrix_norm(jacobian, ord=2)
            rows.append((seed, radius, float((x - x.mean()).norm()), float(spectral)))
    return pd.DataFrame(rows, columns=["seed", "radius", "centred_norm", "spectral_norm"])
