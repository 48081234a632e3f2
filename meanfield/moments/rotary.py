"""Rotary positions: the planes of a head and their angles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meanfield.ops import Attention, Rotary

# Planes whose angles differ by less than this over the longest distance count as one: the error of a cosine
# is then below (0.25)^2 / 2, and only pairs of different tokens see it.
_ALIKE = 0.5


def angles(rotary: Rotary, head_size: int) -> npt.NDArray[np.float64]:
    """Angle per position of every plane that turns.

        theta_m = base^(-2 m / r), m = 0 ... r/2 - 1, r = fraction * head size

    Args:
        rotary: The op's rotary positions.
        head_size: Coordinates of a head.

    Returns:
        r/2 angles in radians.

    Source:
        su2021, Eq. (15).

    Example:
        >>> angles(Rotary(base=100), 4).tolist()
        [1.0, 0.1]
    """
    turning = int(float(rotary.fraction) * head_size) // 2 * 2
    return np.asarray(float(rotary.base) ** (-np.arange(0, turning, 2) / turning))


def rotate(op: Attention, x: npt.NDArray[np.float32], tokens: int) -> npt.NDArray[np.float32]:
    """Turn queries or keys by their positions in the sequence.

    Args:
        op: The attention op; without rotary positions nothing happens.
        x: (..., batch * tokens, head size).
        tokens: Tokens in a sequence.

    Returns:
        The same shape.
    """
    if op.rotary is None:
        return x
    theta = angles(op.rotary, x.shape[-1])
    turn = np.exp(1j * theta * (np.arange(x.shape[-2]) % tokens)[:, None])  # (T, planes)
    plane = x[..., : theta.size] + 1j * x[..., theta.size : 2 * theta.size]
    plane = plane * turn
    return np.concatenate([plane.real, plane.imag, x[..., 2 * theta.size :]], axis=-1).astype(np.float32)


def planes(op: Attention, span: int) -> list[tuple[float, float]]:
    """Group the planes of a head by angles that no distance up to ``span`` tells apart.

    Args:
        op: The attention op.
        span: The longest distance.

    Returns:
        (share of the head's coordinates, angle) of every group; empty without rotary positions.
    """
    if op.rotary is None:
        return []
    theta = np.sort(angles(op.rotary, op.head_size))[::-1]
    still = op.head_size - 2 * theta.size
    all_angles = np.concatenate([theta, np.zeros(still // 2)])
    groups: list[list[float]] = []
    for angle in all_angles:
        if groups and (groups[-1][0] - angle) * span < _ALIKE:
            groups[-1].append(float(angle))
        else:
            groups.append([float(angle)])
    return [(len(group) / all_angles.size, float(np.mean(group))) for group in groups]
