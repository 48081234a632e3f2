"""The errors that users of the toolkit meet: each names the value, what is accepted and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable


class InputError(ValueError):
    """A value that the toolkit was given cannot be used; the message is one line a user can act on."""


class MissingRuleError(NotImplementedError):
    """An interpreter has no rule for an op: the theory is silent there, or an extension is incomplete.

    Args:
        op: The op, or the name of what has no rule.
        interpreter: Which reading has none, for example ``"moments.forward"``.
        remedy: What to do instead.
    """

    def __init__(self, op: object, interpreter: str, remedy: str = "") -> None:
        name = op if isinstance(op, str) else type(op).__name__
        message = f"{interpreter} has no rule for {name}"
        super().__init__(f"{message}; {remedy}" if remedy else f"{message}; register one for this op type")
        self.op = op
        self.interpreter = interpreter


class UnknownNameError(InputError):
    """A name that is not in a list of accepted names; suggests the nearest one.

    Args:
        what: What the name stands for, for example ``"activation"``.
        value: The name that was given.
        accepted: The names that exist.

    Example:
        >>> print(UnknownNameError("activation", "rellu", ["gelu", "relu"]))
        unknown activation 'rellu': accepted are gelu, relu; did you mean 'relu'?
    """

    def __init__(self, what: str, value: object, accepted: Iterable[str]) -> None:
        names = sorted(accepted)
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {what} {value!r}: accepted are {', '.join(names)}{hint}")


def once(key: tuple[int, str, str], found: Container[object]) -> None:
    """Check that a parameter's name is not taken: its row would replace that of another.

    Args:
        key: Layer, module and parameter.
        found: Keys so far.

    Raises:
        InputError: If it is there already.

    Example:
        >>> once((1, "linear", "weight"), set())
    """
    if key in found:
        raise InputError(f"layer {key[0]} has two ops named {key[1]!r}: give each a name of its own")


def positive_integer(what: str, value: object) -> int:
    """Check that a size is an integer of at least one.

    Args:
        what: The name of the size, for the error.
        value: The size.

    Returns:
        The size as an int.

    Raises:
        InputError: If the value is no integer, or is below 1.

    Example:
        >>> positive_integer("depth", 6)
        6
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{what}={value!r} is not an integer: give a whole number of at least 1")
    number = value.__index__()
    if number < 1:
        raise InputError(f"{what}={number} is too small: give a whole number of at least 1")
    return int(number)
