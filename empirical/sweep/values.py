"""Values of a grid: from TOML's types to those that a keyword takes, or an error that names both."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from meanfield.errors import InputError, UnknownNameError
from meanfield.ops import Draw

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): '"none"'}


def convert(name: str, value: Any, hint: Any) -> Any:
    """Turn a value from TOML into what a keyword takes.

    The text ``"none"`` is None, a list is a tuple, a table is a record (a law's number is its variance).

    Args:
        name: The keyword, for messages.
        value: What the file says.
        hint: The keyword's type.

    Returns:
        The value.

    Raises:
        InputError: If it is of no type that the keyword takes; the message names those.
        UnknownNameError: If it is a text, and none of those that the keyword takes.

    Example:
        >>> convert("window", [4, "none"], int | tuple[int | None, ...])
        (4, None)
        >>> convert("heads", 4.5, int)
        Traceback (most recent call last):
            ...
        meanfield.errors.InputError: heads=4.5: give a whole number
    """
    kinds = _alternatives(hint)
    if value == "none" and type(None) in kinds:
        return None
    for kind in kinds:
        if (found := _as_kind(name, value, kind)) is not None:
            return found
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if words and isinstance(value, str) and str not in kinds:
        raise UnknownNameError(name, value, words)
    raise InputError(f"{name}={value!r}: give {' or '.join(dict.fromkeys(map(_named, kinds)))}")


def _as_kind(name: str, value: Any, kind: Any) -> Any:
    """Turn a value into one type; None if it is of another."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if get_origin(kind) is tuple:
        return (
            tuple(convert(name, item, get_args(kind)[0]) for item in value)
            if isinstance(value, list)
            else None
        )
    if kind is Draw and _is_number(value):
        return Draw(value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(name, value, kind) if isinstance(value, Mapping) else None
    return value if _fits(value, kind) else None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(kind for part in get_args(hint) for kind in _alternatives(part))
    return (hint,)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type, where true is no number and 2 is a number of any kind."""
    if kind in (float, Fraction):
        return _is_number(value)
    return type(value) is kind


def _named(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list in the list"
    if kind is Fraction:
        return NAMES[float]
    return NAMES.get(kind) or f"a table of {kind.__name__}'s fields"


def _record(name: str, table: Mapping[str, Any], kind: type) -> Any:
    """Make a record from a table of its fields."""
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    for key in table:
        if key not in hints:
            raise UnknownNameError(f"field of {name}", key, hints)
    for field in fields:
        absent = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if absent and field.name not in table:
            raise InputError(f"{name} has no {field.name}: give {field.name} in its table as well")
    return kind(**{key: convert(f"{name}.{key}", value, hints[key]) for key, value in table.items()})


_OPERAND = r"[A-Za-z_]\w*|\d+(?:\.\d+)?"
_TIE = re.compile(rf"\s*({_OPERAND})((?:\s*[*/]\s*(?:{_OPERAND}))+)\s*")


def is_tie(value: Any) -> bool:
    """Tell whether a value is a product or quotient of numbers and other keys, such as ``"4 * width"``.

    Args:
        value: What the file says.

    Returns:
        Whether it is.

    Example:
        >>> is_tie("4 * width"), is_tie("width"), is_tie("two_norms")
        (True, False, False)
    """
    return isinstance(value, str) and _TIE.fullmatch(value) is not None


def tied(name: str, text: str, values: Mapping[str, Any]) -> int:
    """Compute a size that is tied to others, from left to right.

    Args:
        name: The key that is tied, for messages.
        text: A product or quotient, for which `is_tie` holds.
        values: The other keys.

    Returns:
        The size.

    Raises:
        InputError: If a key is not there or no number, or the result is not whole.

    Example:
        >>> tied("d_ff", "8 * width / 3", {"width": 96})
        256
    """
    result, operation = Fraction(1), "*"
    for part in re.findall(rf"{_OPERAND}|[*/]", text):
        if part in "*/":
            operation = part
            continue
        number: Any = Fraction(part) if part[0].isdigit() else values.get(part)
        if number is None:
            raise InputError(f"{name}={text!r} needs {part}: give {part} in the grid, as a whole number")
        if isinstance(number, bool) or not isinstance(number, int | Fraction):
            raise InputError(f"{name}={text!r}: {part}={number!r} is no whole number; tie it to one that is")
        if operation == "/" and not number:
            raise InputError(f"{name}={text!r} divides by 0: give {part} at least 1")
        result = result * number if operation == "*" else result / number
    if result.denominator != 1:
        raise InputError(
            f"{name}={text!r} is {float(result):g}, not a whole number: choose sizes that divide"
        )
    return int(result)
