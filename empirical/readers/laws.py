"""From actual weights to laws: mean, second moment and shape of the distribution of a tensor's entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from meanfield.ops import Draw, Law, ParameterKey

SIGMAS = 5.0
"""Standard errors within which tensors of one role count as drawn from one law."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Moments of a tensor's entries.

    Args:
        count: Number of entries.
        mean: Their mean.
        square: Mean of their squares.
        kurtosis: Fourth central moment over the square of the second; 0 for a constant.
    """

    count: int
    mean: float
    square: float
    kurtosis: float

    @property
    def variance(self) -> float:
        """Variance of an entry: the second moment where the mean is no more than chance."""
        central = max(self.square - self.mean**2, 0.0)
        by_chance = self.count > 1 and self.mean**2 <= SIGMAS**2 * central / self.count
        return self.square if by_chance else central

    @property
    def spread(self) -> float:
        """Relative standard error of the variance."""
        return max((self.kurtosis - 1) / self.count, 1e-12) ** 0.5

    @property
    def law(self) -> Law:
        """The law that is nearer by the fourth moment: 1.8 for a uniform one, 3 for a normal one."""
        return "uniform" if self.kurtosis < 2.1 else "normal"

    def draw(self) -> Draw:
        """The law of an entry."""
        central = max(self.square - self.mean**2, 0.0)
        if central <= 1e-12 * self.square or self.square == 0:
            return Draw(0, mean=self.mean)
        if self.variance == self.square:
            return Draw(self.square, self.law)
        return Draw(central, self.law, self.mean)


def sample(values: Tensor) -> Sample:
    """Take the moments of a tensor's entries.

    Args:
        values: The entries.

    Returns:
        Their moments.

    Example:
        >>> import torch
        >>> sample(torch.tensor([1.0, -1.0])).draw().variance
        1.0
    """
    x = values.detach().double().reshape(-1)
    mean = float(x.mean())
    central = (x - mean).square()
    variance = float(central.mean())
    kurtosis = float(central.square().mean()) / variance**2 if variance > 0 else 0.0
    return Sample(len(x), mean, float(x.square().mean()), kurtosis)


def pooled(samples: Mapping[ParameterKey, Sample]) -> dict[ParameterKey, Draw]:
    """Give tensors of one role in different layers one law where chance explains their differences.

    Args:
        samples: Moments of every tensor.

    Returns:
        The law of each.
    """
    roles: dict[tuple[str, str], list[ParameterKey]] = defaultdict(list)
    for key in samples:
        roles[key.module, key.parameter].append(key)
    laws: dict[ParameterKey, Draw] = {}
    for keys in roles.values():
        joint = _joint([samples[key] for key in keys])
        for key in keys:
            own = samples[key]
            near = joint is not None and _alike(own, joint)
            laws[key] = joint.draw() if near and joint is not None else own.draw()
    return laws


def _joint(samples: list[Sample]) -> Sample | None:
    """The law of most of them, or None where they are constants."""
    if any(s.draw().variance == 0 for s in samples):
        return None
    middle = sorted(samples, key=lambda s: s.variance)[len(samples) // 2]
    near = [s for s in samples if _alike(s, middle)]
    return _merge(near)


def _merge(samples: Iterable[Sample]) -> Sample:
    listed = list(dict.fromkeys(samples))  # copies of one tensor say no more than the tensor
    count = sum(s.count for s in listed)

    def mean(name: str) -> float:
        return sum(s.count * getattr(s, name) for s in listed) / count

    return Sample(count, mean("mean"), mean("square"), mean("kurtosis"))


def _alike(a: Sample, b: Sample) -> bool:
    """Whether chance explains the difference of two variances and means."""
    bound = SIGMAS * (a.spread**2 + b.spread**2) ** 0.5
    means = SIGMAS * (a.variance / a.count + b.variance / b.count) ** 0.5
    return abs(a.variance / b.variance - 1) <= bound and abs(a.mean - b.mean) <= means
