"""What a module is called with: the batch by argument names, or one made up."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from empirical.readers.reading import UnsupportedModuleError
from meanfield.errors import InputError

BATCH, TOKENS = 2, 7


def arguments(module: nn.Module, batch: Any) -> dict[str, Any]:
    """Name the arguments of a forward pass.

    Args:
        module: The module.
        batch: A tensor, a tuple of them, or a dictionary of arguments.

    Returns:
        Arguments by name.

    Raises:
        InputError: If it is none of these, or there are more than the module takes.
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    values = batch if isinstance(batch, list | tuple) else (batch,)
    if not all(isinstance(value, Tensor) for value in values):
        raise InputError(
            f"batch is a {type(batch).__name__}: give a tensor, a tuple of tensors, or a dictionary"
        )
    names = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(values) > len(names):
        raise InputError(f"batch has {len(values)} tensors and the module takes {len(names)}: give fewer")
    return dict(zip(names, values, strict=False))


def vectors(given: Mapping[str, Any]) -> list[str]:
    """Which arguments are vectors on which the layers act: floating, (.., .., width), and no mask.

    Args:
        given: Arguments by name.

    Returns:
        Their names.
    """
    return [
        name
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3 and "mask" not in name
    ]


def example(module: nn.Module) -> dict[str, Any]:
    """Make up a batch from what the module says of itself.

    Args:
        module: The module.

    Returns:
        Arguments by name.

    Raises:
        UnsupportedModuleError: If it does not say enough.
    """
    names = list(inspect.signature(module.forward).parameters)
    generator = torch.Generator().manual_seed(0)
    first = names[0] if names else ""
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    config = getattr(module, "config", None)
    size = getattr(config, "image_size", None)
    if "pixel_values" in names and isinstance(size, int):
        shape = BATCH, getattr(config, "num_channels", 3), size, size
        return {"pixel_values": torch.randn(shape, generator=generator)}
    if tables and ("input_ids" in names or first in ("x", "ids", "idx", "tokens", "input", "src")):
        vocab = max(table.num_embeddings for table in tables)
        vocab = getattr(config, "vocab_size", None) or vocab
        low = min(3, vocab - 1)  # the first ids are often those of padding
        ids = torch.randint(low, vocab, (BATCH, TOKENS), generator=generator)
        found = {"input_ids" if "input_ids" in names else first: ids}
        if "decoder_input_ids" in names:
            found["decoder_input_ids"] = torch.randint(low, vocab, (BATCH, TOKENS), generator=generator)
        return found
    width = _width(module)
    if first and width:
        inputs: tuple[str, ...] = ("src", "tgt", "memory")
        wanted = [name for name in inputs if name in names] or [first]
        return {name: torch.randn(BATCH, TOKENS, width, generator=generator) for name in wanted}
    raise UnsupportedModuleError("", "what it reads cannot be guessed: give a batch")


def _width(module: nn.Module) -> int | None:
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):
            return part.embed_dim
        if isinstance(part, nn.LayerNorm):
            return part.normalized_shape[-1]
    for part in module.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
    return None
