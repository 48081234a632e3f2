"""Does an initialisation match the paper that it is named after?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from meanfield.errors import InputError, UnknownNameError
from meanfield.initialization import SCHEMES, Initialization, Sizes, deepnorm_constants, initialization
from meanfield.ops import Draw, Number

# What follows another law where a scheme says nothing of its own.
_DEFAULTS = {"gate": "up", "position": "embedding", "segment": "embedding", "output_bias": "attention_bias"}
TENSORS = tuple(part.name for part in fields(Initialization) if part.name != "name")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor that is not drawn as the scheme says.

    Attributes:
        tensor: A field of `Initialization`, or ``alpha`` for DeepNorm's factor on the skip connection.
        given: Its variance, or the factor.
        expected: What the scheme says.
        reason: What explains the difference, where something does.
    """

    tensor: str
    given: float
    expected: float
    reason: str

    def __str__(self) -> str:
        """Say it in one line."""
        ratio = f"{self.given / self.expected:.3g} times " if self.expected else "not "
        line = f"{self.tensor}: {self.given:.4g} is {ratio}the scheme's {self.expected:.4g}"
        return f"{line} ({self.reason})" if self.reason else line


def matches_paper(
    given: Initialization | Mapping[str, Number | Draw],
    scheme: str,
    sizes: Sizes,
    *,
    tolerance: float = 0.01,
) -> tuple[Mismatch, ...]:
    """Compare variances with those of the scheme that they are named after.

        |given / expected - 1| <= tolerance for every tensor

    Args:
        given: An initialisation, or tensors by name with their declared or measured variances: the fields of
            `Initialization`, and ``alpha`` for DeepNorm's factor on the skip connection.
        scheme: Name of a scheme, see `initialization`.
        sizes: Sizes of the model.
        tolerance: Relative. For a measured variance of n entries give more than 3 sqrt(2/n).

    Returns:
        The tensors that differ, in the order given; empty if all match.

    Raises:
        UnknownNameError: If the scheme or a tensor is unknown.
        InputError: If a variance is negative or no number, or the tolerance is not above 0.

    Assumes:
        Entries of mean 0. The shape of the law, normal or uniform, is not compared: gradients see variances.

    Source:
        That of each scheme; wang2022deepnet, Fig. 2, for alpha.

    Example:
        A packed query-key-value matrix drawn by Xavier has half the variance of three separate ones.

        >>> sizes = Sizes(width=512, kv_width=512, d_ff=2048, depth=6)
        >>> for mismatch in matches_paper({"q": 1 / 1024, "o": 1 / 512}, "xavier_uniform", sizes):
        ...     print(mismatch)
        q: 0.0009766 is 0.5 times the scheme's 0.001953 (drawn as one packed matrix of q, k and v)
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(
            f"tolerance={tolerance} is no relative difference: give a number above 0, such as 0.01"
        )
    if scheme not in SCHEMES:
        raise UnknownNameError("init", scheme, SCHEMES)
    expected = _laws(initialization(scheme, sizes))
    if scheme == "deepnorm":
        expected["alpha"] = deepnorm_constants(sizes)[0]
    measured = _laws(given) if isinstance(given, Initialization) else _checked(given, expected)
    return tuple(
        Mismatch(tensor, value, expected[tensor], _reason(tensor, value, expected[tensor], scheme, sizes))
        for tensor, value in measured.items()
        if not _equal(value, expected[tensor], tolerance)
    )


def _equal(value: float, expected: float, tolerance: float) -> bool:
    return abs(value - expected) <= tolerance * expected


def _laws(law: Initialization) -> dict[str, float]:
    """Variance of every tensor, those included that follow another one."""
    found = {name: getattr(law, name) for name in TENSORS}
    draws = {name: found[_DEFAULTS[name]] if draw is None else draw for name, draw in found.items()}
    return {name: float(draw.variance) for name, draw in draws.items()}


def _checked(given: Mapping[str, Number | Draw], expected: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for tensor, value in given.items():
        if tensor not in expected:
            raise UnknownNameError("tensor", tensor, expected)
        number = float(value.variance if isinstance(value, Draw) else value)
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"{tensor}={number} is no variance: give a number of at least 0")
        found[tensor] = number
    return found


def _reason(tensor: str, value: float, expected: float, scheme: str, sizes: Sizes) -> str:
    """Explain a difference by a mistake that is known to be made."""
    if tensor == "alpha":
        depth = value**4 / 2
        fits = sizes.stack == "alone" and round(depth) >= 1 and _equal(depth, round(depth), 0.02)
        return f"right for depth {round(depth)} alone" if fits else ""
    xavier = _laws(initialization("xavier_normal", sizes))[tensor]
    if expected != xavier and _equal(value * expected, xavier**2, 0.01):
        return "the gain is inverted: its exponent has the wrong sign"
    if tensor in ("q", "k", "v") and _equal(2 * value, expected, 0.01):
        return "drawn as one packed matrix of q, k and v"
    same = [
        name
        for name, other in SCHEMES.items()
        if name != scheme and _equal(value, _laws(other(sizes))[tensor], 0.01)
    ]
    return f"as in {', '.join(same)}" if same else ""
