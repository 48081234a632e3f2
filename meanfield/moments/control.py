"""Means over draws with control variates."""

from __future__ import annotations

import numpy as np

from meanfield.moments.state import Kernel


class Controlled:
    """A mean over chunks of draws, with control variates of known mean 0."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self.controls: list[Kernel] = []
        self.sum: Kernel | float = 0.0
        self.products: list[Kernel | float] = []

    def add(self, found: Kernel, control: Kernel) -> None:
        """Add the mean of one chunk, with its controls."""
        self.found.append(float(np.trace(found)))
        self.controls.append(control)
        self.sum = self.sum + found
        self.products = [
            product + c * found
            for product, c in zip(self.products or [0.0] * control.size, control, strict=True)
        ]

    def _inverse(self) -> tuple[Kernel, Kernel]:
        """Return the mean of the controls and the inverse of their covariance."""
        controls = np.array(self.controls)
        inverse = np.linalg.pinv(np.cov(controls.T, bias=True), rcond=1e-6)
        return controls.mean(axis=0), np.asarray(inverse, dtype=np.float64)

    def mean(self) -> Kernel:
        """The mean, less what the controls explain of its deviation."""
        count = len(self.found)
        shift, inverse = self._inverse()
        mean = np.asarray(self.sum / count)
        covariances = np.array([p / count - c * mean for p, c in zip(self.products, shift, strict=True)])
        return np.asarray(mean - np.tensordot(inverse @ shift, covariances, axes=1))

    def error(self) -> float:
        """Relative standard error of the mean's trace."""
        found, controls = np.array(self.found), np.array(self.controls)
        shift, inverse = self._inverse()
        centred = controls - shift
        slope = inverse @ (centred.T @ (found - found.mean()) / found.size)
        rest = found - found.mean() - centred @ slope
        deviation = np.sqrt((rest**2).sum() / (found.size - 1 - shift.size) / found.size)
        mean = abs(found.mean() - slope @ shift)
        return float(deviation / mean) if mean > 0 else 0.0
