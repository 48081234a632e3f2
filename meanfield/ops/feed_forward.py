"""The feed-forward op, plain or gated."""

from __future__ import annotations

from dataclasses import dataclass

from meanfield.errors import InputError, UnknownNameError
from meanfield.ops.base import Op
from meanfield.ops.token_maps import ACTIVATIONS, Linear


@dataclass(frozen=True, slots=True)
class FeedForward(Op):
    """The position-wise network x -> down(activation(up(x))), or down(activation(gate(x)) * up(x)).

    Args:
        name: Module name in tables, ``"ffn"``.
        up: First linear map.
        activation: Name of the non-linearity, one of `ACTIVATIONS`.
        down: Second linear map.
        gate: Second branch of a gated network, which the activation then acts on (GLU: sigmoid, GEGLU: gelu,
            SwiGLU: silu); None for a plain one.
        inner: What acts on the hidden layer before ``down`` (a norm, dropout), or None.

    Raises:
        InputError: If the sizes do not fit together or the activation is unknown.
    """

    name: str
    up: Linear
    activation: str
    down: Linear
    gate: Linear | None = None
    inner: Op | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UnknownNameError("activation", self.activation, ACTIVATIONS)
        if self.up.d_out != self.down.d_in:
            raise InputError(
                f"up gives {self.up.d_out} features and down takes {self.down.d_in}: make them equal"
            )
        if self.gate is not None and (self.gate.d_in, self.gate.d_out) != (self.up.d_in, self.up.d_out):
            raise InputError(
                f"gate maps {self.gate.d_in} to {self.gate.d_out} features and up {self.up.d_in} to "
                f"{self.up.d_out}: make them equal"
            )
