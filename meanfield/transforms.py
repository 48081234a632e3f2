"""From random bits to numbers: loops over arrays, compiled by numba.

A loop reads bits and writes numbers once; the same by numpy takes a pass through memory for every operation.
Whoever imports this module waits half a second for numba, and the first time two for the compilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from meanfield.errors import InputError

_F, _U, _I = np.float32, np.uint32, np.int32
_ONE, _TWO = _F(1), _F(2)
_SMALL, _SMALLER = _F(2**-32), _F(2**-33)
_LN2, _TURN = _F(math.log(2)), _F(math.pi * 2**-31)
_ROOT, _EXPONENT = _I(0x3F3504F3), _I(23)  # the bits of sqrt(1/2), and where those of the exponent start
_LAST = np.int16(1)
_EIGHTH, _QUARTERS = _U(2**29), _U(30)
_LOG = tuple(_F(1 / k) for k in (9, 7, 5, 3))
_SIN = tuple(_F((-1) ** (k // 2) / math.factorial(k)) for k in (9, 7, 5, 3))
_COS = tuple(_F((-1) ** (k // 2) / math.factorial(k)) for k in (8, 6, 4, 2))


def _compiled(signature: str) -> Callable[[Callable[..., None]], Any]:
    """Compile a loop now, or load what was compiled before."""

    def made(loop: Callable[..., None]) -> Any:
        options: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
        try:
            return numba.njit(signature, cache=True, **options)(loop)
        except RuntimeError:  # nowhere to keep what is compiled
            return numba.njit(signature, **options)(loop)

    return made


@_compiled("void(uint32[:, ::1], float32[:, ::1], float32, int64)")
def _box_muller(words: Any, out: Any, deviation: Any, block: int) -> None:
    for row, start in np.ndindex(words.shape[0], -(-words.shape[1] // block)):
        own = words[row, start * block : (start + 1) * block]
        drawn = out[row, start * block : (start + 1) * block]
        half = len(own) // 2
        radii, angles, cosines, sines = own[:half], own[half:], drawn[:half], drawn[half:]
        for i in range(half):
            x = _F(radii[i]) * _SMALL + _SMALLER
            bits = np.float32(x).view(np.int32)
            exponent = _I((bits - _ROOT) >> _EXPONENT)
            m = np.int32(bits - _I(exponent << _EXPONENT)).view(np.float32)
            u = (m - _ONE) / (m + _ONE)
            v = u * u
            series = ((_LOG[0] * v + _LOG[1]) * v + _LOG[2]) * v + _LOG[3]
            minus = _F(exponent) * _LN2 + _TWO * (u + u * v * series)
            radius = deviation * np.sqrt(-_TWO * minus)
            quarter = _U((angles[i] + _EIGHTH) >> _QUARTERS)
            t = _F(_I(angles[i] - _U(quarter << _QUARTERS))) * _TURN
            v = t * t
            sine = t + t * v * (((_SIN[0] * v + _SIN[1]) * v + _SIN[2]) * v + _SIN[3])
            cosine = _ONE + v * (((_COS[0] * v + _COS[1]) * v + _COS[2]) * v + _COS[3])
            odd = (quarter & _U(1)) != 0
            a, b = (sine, cosine) if odd else (cosine, sine)
            cosines[i] = -radius * a if (quarter + _U(1)) & _U(2) else radius * a
            if i < len(sines):
                sines[i] = -radius * b if quarter & _U(2) else radius * b


@_compiled("void(int16[:, :, ::1], float32[:, :, ::1], float32, int64, int64)")
def _odd_integers(integers: Any, out: Any, factor: Any, row: int, column: int) -> None:
    for s, r in np.ndindex(out.shape[0], out.shape[1]):
        drawn, numbers = integers[s, row + r], out[s, r, column : column + integers.shape[2]]
        # Slices first: an index that may be negative would be looked at for every number.
        for c in range(len(numbers)):
            numbers[c] = _F(drawn[c] | _LAST) * factor


def box_muller(words: NDArray[np.uint32], out: NDArray[np.float32], deviation: float, block: int) -> None:
    """Make normals of mean 0 of pairs of 32-bit integers j, k, in single precision.

        (z, z') = deviation sqrt(-2 ln x) (cos, sin)(2 pi k / 2^32),   x = (j + 1/2) / 2^32
        ln x = e ln 2 + 2 artanh((m - 1)/(m + 1)),   x = m 2^e,   1/2 <= m^2 < 2

    Of the artanh, and of cosine and sine of what is left of an angle after whole quarters of a turn, the
    first terms of Taylor's series are taken, to 3e-8.

    Args:
        words: Of each block of a row all j, then all k, (rows, 2 n).
        out: Of each block all z, then all z', (rows, 2 n); or (rows, 2 n - 1), without the last z'.
        deviation: The standard deviation.
        block: Length of a block, an even number; the last one may be shorter.

    Raises:
        InputError: If shapes or the block do not fit: a compiled loop would read or write beyond its arrays.

    Source:
        boxmuller1958, Eqs. (1) and (2).

    Example:
        The largest j and no angle: x is 1 in single precision. A quarter turn of x = 1/2:

        >>> out = np.empty((1, 2), np.float32)
        >>> box_muller(np.array([[2**32 - 1, 0]], np.uint32), out, 1.0, 2)
        >>> bool((out == 0).all())
        True
        >>> box_muller(np.array([[2**31, 2**30]], np.uint32), out, 1.0, 2)
        >>> bool(abs(out[0, 0]) < 1e-7), bool(abs(out[0, 1] - (2 * math.log(2)) ** 0.5) < 1e-6)
        (True, True)
    """
    rows, numbers = out.shape
    if words.shape != (rows, numbers + numbers % 2) or block < 2 or block % 2:
        raise InputError(
            f"words {words.shape} do not make numbers {out.shape} in blocks of {block}: give as many rows, "
            "one word for each number, one more where they are odd, and an even block of at least 2"
        )
    _box_muller(words, out, _F(deviation), block)


def odd_integers(
    integers: NDArray[np.int16], out: NDArray[np.float32], factor: float, *, row: int = 0, column: int = 0
) -> None:
    """Lay integers out as numbers, each with its last bit set: uniform ones then have mean 0.

        out[s, r, column + c] = factor (integers[s, row + r, c] | 1)

    Args:
        integers: Random bits, (seeds, rows, columns).
        out: What to fill, of as many seeds; contiguous, as the integers are. Where it ends the rest is left.
        factor: The factor.
        row: The first row that is read.
        column: The first column that is written.

    Raises:
        InputError: If seeds differ, or rows or the column lie outside, as above.

    Source:
        definition; the m odd integers from 1 - m to m - 1 have mean square (m^2 - 1)/3.

    Example:
        >>> out = np.zeros((1, 1, 3), np.float32)
        >>> odd_integers(np.array([[[-4, 5]]], np.int16), out, 0.5, column=1)
        >>> out.tolist()
        [[[0.0, -1.5, 2.5]]]
    """
    seeds, rows, columns = out.shape
    if len(integers) != seeds or not 0 <= row <= integers.shape[1] - rows or not 0 <= column <= columns:
        raise InputError(
            f"integers {integers.shape} from row {row} do not fill numbers {out.shape} from column {column}: "
            "give as many seeds, and a row and a column inside"
        )
    _odd_integers(integers, out, _F(factor), row, column)
