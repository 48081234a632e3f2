"""What a check finds, and how tensors are named in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from empirical.initialization.items import Item

FAULTS: dict[str, str] = {
    "not_finite": "NaN or infinite entries",
    "meta": "tensors on the meta device: no numbers yet",
    "dead": "a matrix that is 0",
    "constant": "a matrix whose entries are all equal",
    "dtype": "another type than the same parameter has in the other layers",
    "shared": "one tensor in several places of the layers",
    "cloned_layers": "layers that are equal bit for bit",
    "equal_tensors": "two tensors that are equal bit for bit",
    "value": "a bias or gain that is not the constant it should be",
    "variance": "a variance that is not the scheme's",
    "mean": "a mean that is not the scheme's, or not 0",
    "peers": "a variance that is not that of the other layers",
    "not_independent": "rows, columns or directions too uneven for independent entries",
    "norm_missing": "a norm that the other layers, or the scheme's placement, have",
    "norm_doubled": "two norms in a row",
    "norm_extra": "a norm where the other layers, or the scheme's placement, have none",
    "layer_differs": "a layer that computes something else than the others",
    "skip_scale": "a factor on the skip connection that is not the scheme's",
    "embedding_scale": "token embeddings that enter far too small or too large",
    "unread": "the reader does not understand the module: what needs its structure was not checked",
}
"""Kinds of faults."""

NOTES: dict[str, str] = {
    "tied": "one table for several purposes, such as embedding and head",
    "depth_scaled": "a variance that changes smoothly with the layer",
    "law": "the right variance, and another law than expected",
    "padding": "rows of a table that are 0",
    "zero_table": "a table of zeros that is added to the tokens or the scores: it says nothing at first",
    "layers_vary": "layers of two kinds, in runs or in a period",
    "last_norm": "a norm after a layer that ends in one, or for another output than the one that was read",
    "unused": "tensors that the output does not depend on",
    "skipped": "tensors that are no floating-point numbers",
}
"""Kinds of notes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Args:
        kind: A key of `FAULTS`, or of `NOTES` where it is none.
        names: The module's own names of the tensors, or of the part of the module.
        message: What was found, what was expected, and why it may be so: one sentence or two.
    """

    kind: str
    names: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.kind}: {self.message}"


def runs(numbers: Iterable[int]) -> str:
    """Write numbers in runs.

    Args:
        numbers: Layers, in any order.

    Returns:
        The text.

    Example:
        >>> runs([3, 1, 2, 7])
        '1-3, 7'
    """
    ordered = sorted(set(numbers))
    starts = [k for k in ordered if k - 1 not in ordered]
    ends = [k for k in ordered if k + 1 not in ordered]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def layers_of(items: Iterable[Item]) -> str:
    """Write the layers of items: ``"layer 2"`` or ``"layers 1-3, 7"``; empty where there are none.

    Args:
        items: Items.

    Returns:
        The text.
    """
    numbers = {item.layer for item in items if item.layer is not None}
    return f"{'layer' if len(numbers) == 1 else 'layers'} {runs(numbers)}" if numbers else ""


def named(items: list[Item]) -> str:
    """Name a group of items in words: the tensor's own name, or roles with their layers.

    Args:
        items: At least one.

    Returns:
        The text.
    """
    if len(items) == 1:
        return items[0].label
    roles = list(dict.fromkeys(item.role for item in items))
    where = layers_of(items)
    what = ", ".join(roles) if len(roles) <= 4 else f"{len(items)} tensors ({', '.join(roles[:3])}, ...)"
    return f"{what} of {where}" if where and not all("*" in role for role in roles) else what


def labels(items: Iterable[Item]) -> tuple[str, ...]:
    """List the names of items.

    Args:
        items: Items.

    Returns:
        Their labels.
    """
    return tuple(item.label for item in items)
