"""How large token embeddings enter the first layer: times sqrt(d) where they are drawn for it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from empirical.initialization.expected import Stack
from empirical.initialization.finding import Finding
from empirical.initialization.items import Item
from empirical.initialization.sample import Sample
from empirical.initialization.stacks import stacks_of
from empirical.readers.reading import Reading
from meanfield.ops import Norm, Transformer, walk

_SCALED = ("fairseq", "t_fixup", "xavier_normal", "xavier_uniform")
"""Schemes whose embeddings of variance 1/d are multiplied by sqrt(d) in the models that they come from."""


def unscaled(found: list[Stack], samples: dict[Item, Sample], scheme: str) -> Iterator[Finding]:
    """Look for embeddings drawn for a factor sqrt(d) that nothing applies.

        (factor in the forward pass)^2 Var(entry) / (d times the scheme's variance) outside (1/2, 2)

    Args:
        found: The stacks of a reading.
        samples: Samples of all tensors.
        scheme: Name of the scheme.

    Yields:
        ``embedding_scale``, for the schemes of models that multiply, where no norm follows the embedding.
    """
    for stack in found:
        item = _table(samples, stack.prefix, "embedding")
        if scheme not in _SCALED or item is None or stack.arch.embedding is None or _normed(stack.arch):
            continue
        factor, root = float(stack.arch.embedding.scale), math.sqrt(stack.sizes.width)
        share = samples[item].variance * factor**2 / (float(stack.law.embedding.variance) * stack.sizes.width)
        if not 1 / 2 < share < 2:
            message = (
                f"{item.label} has variance {samples[item].variance:.3g} and enters with the factor "
                f"{factor:.4g}: its square is {share:.3g} of what {scheme} has with a factor sqrt(d) = "
                f"{root:.4g}"
            )
            yield Finding("embedding_scale", (item.label,), message)


def drowned(reading: Reading, samples: dict[Item, Sample]) -> Iterator[Finding]:
    """Look for token embeddings that are d/4 times smaller than the positions that are added to them.

    Args:
        reading: What was read.
        samples: Samples of all tensors.

    Yields:
        ``embedding_scale``.
    """
    for prefix, stack in stacks_of(reading):
        token, position = _table(samples, prefix, "embedding"), _table(samples, prefix, "position")
        if token is None or position is None or stack.embedding is None or stack.position is None:
            continue
        own = samples[token].variance * float(stack.embedding.scale) ** 2
        other = samples[position].variance * float(stack.position.scale) ** 2
        if 0 < own < 4 / stack.width * other:
            message = (
                f"{token.label} enters with variance {own:.3g} beside {other:.3g} of {position.label}: a "
                f"factor sqrt(d) = {math.sqrt(stack.width):.4g} on the tokens is missing, or their table is "
                "drawn too small"
            )
            yield Finding("embedding_scale", (token.label,), message)


def _table(samples: dict[Item, Sample], prefix: str, module: str) -> Item | None:
    """The table of a stack; one that both stacks of a pair read has no prefix."""
    found = {item.key.module: item for item in samples if item.key is not None}
    return found.get(prefix + module, found.get(module))


def _normed(stack: Transformer) -> bool:
    return stack.entry is not None and any(isinstance(op, Norm) for op in walk(stack.entry))
