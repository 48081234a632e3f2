"""Learning rate against step: constant, warm-up and inverse square root, linear decay, step decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meanfield.errors import InputError, UnknownNameError, positive_integer

KINDS = ("constant", "inverse_sqrt", "linear", "step")
STEP_FACTOR = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate of step t = 1, 2, ...

    All kinds rise linearly over the warm-up, lr(t) = lr_max min(1, t/T_warmup); T_warmup = 1 is none. Then

    - ``constant``: lr_max;
    - ``inverse_sqrt``: lr_max sqrt(hold/t) for t > hold: schedules that share ``hold`` differ in their
      warm-up alone. The published schedule decays from the end of the warm-up, hold = T_warmup;
    - ``linear``: lr_max (steps - t)/(steps - T_warmup) after the warm-up, so that the last step is 0;
    - ``step``: lr_max times 1/10 from each of the ``milestones`` on.

    Args:
        kind: One of `KINDS`.
        lr_max: The largest learning rate.
        warmup: T_warmup, in steps.
        hold: For ``inverse_sqrt``: the step from which it decays, at least the warm-up; None for the warm-up.
        milestones: For ``step``: shares of the run, between 0 and 1, ascending.

    Raises:
        UnknownNameError: If there is no such kind.
        InputError: If a number is out of its range, or belongs to another kind.

    Source:
        xiong2020, Sec. 3.1; vaswani2017, Sec. 5.3; the constant stretch before ``hold`` is ours.

    Example:
        >>> schedule = Schedule(kind="inverse_sqrt", lr_max=1.0, warmup=4, hold=9)
        >>> [round(schedule.rate(t, steps=100), 3) for t in (1, 4, 9, 36)]
        [0.25, 1.0, 1.0, 0.5]
    """

    kind: str
    lr_max: float
    warmup: int = 1
    hold: int | None = None
    milestones: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("schedule", self.kind, KINDS)
        if (
            isinstance(self.lr_max, bool)
            or not isinstance(self.lr_max, int | float)
            or not _positive(self.lr_max)
        ):
            raise InputError(f"lr_max={self.lr_max!r} is no learning rate: give a finite number above 0")
        positive_integer("warmup", self.warmup)
        if self.hold is not None:
            if self.kind != "inverse_sqrt":
                raise InputError(
                    f"hold={self.hold} belongs to 'inverse_sqrt', not to {self.kind!r}: leave it out"
                )
            if positive_integer("hold", self.hold) < self.warmup:
                raise InputError(
                    f"hold={self.hold} is before the end of the warm-up: give at least {self.warmup}"
                )
        if (self.kind == "step") != bool(self.milestones):
            raise InputError(
                f"milestones={self.milestones} with {self.kind!r}: 'step' needs shares such as (0.5, 0.75), "
                "and no other schedule has any"
            )
        if list(self.milestones) != sorted(set(self.milestones)) or not all(
            0 < m < 1 for m in self.milestones
        ):
            raise InputError(f"milestones={self.milestones} are no ascending shares between 0 and 1")

    def rate(self, step: int, *, steps: int) -> float:
        """The learning rate of one step.

        Args:
            step: t, from 1.
            steps: Steps of the whole run.

        Returns:
            lr(t).
        """
        if step < self.warmup:
            return self.lr_max * step / self.warmup
        match self.kind:
            case "inverse_sqrt":
                return self.lr_max * math.sqrt(min(1.0, (self.hold or self.warmup) / step))
            case "linear":
                return self.lr_max * max(0.0, (steps - step) / max(1, steps - self.warmup))
            case "step":
                return self.lr_max * STEP_FACTOR ** sum(step > share * steps for share in self.milestones)
            case _:
                return self.lr_max


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
