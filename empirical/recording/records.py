"""What is recorded at one point of one step, and the protocol of what takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

KEYS = ("step", "module", "parameter", "training")
MOMENTS = ("q_hat", "cov_hat", "q_grad_hat", "cov_grad_hat")
GRADIENT = ("grad_sq_hat",)


@dataclass(frozen=True)
class Record:
    """One row: the moments at a point of the module, or the gradient of one of its parameters.

    Args:
        step: Number of the step.
        module: Path inside the recorded module, ``""`` for the module itself.
        parameter: ``"activation"`` for a point; else the parameter's own name, such as ``"weight"``.
        training: Whether the recorded module was in training mode.
        values: Column -> number; None where nothing was measured. A measured number may be NaN or infinite.
    """

    step: int
    module: str
    parameter: str
    training: bool
    values: Mapping[str, float | None]

    @property
    def name(self) -> str:
        """The point's path, or the parameter's full name.

        Example:
            >>> Record(0, "fc", "weight", True, {"grad_sq_hat": 1.0}).name
            'fc.weight'
            >>> Record(0, "fc", "activation", True, {"q_hat": 1.0}).name
            'fc'
        """
        parts = [self.module] if self.parameter == "activation" else [self.module, self.parameter]
        return ".".join(part for part in parts if part)

    def row(self) -> dict[str, object]:
        """Lay the record out as one row of a table.

        Returns:
            Column -> value: ``step, module, parameter, training``, then the measured columns.

        Example:
            >>> Record(3, "h.0", "activation", True, {"q_hat": 1.0}).row()
            {'step': 3, 'module': 'h.0', 'parameter': 'activation', 'training': True, 'q_hat': 1.0}
        """
        return {**{key: getattr(self, key) for key in KEYS}, **self.values}


def table(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Lay rows out as a table of all columns.

    Args:
        rows: Of `Record.row`.

    Returns:
        ``step, module, parameter, training``, then the measured columns, NaN where there is none.

    Example:
        >>> table([Record(0, "fc", "weight", True, {"grad_sq_hat": 4.0}).row()])["grad_sq_hat"].tolist()
        [4.0]
    """
    measured = [*MOMENTS, *GRADIENT]
    return pd.DataFrame(list(rows), columns=[*KEYS, *measured]).astype(dict.fromkeys(measured, float))


class Logger(Protocol):
    """Takes the records of a step: `JsonLines`, `TensorBoard`, or anything with this method."""

    def log(self, records: Sequence[Record]) -> None:
        """Take all records of one step.

        Args:
            records: In the order of the module's own parts; parameters come last.
        """
