"""What a reader finds: the architecture of a module, and which of its tensors is which parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.build import Architecture
from meanfield.errors import InputError
from meanfield.ops import Draw, ParameterKey


class UnsupportedModuleError(InputError):
    """A module that is not understood: the message names the first part that is not, and why.

    Args:
        module: Path of the part inside the module, ``""`` for the module itself.
        why: What is not understood, and what to do.
    """

    def __init__(self, module: str, why: str) -> None:
        super().__init__(f"{module or 'the module'}: {why}")
        self.module = module
        self.why = why


@dataclass(frozen=True, eq=False)
class Slot:
    """One parameter tensor of a module, or one part of a packed one, as a parameter of the architecture.

    Args:
        name: The module's own name of the tensor, such as ``"h.3.attn.c_attn.weight"``.
        part: Which part of a packed tensor: ``"q"``, ``"k"``, ``"v"``, ``"gate"``, ``"up"``, ...; None if
            the whole tensor is one parameter.
        key: Layer, module and parameter in the architecture.
        index: Where each entry stands in the flattened tensor, in the shape that the architecture's
            parameter has: (d_in, d_out) for a matrix, (d,) for a vector.
        offset: What the forward pass adds to an entry, 1 for a norm that multiplies by 1 + weight.
    """

    name: str
    part: str | None
    key: ParameterKey
    index: Tensor
    offset: float = 0.0

    @property
    def label(self) -> str:
        """The row's name in tables, ``"h.3.attn.c_attn.weight[q]"`` for a part."""
        return self.name if self.part is None else f"{self.name}[{self.part}]"

    def take(self, tensor: Tensor) -> Tensor:
        """Pick this parameter's entries out of the module's tensor (or out of its gradient).

        Args:
            tensor: The tensor called ``name``, or its gradient.

        Returns:
            The entries, in the shape of ``index``; without the offset.
        """
        return tensor.detach().reshape(-1)[self.index.to(tensor.device)]


@dataclass(frozen=True, eq=False)
class Stream:
    """What one stack reads from a batch, sequence by sequence.

    Args:
        batch: Sequences.
        tokens: Tokens in a sequence.
        ids: Token ids (batch, tokens) where the architecture has an embedding that reads them; else None.
        gram: Second moments per coordinate of the vectors that enter the first layer, (T, T), T = batch *
            tokens; None where ids say all.
        padding: Booleans (batch, tokens), True where a token is real; None where all are.
        features: Tensors that make those vectors linearly, by their labels: K of shape (T, T) with
            E||dL/dtheta||^2 = sum_ij K_ij G_ij, G the gradient kernel of the vectors. Only with ``gram``.
    """

    batch: int
    tokens: int
    ids: NDArray[np.intp] | None = None
    gram: NDArray[np.float64] | None = None
    padding: NDArray[np.bool_] | None = None
    features: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reading:
    """A module as an architecture value.

    Args:
        arch: The architecture, with the variances of the actual weights.
        slots: Every parameter tensor that the forward pass uses, in order of depth; those in ``features`` of
            a stream have a key of layer 0 with their label as module.
        streams: What each stack reads from the batch: one, or source and target.
        shared: Labels of slots that are one tensor used in several places (a tied head, one table for
            encoder and decoder), as groups; the tensor's gradient is that of all its places.
        notes: What the reader found worth saying, one sentence each: cloned layers, shared or dead tensors,
            parameters that the forward pass does not use.
        dependent: Why the theory does not hold for it: layers that are copies of each other or share a
            tensor, constant vectors that prefer a direction. Empty where it does.
        laws: The law of each parameter, as the architecture has it.
        again: Reads another module of the same structure, without a forward pass: its laws, in the same
            architecture. None where the reading was put together by hand.
    """

    arch: Architecture
    slots: tuple[Slot, ...]
    streams: tuple[Stream, ...]
    shared: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    dependent: tuple[str, ...] = ()
    laws: Mapping[ParameterKey, Draw] = field(default_factory=dict)
    again: Callable[[nn.Module], Reading] | None = None

    def tensors(self, module: nn.Module) -> list[tuple[Slot, Tensor]]:
        """Pair every slot with its entries in a module of this structure.

        Args:
            module: The module that was read, or another one of equal structure.

        Returns:
            One pair per slot.
        """
        named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
        return [(slot, slot.take(named[slot.name])) for slot in self.slots]


def whole(name: str, key: ParameterKey, shape: tuple[int, ...], *, transposed: bool = False) -> Slot:
    """Build the slot of a tensor that is one parameter as a whole.

    Args:
        name: The module's own name of the tensor.
        key: The parameter of the architecture.
        shape: The tensor's shape.
        transposed: Whether the architecture has it transposed, as for ``torch.nn.Linear``.

    Returns:
        The slot.

    Example:
        >>> slot = whole("fc.weight", ParameterKey(1, "ffn.up", "weight"), (3, 2), transposed=True)
        >>> tuple(slot.index.shape), slot.index[0].tolist()
        ((2, 3), [0, 2, 4])
    """
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return Slot(name, None, key, index.T if transposed else index)
