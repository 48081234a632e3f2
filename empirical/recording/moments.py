"""Sums over tokens and over sequences in O(tokens x width), kept on the device until a step ends."""

from __future__ import annotations

import torch
from torch import Tensor

from empirical.frobenius import norm_by_rows
from meanfield.errors import InputError


class Padding:
    """Which tokens are real, and how many tokens and pairs of them that makes.

    Args:
        mask: Booleans or zeros and ones, (batch, tokens), True where a token is real.

    Raises:
        InputError: If this is no such tensor.

    Example:
        >>> padding = Padding(torch.tensor([[1, 1, 0], [1, 1, 1]]))
        >>> int(padding.tokens), int(padding.pairs)  # 2 + 3, and 2·1 + 3·2
        (5, 8)
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.is_floating_point() or mask.is_complex():
            found = (
                f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            )
            raise InputError(
                f"padding={found} is no mask: give booleans (batch, tokens), True where a token is real"
            )
        with torch.no_grad():
            self.real = mask.detach().bool()
            by_sequence = self.real.sum(1)
            self.tokens = by_sequence.sum()
            self.pairs = (by_sequence * (by_sequence - 1)).sum()

    def on(self, device: torch.device) -> Tensor:
        """Move the mask to a device, once."""
        self.real = self.real.to(device)
        return self.real

    def fits(self, x: Tensor) -> bool:
        """Tell whether the mask has a value for each token of x, (batch, tokens, width)."""
        return self.real.shape == x.shape[:2]


class Totals:
    """Norms of everything that was added at one point, and the numbers of tokens and pairs of tokens.

        token = (sum over tokens ||x_i||²)^(1/2),  sequence = (sum over sequences ||sum_i x_i||²)^(1/2)

    Sums are in float32, in float64 for float64: rows first, which keeps them exact to a few units in the last
    place whatever the number of tokens (one sum over 10⁷ numbers is 10⁻³ off on a CPU). Nothing is fetched
    from the device.

    Example:
        >>> totals = Totals()
        >>> totals.add(torch.tensor([[[1.0, 0.0], [1.0, 2.0]]]), None)  # one sequence of two tokens
        >>> q, cov = totals.moments(*fetch(totals.numbers()))
        >>> round(q, 5), round(cov, 5)  # (1 + 5) / 2 tokens, <x_1, x_2> = 1
        (3.0, 1.0)
    """

    def __init__(self) -> None:
        self.token: Tensor | None = None
        self.sequence: Tensor | None = None
        self.tokens: int | Tensor = 0
        self.pairs: int | Tensor = 0
        self.width = 1

    def add(self, x: Tensor, padding: Padding | None) -> None:
        """Add hidden states or gradients.

        Args:
            x: (batch, tokens, width).
            padding: Which tokens count; all if None.
        """
        with torch.no_grad():
            batch, tokens, self.width = x.shape
            if padding is None:
                self.tokens = self.tokens + batch * tokens
                self.pairs = self.pairs + batch * tokens * (tokens - 1)
            else:
                x = x.masked_fill(~padding.on(x.device)[..., None], 0)  # padded tokens may be NaN
                self.tokens, self.pairs = self.tokens + padding.tokens, self.pairs + padding.pairs
            dtype = torch.promote_types(x.dtype, torch.float32)
            token = norm_by_rows(x, dtype)
            sequence = norm_by_rows(x.sum(1, dtype=dtype), dtype)  # of (batch, width)
            self.token = token if self.token is None else torch.hypot(self.token, token)
            self.sequence = sequence if self.sequence is None else torch.hypot(self.sequence, sequence)

    def numbers(self) -> list[Tensor | float]:
        """List what makes moments: two norms, the number of tokens and that of pairs, not fetched yet.

        Returns:
            The arguments of `moments`.
        """
        norms = [0.0 if norm is None else norm for norm in (self.token, self.sequence)]
        return [*norms, self.tokens, self.pairs]

    @staticmethod
    def moments(token: float, sequence: float, tokens: float, pairs: float) -> tuple[float | None, ...]:
        """Turn fetched numbers into averages, summed over coordinates.

            E||x_i||²,  E<x_i, x_j> over ordered pairs i != j of one sequence

        Args:
            token: Norm over all tokens.
            sequence: Norm over the sums of sequences.
            tokens: Number of tokens.
            pairs: Number of ordered pairs.

        Returns:
            Both averages; None where there is no token or no pair.
        """
        square = token * token
        between = sequence * sequence - square
        return (square / tokens if tokens else None), (between / pairs if pairs else None)


def fetch(numbers: list[Tensor | float]) -> list[float]:
    """Bring numbers to the host at once: one transfer for each device and type.

    Args:
        numbers: Tensors without dimensions; numbers stay as they are.

    Returns:
        Their values, in order.

    Example:
        >>> fetch([torch.tensor(1.5), 3, torch.tensor(2)])
        [1.5, 3, 2]
    """
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = {}
    for k, number in enumerate(numbers):
        if isinstance(number, Tensor):
            groups.setdefault((number.device, number.dtype), {})[k] = number
    values = [0.0 if isinstance(number, Tensor) else number for number in numbers]
    for group in groups.values():
        for k, value in zip(group, torch.stack(list(group.values())).tolist(), strict=True):
            values[k] = value
    return values
