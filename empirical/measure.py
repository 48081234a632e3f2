"""Gradients of every parameter and hidden states at every point of a block, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from empirical.build import Architecture, build
from empirical.device import device_products
from empirical.layers import Head
from empirical.losses import READ_THE_HEAD
from empirical.probe import GRADIENTS, MOMENTS, Probe, Values, one_thread, recorded
from empirical.setting import KEYS, Setting, conditions, seed_list
from meanfield import ops
from meanfield.checks import check_architecture
from meanfield.errors import InputError
from meanfield.given import PerStack


@dataclass(frozen=True)
class Measurement:
    """Measured gradients and hidden states, by seed and aggregated.

    Args:
        samples: One row per key and seed; rows with ``parameter == "activation"`` hold moments of hidden
            states, all others squared gradient norms.
        how: How it was measured, in words.
    """

    samples: pd.DataFrame
    how: str = "1 seed at once, differentiated by torch"

    @cached_property
    def df(self) -> pd.DataFrame:
        """Per parameter: means over seeds with standard error (``_se``) and seed-to-seed spread (``_sd``)."""
        rows = self.samples[self.samples["parameter"] != "activation"].groupby(KEYS, sort=False)
        square, mean_square, norm = (rows[column] for column in GRADIENTS)
        table = pd.DataFrame({
            "grad_sq_hat": square.mean(),
            "grad_sq_hat_se": square.sem(),
            "grad_sq_hat_sd": square.std(),
            "grad_norm_hat": square.mean() ** 0.5,
            "mean_norm_hat": norm.mean(),
            "mean_grad_sq_hat": mean_square.mean(),
            "mean_grad_sq_hat_se": mean_square.sem(),
        })
        return table.reset_index()

    @cached_property
    def activations(self) -> pd.DataFrame:
        """Per point of the model: means over seeds of its six moments, each with its standard error.

        Raises:
            InputError: If hidden states were not recorded.
        """
        if not (self.samples["parameter"] == "activation").any():
            raise InputError("hidden states were not recorded: measure with empirical.measure")
        rows = self.samples[self.samples["parameter"] == "activation"].groupby(KEYS, sort=False)
        columns = {}
        for moment in MOMENTS:
            columns[moment] = rows[moment].mean()
            columns[f"{moment}_se"] = rows[moment].sem()
        return pd.DataFrame(columns).reset_index()


def measure(
    arch: Architecture,
    *,
    tokens: int = 16,
    batch: int = 1,
    source_tokens: int | None = None,
    seeds: Iterable[int] = range(64),
    loss: str = "linear",
    minibatches: int = 1,
    label_smoothing: float = 0.0,
    ids: PerStack | None = None,
    gram: PerStack | None = None,
    padding: PerStack | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure ||dL/dtheta||_F^2 and the moments of hidden states and their gradients on real models.

        grad_sq_hat = mean_k ||g_k||_F^2,   mean_grad_sq_hat = ||mean_k g_k||_F^2,   k over mini-batches

    Weights, inputs and targets are drawn anew for every seed, inputs and targets for every mini-batch too:
    vectors N(0, I), or uniform ids where there is an embedding. A seed gives the same numbers in any company.
    Dropout drops. With a loss on hidden states the head has no gradient and no rows; a tied head has none of
    its own: its table is the embedding's.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences in a mini-batch.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        seeds: Distinct integers of at least 0.
        loss: ``"linear"`` or ``"mse"``, on hidden states, or ``"cross_entropy"``, which needs a head; see
            `empirical.losses`.
        minibatches: Mini-batches per seed.
        label_smoothing: For cross entropy.
        ids: Ids in place of random ones, (batch, tokens), for all seeds; for an encoder-decoder this and the
            next two are tuples (source, target), or arrays for both.
        gram: Covariance G of a coordinate of the T = batch * tokens input vectors, (T, T), in place of I: the
            input is R Z with R R^T = G and Z standard normal.
        padding: Which tokens are real, (batch, tokens) of bool; losses and moments average over those alone.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        The measurement.

    Raises:
        InputError: If the setting or what is fixed cannot be measured, or a loss or gradient is not finite.

    Source:
        xiong2020, Sec. 3.3 ("expected gradient": average the gradient, then take the norm).

    Example:
        >>> import meanfield as mf
        >>> post = measure(mf.paper_post_ln(width=32, depth=2), tokens=4, seeds=range(3))
        >>> last = post.activations.iloc[-1]
        >>> last["module"], round(float(last["q_hat"]), 4)  # the norm's output has unit second moment
        ('norm2', 1.0)
    """
    setting = Setting(tokens, batch, loss, minibatches, label_smoothing, device, dtype, source_tokens)
    seeds = seed_list(seeds)
    fixed = conditions(check_architecture(arch), setting, ids=ids, gram=gram, padding=padding)
    model = build(arch, seed=seeds[0], device=setting.device, dtype=dtype)
    if loss in READ_THE_HEAD and not isinstance(model.head, Head):
        raise InputError(f"loss={loss!r} needs an output head and {arch.name} has none: give vocab=...")
    rows = []
    own = nullcontext() if setting.device == "cpu" else device_products(dtype)
    with recorded(model) as outputs, one_thread(), own:
        probe = Probe(arch, model, setting, outputs, fixed)
        for seed in seeds:
            rows.append(probe.sample(seed))
            if progress is not None:
                progress(1)
    return Measurement(tabulate(setting.keys(arch), probe.keys, seeds, np.stack(rows)))


def tabulate(
    setting: dict[str, str | int], keys: list[ops.ParameterKey], seeds: list[int], values: Values
) -> pd.DataFrame:
    """Lay out values (seeds, keys, columns) as tidy rows, one per seed and key."""
    own = pd.DataFrame(keys, columns=list(ops.ParameterKey._fields))
    for position, (column, value) in enumerate(setting.items()):
        own.insert(position, column, value)
    table = own.iloc[np.tile(np.arange(len(keys)), len(seeds))].reset_index(drop=True)
    table["seed"] = np.repeat(seeds, len(keys))
    table[[*GRADIENTS, *MOMENTS]] = values.reshape(-1, values.shape[2])
    return table
