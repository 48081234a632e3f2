"""What `check_initialization` returns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from empirical.initialization.finding import Finding

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor, or one part of a packed one.

    Args:
        name: The module's own name, with the part in brackets.
        layer: From 1, 0 before the first; None where nothing counts layers.
        module: Module in the architecture, ``"attention.q"``; empty where the reader did not place it.
        parameter: ``"weight"`` or ``"bias"`` there.
        entries: Number of entries; rows of zeros in a table are left out.
        mean_hat: Their mean.
        variance_hat: Their sample variance.
        law: ``"normal"``, ``"uniform"``, ``"constant"``, ``"orthogonal"``, ``"other"``, ``"undecided"``
            below 200 entries, ``"fixed"`` where nobody drew them.
        kurtosis: By which the law is judged: 3 for a normal, 1.8 for a uniform one.
        dtype: Type of the entries.
        variance: What the scheme says; NaN where it says nothing.
        ratio: variance_hat / variance.
        ratio_low: Lower end of the 95 % interval of the true ratio.
        ratio_high: Its upper end.
        p_value: Probability of a ratio at least as far from 1, if the scheme is right.
        p_value_mean: The same of the mean.
        detectable: Smallest ratio above 1 that a tensor of this size shows, with probability 95 %, among all
            tests of this check.
        finding: Kinds of findings that name this tensor.
    """

    name: str
    layer: int | None
    module: str
    parameter: str
    entries: int
    mean_hat: float
    variance_hat: float
    law: str
    kurtosis: float
    dtype: str
    variance: float = math.nan
    ratio: float = math.nan
    ratio_low: float = math.nan
    ratio_high: float = math.nan
    p_value: float = math.nan
    p_value_mean: float = math.nan
    detectable: float = math.nan
    finding: str = ""


@dataclass(frozen=True, slots=True)
class InitializationCheck:
    """The tensors of a module beside a scheme, or beside each other.

    Args:
        scheme: Name of the scheme; None for none.
        level: Family-wise error rate of all tests together.
        tests: Number of tests.
        rows: One per tensor.
        findings: Faults.
        notes: What is worth knowing and no fault.
    """

    scheme: str | None
    level: float
    tests: int
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.findings

    @property
    def df(self) -> pd.DataFrame:
        """One row per tensor, the fields of `Row` as columns."""
        import pandas as pd  # half a second: not at import

        return pd.DataFrame(
            [asdict(row) for row in self.rows], columns=list(Row.__dataclass_fields__)
        ).astype({"layer": "Int64"})

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; None stands for what is not finite.

        Returns:
            ``scheme, level, tests, ok, findings, notes, tensors``.
        """
        return {
            "scheme": self.scheme,
            "level": self.level,
            "tests": self.tests,
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": [asdict(note) for note in self.notes],
            "tensors": [
                {
                    key: None if isinstance(value, float) and not math.isfinite(value) else value
                    for key, value in asdict(row).items()
                }
                for row in self.rows
            ],
        }

    def __rich__(self) -> RenderableType:
        """Lay the check out for a terminal."""
        from empirical.initialization.show import layout

        return layout(self)

    def __str__(self) -> str:
        """Render the check as text, 120 columns wide."""
        from empirical.initialization.show import as_text

        return as_text(self)

    def show(self, console: Console | None = None) -> None:
        """Print the check.

        Args:
            console: Where; None for the terminal.
        """
        from rich.console import Console

        (console or Console()).print(self)
