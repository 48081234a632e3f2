"""What every op is made of: the law of a tensor's entries, and the base class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Literal, TypeAlias

from meanfield.errors import InputError, UnknownNameError

Number: TypeAlias = Fraction | float | int
Law: TypeAlias = Literal["normal", "uniform"]


def finite(what: str, value: Number) -> None:
    """Check that a value is a real number.

    Args:
        what: Name of the argument, for the message.
        value: The value.

    Raises:
        InputError: If it is no real number, infinite or NaN.
    """
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{what}={value!r} is not finite: give a real number")


@dataclass(frozen=True, slots=True)
class Draw:
    """The law from which the independent entries of a tensor are drawn.

    Args:
        variance: Variance of an entry; exact fractions stay exact in the symbolic reading. 0 means constant.
        law: The shape of the distribution. Mean-field theory sees the variance alone.
        mean: Mean of an entry.

    Raises:
        InputError: If the variance is negative, or a number is not finite.

    Example:
        >>> Draw(Fraction(1, 512)).variance
        Fraction(1, 512)
    """

    variance: Number
    law: Law = "normal"
    mean: Number = 0

    def __post_init__(self) -> None:
        finite("variance", self.variance)
        finite("mean", self.mean)
        if self.variance < 0:
            raise InputError(f"variance={self.variance} is negative: give a variance of at least 0")
        if self.law not in ("normal", "uniform"):
            raise UnknownNameError("law", self.law, ("normal", "uniform"))


ZEROS = Draw(0)
ONES = Draw(0, mean=1)


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all ops; interpreters dispatch on the concrete type."""
