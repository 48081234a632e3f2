"""The ways in which a step of a derivation is checked; each runs its check and returns the `Step`."""

from __future__ import annotations

from collections.abc import Iterable

import mpmath
import sympy as sp

from meanfield.claims import Step


def _vanishes(expression: sp.Basic) -> bool:
    expanded = sp.expand(expression)
    return bool(expanded == 0 or sp.simplify(expanded) == 0)


def proved(latex: str, how: str, *differences: sp.Expr | sp.MatrixBase) -> Step:
    """Check that expressions vanish identically.

    Args:
        latex: What the step says.
        how: What SymPy was asked.
        differences: Left side minus right side, once for each equation.

    Returns:
        The step.

    Raises:
        ValueError: If there is nothing to check.

    Example:
        >>> x = sp.Symbol("x")
        >>> proved("(x+1)^2 = x^2+2x+1", "expansion", (x + 1) ** 2 - x**2 - 2 * x - 1).holds
        True
    """
    if not differences:
        raise ValueError("a step without a check")
    entries = [e for d in differences for e in (d if isinstance(d, sp.MatrixBase) else (d,))]
    return Step(latex, f"proved by SymPy: {how}", all(_vanishes(e) for e in entries))


def proved_sign(latex: str, how: str, *nonnegative: sp.Expr) -> Step:
    """Check that SymPy knows expressions to be at least zero from the assumptions on their symbols.

    Args:
        latex: What the step says.
        how: Why the expressions decide it.
        nonnegative: The expressions.

    Returns:
        The step.

    Raises:
        ValueError: If there is nothing to check.
    """
    if not nonnegative:
        raise ValueError("a step without a check")
    return Step(latex, f"proved by SymPy: {how}", all(bool(e.is_nonnegative) for e in nonnegative))


def instances(
    latex: str, what: str, cases: Iterable[bool | sp.Basic], method: str = "exact arithmetic"
) -> Step:
    """Check a statement on instances.

    Args:
        latex: What the step says.
        what: Which instances.
        cases: Whether the statement holds, once for each instance.
        method: The arithmetic in which the caller evaluated them.

    Returns:
        The step.

    Raises:
        ValueError: If there is no instance.
    """
    results = [bool(case) for case in cases]
    if not results:
        raise ValueError("a step without a check")
    return Step(latex, f"{method} on {len(results)} instances: {what}", all(results))


def numeric(latex: str, what: str, pairs: Iterable[tuple[mpmath.mpf, mpmath.mpf]], digits: int = 30) -> Step:
    """Check that numbers agree to a stated number of digits.

    Args:
        latex: What the step says.
        what: How the numbers were found.
        pairs: Two numbers that should be equal, once for each instance; evaluated by the caller with
            more digits than it asks for.
        digits: Relative agreement that is asked for.

    Returns:
        The step.

    Raises:
        ValueError: If there is no pair.
    """
    results = [abs(a - b) <= mpmath.mpf(10) ** -digits * abs(b) for a, b in pairs]
    if not results:
        raise ValueError("a step without a check")
    return Step(latex, f"{what}, to {digits} digits", all(results))
