"""Losses at random targets: the gradient of the last hidden states or of the logits.

Each is a mean over real tokens; ``share`` is a token's weight in it.
"""

from __future__ import annotations

import numpy as np

from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import Run


def linear(y: Array, share: Array, run: Run) -> Array:
    """Gradient of the probe sum_i share_i <r_i, y_i>, r_i ~ N(0, I/d).

    Args:
        y: Last hidden states (seeds, T, d).
        share: (T, 1), of sum 1.
        run: The pass.

    Returns:
        dL/dy.
    """
    return share * run.noise("target", *y.shape[1:]) * y.shape[-1] ** -0.5


def mse(y: Array, share: Array, run: Run) -> Array:
    """Gradient of sum_i share_i ||y_i - t_i||^2 / d, t_i ~ N(0, I).

    Args:
        y: Last hidden states (seeds, T, d).
        share: (T, 1), of sum 1.
        run: The pass.

    Returns:
        dL/dy.
    """
    return 2 / y.shape[-1] * share * (y - run.noise("target", *y.shape[1:]))


def cross_entropy(logits: Array, labels: np.ndarray, share: Array, label_smoothing: float, run: Run) -> Array:
    """Gradient of the cross entropy, share_i (softmax(logits_i) - target_i).

    Args:
        logits: (seeds, T, classes); of a tied head, one column per token before them.
        labels: Class of each token (seeds, T).
        share: (T, 1), of sum 1.
        label_smoothing: Share of the target that all classes have in equal parts.
        run: The pass.

    Returns:
        dL/dlogits.
    """
    xp = run.xp
    slots = run.columns
    classes = logits.shape[-1] - slots
    column = run.backend.asarray(np.arange(classes)[None])  # (1 or seeds, columns)
    active = None
    if run.tied is not None and slots:
        ids, places = run.tied.ids, run.backend.asarray(np.arange(slots)[None])
        occurs = xp.any(ids[:, :, None] == column[:, None, :], axis=1)
        column = xp.concat([ids, xp.broadcast_to(column, (ids.shape[0], classes))], axis=-1)
        active = xp.concat([run.tied.slot == places, ~occurs], axis=-1)[:, None, :]
        logits = xp.where(active, logits, -xp.inf)
    p = run.backend.softmax(logits)
    target = run.backend.asarray(labels)[:, :, None] == column[:, None, :]
    every = xp.ones_like(target[:, :1]) if active is None else active
    target = xp.astype(target & every, p.dtype) * (1 - label_smoothing)
    target = target + xp.astype(every, p.dtype) * (label_smoothing / classes)
    return share * (p - target)
