"""What a family of foreign models is: fresh modules from a seed, and the batch that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from empirical.losses import READ_THE_HEAD
from meanfield.errors import InputError

SPECIAL_IDS = 4  # that families keep for padding, begin and end
BATCH_SEED = 2020
LOSSES = {"linear": "linear", "tied": "cross_entropy", "untied": "cross_entropy"}
"""The loss of each variant: of the hidden states, or of logits with a tied or an untied head."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that all families share.

    Args:
        width: Size of a token.
        depth: Layers, of each stack.
        heads: Attention heads.
        d_ff: Inner size of the feed-forward sub-layer.
        vocab: Rows of the token embedding.
        batch: Sequences.
        tokens: Tokens in a sequence.
        image: Height and width of an image, of patches of 8 x 8 pixels.
    """

    width: int
    depth: int
    heads: int
    d_ff: int
    vocab: int
    batch: int
    tokens: int
    image: int = 32


SMALL = Sizes(width=64, depth=2, heads=4, d_ff=256, vocab=100, batch=2, tokens=7)
FULL = Sizes(width=512, depth=6, heads=8, d_ff=2048, vocab=1000, batch=2, tokens=32)


@dataclass(frozen=True)
class Model:
    """One kind of module with its input.

    Args:
        make: Builds the module, drawing from torch's global generator.
        batch: The keyword arguments of its forward pass, always the same.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Tensor]]

    def build(self, seed: int) -> nn.Module:
        """Build a fresh module in evaluation mode, all of whose weights depend on the seed alone."""
        torch.manual_seed(seed)
        return self.make().eval()


@dataclass(frozen=True)
class Family:
    """One family of models that others wrote.

    Args:
        name: Its name in tables and files.
        library: Where it comes from, ``"torch"``, ``"transformers"`` or ``"x-transformers"``.
        variants: Its modules by variant: ``"linear"`` gives hidden states, ``"tied"`` and
            ``"untied"`` logits.
    """

    name: str
    library: str
    variants: Mapping[str, Model]

    def __post_init__(self) -> None:
        unknown = set(self.variants) - set(LOSSES)
        if unknown or not self.variants:
            raise InputError(
                f"family {self.name} with variants {sorted(self.variants)}: give some of {[*LOSSES]}"
            )


def generator() -> torch.Generator:
    """Return the stream of all inputs, which is not that of the weights."""
    return torch.Generator().manual_seed(BATCH_SEED)


def _ids(names: tuple[str, ...], sizes: Sizes) -> dict[str, Tensor]:
    stream = generator()
    shape = (sizes.batch, sizes.tokens)
    return {name: torch.randint(SPECIAL_IDS, sizes.vocab, shape, generator=stream) for name in names}


def _vectors(names: tuple[str, ...], sizes: Sizes, width: int) -> dict[str, Tensor]:
    stream = generator()
    return {name: torch.randn(sizes.batch, sizes.tokens, width, generator=stream) for name in names}


def ids(sizes: Sizes, *names: str) -> Callable[[], dict[str, Tensor]]:
    """Return a batch of token ids (batch, tokens) under each name, without those that pad or end."""
    return partial(_ids, names, sizes)


def vectors(sizes: Sizes, *names: str, width: int | None = None) -> Callable[[], dict[str, Tensor]]:
    """Return a batch of vectors N(0, I) (batch, tokens, width) under each name."""
    return partial(_vectors, names, sizes, width or sizes.width)


def output(result: Any) -> Tensor:
    """Return what the loss reads of a module's result: logits, last hidden states, or the first tensor."""
    for name in ("logits", "last_hidden_state"):
        found = getattr(result, name, None)
        if isinstance(found, Tensor):
            return found
    found = result if isinstance(result, Tensor) else result[0]
    if not isinstance(found, Tensor):
        raise InputError(f"a {type(result).__name__} has neither logits nor hidden states: return a tensor")
    return found


def reads_the_head(variant: str) -> bool:
    """Say whether a variant's loss is on logits."""
    return LOSSES[variant] in READ_THE_HEAD
