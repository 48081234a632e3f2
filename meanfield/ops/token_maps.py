"""Maps of one token: linear, norm, activation, learned gain, constant factor, dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.ops.base import ONES, ZEROS, Draw, Number, Op, finite

ACTIVATIONS = (
    "gelu",
    "gelu_tanh",
    "identity",
    "quick_gelu",
    "relu",
    "relu_squared",
    "sigmoid",
    "silu",
    "tanh",
)

NormKind: TypeAlias = Literal["layernorm", "rmsnorm"]


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """The map x -> x W + b on every token.

    Args:
        d_in: Size of a token before the map.
        d_out: Size of a token after the map.
        weight: Law of W, of shape (d_in, d_out).
        bias: Law of b, or None for no bias.
        name: Module name in tables of a map by itself; those of attention, feed-forward ops and heads are
            named by what they are there.

    Example:
        >>> from fractions import Fraction
        >>> Linear(512, 512, Draw(Fraction(1, 512))).sigma_w_sq
        Fraction(1, 1)
    """

    d_in: int
    d_out: int
    weight: Draw
    bias: Draw | None = None
    name: str = "linear"

    def __post_init__(self) -> None:
        positive_integer("d_in", self.d_in)
        positive_integer("d_out", self.d_out)

    @property
    def sigma_w_sq(self) -> Number:
        """Variance of an entry times the fan-in: what the forward pass multiplies a second moment by."""
        return self.d_in * self.weight.variance

    @property
    def sigma_b_sq(self) -> Number:
        """Second moment of a bias entry; 0 where there is no bias."""
        return 0 if self.bias is None else self.bias.variance + self.bias.mean * self.bias.mean


@dataclass(frozen=True, slots=True)
class Norm(Op):
    """LayerNorm or RMSNorm over the coordinates of a token, with gain and shift.

    Args:
        name: Module name in tables, for example ``"norm1"``.
        width: Size of a token.
        kind: ``"layernorm"`` subtracts the mean over coordinates first, ``"rmsnorm"`` does not.
        eps: Added to the mean square before the root is taken.
        affine: Whether there is a learned gain and, for LayerNorm, a learned shift.
        gain: Law of the gain's entries, 1 at first unless a scheme or a fault has it otherwise.
        shift: Law of the shift's entries, 0 at first.

    Raises:
        InputError: If eps is negative, the kind is unknown, or there is no gain or shift to have a law.
    """

    name: str
    width: int
    kind: NormKind = "layernorm"
    eps: float = 1e-5
    affine: bool = True
    gain: Draw = ONES
    shift: Draw = ZEROS

    def __post_init__(self) -> None:
        positive_integer("width", self.width)
        finite("eps", self.eps)
        if self.eps < 0:
            raise InputError(f"eps={self.eps} is negative: give an eps of at least 0")
        if self.kind not in ("layernorm", "rmsnorm"):
            raise UnknownNameError("norm", self.kind, ("layernorm", "rmsnorm"))
        if (self.gain != ONES and not self.affine) or (self.shift != ZEROS and not self.has_shift):
            raise InputError(
                f"{self.name} has no gain or no shift to give a law to: leave gain and shift out, or make it "
                "an affine LayerNorm"
            )

    @property
    def gain_sq(self) -> Number:
        """Second moment of an entry of the gain."""
        return self.gain.variance + self.gain.mean * self.gain.mean

    @property
    def shift_sq(self) -> Number:
        """Second moment of an entry of the shift."""
        return self.shift.variance + self.shift.mean * self.shift.mean

    @property
    def plain(self) -> bool:
        """Whether gains are 1 and shifts 0, so that the norm alone acts."""
        return (self.gain, self.shift) == (ONES, ZEROS)

    @property
    def has_shift(self) -> bool:
        """Whether the norm has a learned shift; RMSNorm has none."""
        return self.affine and self.kind == "layernorm"


@dataclass(frozen=True, slots=True)
class Activation(Op):
    """A non-linearity by itself, x -> activation(x): between the maps of a head with a hidden layer.

    Args:
        activation: Name of the non-linearity, one of `ACTIVATIONS`.

    Raises:
        UnknownNameError: If it is none of them.

    Example:
        >>> Activation("gelu").activation
        'gelu'
    """

    activation: str

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UnknownNameError("activation", self.activation, ACTIVATIONS)


@dataclass(frozen=True, slots=True)
class Gain(Op):
    """A learned factor, x -> value * x: one for each coordinate (LayerScale), or a single one (ReZero).

    Args:
        name: Module name in tables, for example ``"gain1"``.
        width: Number of learned factors: the size of a token, a number of heads that divides it, or 1.
        value: What each of them is at initialisation; 0 is allowed.

    Example:
        >>> Gain("gain1", 512, 0.1).value
        0.1
    """

    name: str
    width: int
    value: Number

    def __post_init__(self) -> None:
        positive_integer("width", self.width)
        finite("gain", self.value)


@dataclass(frozen=True, slots=True)
class Scale(Op):
    """A constant factor, x -> factor * x, without parameter.

    Args:
        factor: The factor.
    """

    factor: Number

    def __post_init__(self) -> None:
        finite("factor", self.factor)


@dataclass(frozen=True, slots=True)
class Dropout(Op):
    """Each coordinate of each token is dropped with probability ``rate``; the others are divided by 1 - rate.

    Args:
        rate: Probability, in [0, 1).

    Raises:
        InputError: If the rate is outside [0, 1).
    """

    rate: Number

    def __post_init__(self) -> None:
        check_rate("dropout", self.rate)


def check_rate(what: str, rate: Number) -> None:
    """Check that a dropout rate is in [0, 1).

    Args:
        what: Name of the argument, for the message.
        rate: The rate.

    Raises:
        InputError: If it is not.
    """
    finite(what, rate)
    if not 0 <= rate < 1:
        raise InputError(f"{what}={rate} is outside [0, 1): give a rate such as 0.1")
