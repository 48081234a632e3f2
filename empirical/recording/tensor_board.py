"""Records as scalars of TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from empirical.recording.records import Record
from meanfield.errors import InputError


class Writer(Protocol):
    """What is used of ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Add a number to a curve."""

    def flush(self) -> object:
        """Write what was added to disk."""


class TensorBoard:
    """One curve for each column and point, named ``column/path``: layers of one column stand side by side.

    Curves of evaluation passes are named ``column_eval/path``. Numbers that are not finite are written as
    they are; what was not measured is not written.

    Args:
        writer: A ``SummaryWriter``, or the folder for a new one.

    Raises:
        InputError: If a folder is given and the package tensorboard is not installed.

    Example:
        >>> class Printer:
        ...     def add_scalar(self, tag, value, step):
        ...         print(tag, value, step)
        ...
        ...     def flush(self):
        ...         pass
        >>> TensorBoard(Printer()).log([Record(3, "h.0", "activation", True, {"q_hat": 1.5})])
        q_hat/h.0 1.5 3
    """

    def __init__(self, writer: Writer | Path | str) -> None:
        self.writer = _writer(writer) if isinstance(writer, Path | str) else writer

    def log(self, records: Sequence[Record]) -> None:
        """Write the records of one step.

        Args:
            records: The records.
        """
        for record in records:
            suffix = "" if record.training else "_eval"
            for column, value in record.values.items():
                if value is not None:
                    self.writer.add_scalar(f"{column}{suffix}/{record.name}", value, record.step)
        self.writer.flush()


def _writer(folder: Path | str) -> Writer:
    try:
        from torch.utils.tensorboard import SummaryWriter  # an extra
    except ImportError as error:
        raise InputError(
            "TensorBoard(folder) needs the package tensorboard: "
            "python -m pip install 'meanfield-transformers[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))
