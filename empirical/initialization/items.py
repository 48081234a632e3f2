"""The tensors of a module one by one, each with its place: what it is, and in which layer.

A reading says which parameter of the architecture a tensor, or a part of it, is. What it does not cover, or
all if there is no reading, is placed by its name: tensors whose names differ in one number are each other's
peers, and the number counts layers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from empirical.readers.reading import Reading, Slot
from meanfield.ops import EncoderDecoder, ParameterKey

Kind: TypeAlias = Literal["weight", "bias", "gain", "shift", "factor", "table", "vector"]

_NORM = re.compile(r"(norm\d*|[qkv]_norm|final_norm|embedding_norm)")
_FACTOR = re.compile(r"(gain\d+|head_scale)")
_TABLE = re.compile(r"(embedding|position|segment|relative_bias)")


@dataclass(frozen=True, eq=False)
class Item:
    """A parameter tensor of a module, or a part of one that is packed.

    Args:
        label: Its name in tables, ``"h.3.attn.c_attn.weight[q]"`` for a part.
        kind: What it does; ``"vector"`` where it has one axis and nobody knows.
        role: What its peers in other layers have in common with it: module and parameter, or the name without
            the layer's number.
        family: The stack of layers that it is in, or the name of the list of layers.
        layer: From 1; None where nothing counts layers, 0 before the first and depth + 1 after the last.
        source: The module's tensor.
        key: The architecture's parameter, or None.
        slot: Where the entries are in ``source``; None for all of it.
    """

    label: str
    kind: Kind
    role: str
    family: str
    layer: int | None
    source: Tensor
    key: ParameterKey | None = None
    slot: Slot | None = None

    @property
    def name(self) -> str:
        """The module's own name of the tensor."""
        return self.label if self.slot is None else self.slot.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the entries, (d_in, d_out) where a reading has it."""
        return tuple(self.source.shape if self.slot is None else self.slot.index.shape)

    @property
    def matrix(self) -> bool:
        """Whether it has two axes or more; a token of shape (1, 1, width) has one."""
        return sum(size > 1 for size in self.shape) > 1

    @property
    def dtype(self) -> str:
        """Name of the type of its entries."""
        return str(self.source.dtype).removeprefix("torch.")

    def entries(self) -> Tensor:
        """The entries as the forward pass uses them: with 1 added where the norm adds it."""
        if self.slot is None:
            return self.source.detach()
        values = self.slot.take(self.source)
        return values.double() + self.slot.offset if self.slot.offset else values


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """List every parameter under each of its names.

    Args:
        module: Any module.

    Returns:
        Tensors by name; a shared one under all its names.
    """
    return dict(module.named_parameters(remove_duplicate=False))


def storage(tensor: Tensor) -> tuple[object, ...]:
    """Name the memory that a tensor lies in, so that two names of one tensor are found.

    Args:
        tensor: The tensor.

    Returns:
        Equal for tensors that are the same numbers in memory.
    """
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return (id(tensor),)
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands, by its name: role, family and layer as in `Item`."""

    role: str
    family: str
    layer: int | None


def places(names: Iterable[str]) -> dict[str, Place]:
    """Place tensors by their names alone: the first number that varies among equal names counts layers.

    Args:
        names: Names of tensors.

    Returns:
        Their places.

    Example:
        >>> places(["0.layers.0.up.weight", "0.layers.1.up.weight"])["0.layers.1.up.weight"]
        Place(role='0.layers.*.up.weight', family='0.layers', layer=2)
    """
    found = {name: list(_readings(name)) for name in names}
    counts = Counter(place.role for several in found.values() for place in several)
    # A wrapper has a number too, always the same.
    return {
        name: next((place for place in several if counts[place.role] > 1), Place(name, "", None))
        for name, several in found.items()
    }


def _readings(name: str) -> Iterator[Place]:
    """Take each number of a name for that of the layer in turn."""
    parts = name.split(".")
    for k, part in enumerate(parts):
        if part.isdecimal():
            yield Place(".".join([*parts[:k], "*", *parts[k + 1 :]]), ".".join(parts[:k]), int(part) + 1)


def items_by_name(module: nn.Module) -> list[Item]:
    """Place every parameter of a module by its name alone; a shared tensor stands under its first name.

    Args:
        module: Any module.

    Returns:
        One item per tensor of floating-point numbers.

    Example:
        >>> layers = nn.ModuleList(nn.Linear(2, 3) for _ in range(2))
        >>> [(item.label, item.role, item.layer) for item in items_by_name(nn.Sequential(layers))][2:]
        [('0.1.weight', '0.*.weight', 2), ('0.1.bias', '0.*.bias', 2)]
    """
    tensors = named_tensors(module)
    where = places(tensors)
    shapes: dict[str, set[torch.Size]] = {}
    for name, place in where.items():
        shapes.setdefault(place.role, set()).add(tensors[name].shape)
    uneven = {place.family for place in where.values() if len(shapes[place.role]) > 1}
    items = []
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point():
            # What has one name and several shapes is no list of equal layers.
            place = where[name] if where[name].family not in uneven else Place(name, "", None)
            item = Item(name, "vector", place.role, place.family, place.layer, tensor)
            items.append(replace(item, kind="weight") if item.matrix else item)
    return items


def items_of(module: nn.Module, reading: Reading) -> list[Item]:
    """Place every parameter of a module by a reading, and what the reading does not cover by its name.

    Args:
        module: The module that was read.
        reading: What was read.

    Returns:
        The items, those of the reading first.
    """
    tensors = named_tensors(module) | dict(module.named_buffers())
    pair = isinstance(reading.arch, EncoderDecoder)
    items = []
    for slot in reading.slots:
        key, source = slot.key, tensors[slot.name]
        stack = key.module.partition(".")[0] + "." if pair else ""
        item = Item(
            slot.label, "vector", f"{key.module} {key.parameter}", stack, key.layer, source, key, slot
        )
        items.append(replace(item, kind=_kind(item, stack)))
    covered = {storage(item.source) for item in items}
    return items + [item for item in items_by_name(module) if storage(item.source) not in covered]


def _kind(item: Item, stack: str) -> Kind:
    assert item.key is not None
    module, parameter = item.key.module.removeprefix(stack), item.key.parameter
    last = module.rpartition(".")[2]
    if item.key.module == item.label:  # what makes the input vectors is named by its label
        return "weight" if item.matrix else "vector"
    if _NORM.fullmatch(last):
        return "gain" if parameter == "weight" else "shift"
    if _FACTOR.fullmatch(last):
        return "factor"
    if _TABLE.fullmatch(last):
        return "table"
    return "bias" if parameter == "bias" else "weight"


def in_layers(items: list[Item]) -> list[Item]:
    """Keep the items that belong to a layer.

    Args:
        items: All items.

    Returns:
        Those with peers: neither embedding, nor last norm, nor head.
    """
    return [
        item
        for item in items
        if item.layer and not (item.key and re.search(r"(^|\.)(final_norm|head)$", item.key.module))
    ]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors hold the same numbers.

    Args:
        a: A tensor.
        b: Another.

    Returns:
        Whether shape, type and all entries agree.
    """
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.to("cpu"), b.to("cpu"))
