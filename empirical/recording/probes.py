"""One point during one step: what passed it, in which order of dimensions, and whether it is a point."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from empirical.recording.moments import Padding, Totals
from empirical.recording.points import Point
from meanfield.errors import InputError

FORWARD, BACKWARD = "forward", "backward"


def hidden_state(output: object) -> Tensor | None:
    """Take the hidden state out of what a module returns.

    Args:
        output: A tensor, or a tuple or list that starts with one.

    Returns:
        The tensor, (batch, tokens, width) in some order or (tokens, width); None where there is none.

    Example:
        >>> hidden_state((torch.zeros(2, 3, 4), None)).shape
        torch.Size([2, 3, 4])
        >>> hidden_state(torch.zeros(2, dtype=torch.int64)) is None
        True
    """
    x = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return None
    return x if x.is_floating_point() and x.ndim in {2, 3} else None


class Probe:
    """What passed one point since the last end of a step.

    Args:
        point: The point. A part of a block is on trial until `settle` has seen it beside the blocks, and its
            totals are kept in both orders where only the blocks can tell the right one.
    """

    def __init__(self, point: Point) -> None:
        self.point = point
        self.on_trial = point.place == "part"
        self.rejected = self.given = False
        self.handle: RemovableHandle | None = None
        order = None if self.on_trial and point.assumed else point.batch_first
        self.orders: tuple[bool, ...] = (True, False) if order is None else (order,)
        self.clear()

    def clear(self) -> None:
        """Forget what passed."""
        self.shapes: set[tuple[int, ...]] = set()
        self.totals: dict[tuple[bool, bool, str], Totals] = {}

    def remove(self) -> None:
        """Take the hook off the module."""
        if self.handle is not None:
            self.handle.remove()

    def reject(self, output: object) -> None:
        """Note that a module gave no hidden state: it is a point if it gave one before.

        Args:
            output: What it gave.

        Raises:
            InputError: If the user named the point.
        """
        if self.point.place == "named":
            found = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"point {self.point.path!r} gives {found}: a point gives floating (batch, tokens, width), "
                "or a tuple that starts with it"
            )
        self.rejected = not self.given

    def add(self, x: Tensor, direction: str, training: bool, padding: Padding | None) -> None:
        """Add a hidden state, or the gradient of one.

        Args:
            x: As the module gave it.
            direction: ``"forward"`` or ``"backward"``.
            training: Whether the pass was in training mode.
            padding: Which tokens are real.

        Raises:
            InputError: If the mask has another shape and this is a point for certain.
        """
        if x.is_nested:  # as torch.nn's encoder makes it in evaluation, of sequences without their padding
            x, padding = _padded(x)
        self.given = True
        self.shapes.add(tuple(x.shape))
        orders = [k for k in self.orders if padding is None or padding.fits(_ordered(x, k))]
        if not orders and padding is not None and not self.on_trial:
            raise InputError(
                f"{self.point.path or 'the module'} gives {tuple(x.shape)} and the padding is "
                f"{tuple(padding.real.shape)}: give padding(mask, module) for each part with its own tokens"
            )
        self.rejected = self.rejected or not orders
        for order in orders:
            totals = self.totals.setdefault((training, order, direction), Totals())
            totals.add(_ordered(x, order), padding)

    def has(self, training: bool) -> bool:
        """Tell whether anything passed, and the order of dimensions is known."""
        return not self.on_trial and any(mode == training for mode, *_ in self.totals)

    def both(self, training: bool) -> tuple[Totals, Totals]:
        """Give the totals of hidden states and of gradients; nothing in them where nothing passed.

        Args:
            training: Of passes in which mode.

        Returns:
            Forward and backward.
        """
        order = self.orders[0]
        forward, backward = (self.totals.get((training, order, k), Totals()) for k in (FORWARD, BACKWARD))
        return forward, backward


def settle(probes: list[Probe], ids: set[tuple[int, ...]]) -> list[Probe]:
    """Find which parts are points and in which order their dimensions are, by the shapes that blocks gave.

    Args:
        probes: After some passes.
        ids: Shapes of two-dimensional integers that the module was called with, taken for (batch, tokens).

    Returns:
        Those that are points; a part that was not called yet stays on trial. The others lose their hooks.

    Raises:
        InputError: If no block gives hidden states, or the order of dimensions is ambiguous.
    """
    blocks = [probe for probe in probes if probe.point.place == "block" and not probe.rejected]
    shapes = {_turned(shape, block.orders[0]) for block in blocks for shape in block.shapes}
    if not shapes and any(probe.point.place == "block" and probe.rejected for probe in probes):
        raise InputError(
            "no block gives (batch, tokens, width), alone or first of a tuple: name the points, as "
            "points=['path.of.a.module']"
        )
    for block in blocks:
        if block.point.assumed:
            _compare(block, ids)
    for probe in probes:
        if probe.on_trial and shapes and probe.shapes and not probe.rejected:
            _try(probe, shapes)
        if probe.rejected:
            probe.remove()
    return [probe for probe in probes if not probe.rejected]


def _try(probe: Probe, blocks: set[tuple[int, ...]]) -> None:
    fitting = [order for order in probe.orders if {_turned(s, order) for s in probe.shapes} <= blocks]
    if len(fitting) > 1 and not probe.point.assumed:
        raise InputError(
            f"{probe.point.path} gives {min(probe.shapes)}, as many sequences as tokens, beside blocks with "
            "batch_first=False: give batch_first= for the points outside these blocks, or name points"
        )
    probe.rejected = not fitting
    probe.orders = tuple(fitting[:1]) or probe.orders
    probe.on_trial = False


def _compare(block: Probe, ids: set[tuple[int, ...]]) -> None:
    """Refuse hidden states that are transposed beside the ids, where batch_first was assumed."""
    for first, second, *_ in block.shapes:
        if (second, first) in ids and (first, second) not in ids:
            raise InputError(
                f"{block.point.path} gives ({first}, {second}, ...) for ids ({second}, {first}): give "
                "batch_first=False if its tokens lie along the first dimension, batch_first=True if not"
            )


def _padded(x: Tensor) -> tuple[Tensor, Padding]:
    """Turn sequences of several lengths into (batch, tokens, width) and a mask."""
    lengths = torch.tensor([sequence.shape[0] for sequence in x.unbind()])
    x = torch.nested.to_padded_tensor(x, 0.0)
    return x, Padding(torch.arange(x.shape[1]) < lengths[:, None])


def _ordered(x: Tensor, batch_first: bool) -> Tensor:
    """View as (batch, tokens, width); (tokens, width) is one sequence."""
    if x.ndim == 2:
        return x[None]
    return x if batch_first else x.transpose(0, 1)


def _turned(shape: tuple[int, ...], batch_first: bool) -> tuple[int, ...]:
    return shape if batch_first or len(shape) == 2 else (shape[1], shape[0], shape[2])
