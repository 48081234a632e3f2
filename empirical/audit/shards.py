"""How a module is cut over processes: which parts are gathered together, and which entries a process has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from empirical.audit.sites import is_sharded

LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


@dataclass(frozen=True, eq=False)
class Spans:
    """A set of places in a flattened tensor, as runs of neighbours.

    Args:
        starts: First place of each run, ascending.
        stops: The place behind its last one.
    """

    starts: Tensor
    stops: Tensor

    @classmethod
    def of(cls, index: Tensor) -> Spans:
        """Describe places.

        Args:
            index: Distinct places, of any shape and order.

        Returns:
            The runs.

        Example:
            >>> spans = Spans.of(torch.tensor([[0, 4], [1, 5]]))
            >>> spans.starts.tolist(), spans.stops.tolist()
            ([0, 4], [2, 6])
        """
        places = index.reshape(-1).sort().values
        breaks = torch.nonzero(places.diff() != 1).reshape(-1)
        first, last = torch.zeros(1, dtype=breaks.dtype), torch.tensor([len(places) - 1])
        return cls(places[torch.cat([first, breaks + 1])], places[torch.cat([breaks, last])] + 1)

    def within(self, start: int, stop: int) -> Tensor:
        """Find the places of a shard.

        Args:
            start: Where the shard starts in the flattened tensor.
            stop: Where it stops.

        Returns:
            The places in the flattened shard.

        Example:
            >>> Spans(torch.tensor([0, 4]), torch.tensor([2, 6])).within(1, 5).tolist()
            [0, 3]
        """
        starts, stops = self.starts.clamp(min=start), self.stops.clamp(max=stop)
        lengths = (stops - starts).clamp(min=0)
        before = lengths.cumsum(0) - lengths
        return torch.repeat_interleave(starts - start - before, lengths) + torch.arange(int(lengths.sum()))


def shard_of(rows: int, rank: int, size: int) -> tuple[int, int]:
    """Say which rows a rank has: as `torch.chunk` cuts them, so that the last ranks may have fewer, or none.

    Args:
        rows: Of the tensor.
        rank: The rank.
        size: How many ranks there are.

    Returns:
        First row, and the row behind the last.

    Example:
        >>> [shard_of(5, rank, 4) for rank in range(4)]
        [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    chunk = math.ceil(rows / size)
    return min(rank * chunk, rows), min((rank + 1) * chunk, rows)


def units(module: nn.Module) -> list[nn.Module]:
    """Find the parts whose weights are gathered together: what stands in the module's outermost lists.

    A part that shares a tensor with the rest of the module stays with the rest.

    Args:
        module: The module.

    Returns:
        The parts, layers for the most.

    Example:
        >>> [type(unit).__name__ for unit in units(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))]
        ['Linear']
    """
    everywhere = Counter(id(tensor) for _, tensor in module.named_parameters(remove_duplicate=False))
    found: dict[int, nn.Module] = {}
    for part in _listed(module):
        own = Counter(id(tensor) for _, tensor in part.named_parameters(remove_duplicate=False))
        if own and all(everywhere[tensor] == count for tensor, count in own.items()):
            found.setdefault(id(part), part)
    return list(found.values())


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, LISTS) and type(child).forward is not nn.Module.forward:
            yield child  # something that is called; a list inside of a list is not
        else:
            yield from _listed(child)


def local_part(tensor: Tensor) -> Tensor:
    """Take the part of a tensor that this process has.

    Args:
        tensor: Plain, or spread over processes.

    Returns:
        The part; all of a plain one.

    Example:
        >>> local_part(torch.ones(2)).tolist()
        [1.0, 1.0]
    """
    found: Any = tensor.detach()
    return found.to_local() if is_sharded(tensor) else found
