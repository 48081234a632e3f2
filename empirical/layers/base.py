"""What the modules of a stack read besides their input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What attention reads besides the tokens that it acts on.

    Args:
        padding: Which tokens are real, (batch, tokens) of bool; None for all.
        memory: The encoder's output, (batch, source tokens, width), for cross-attention.
        memory_padding: Which tokens of the memory, which are those of the source, are real; None for all.
    """

    padding: Tensor | None = None
    memory: Tensor | None = None
    memory_padding: Tensor | None = None


ALONE = Context()
"""All tokens are real, and there is no encoder."""
