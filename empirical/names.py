"""The key columns of a built model: every parameter, every point of a block and every dropout by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from torch import nn

from empirical import layers
from empirical.draws import NamedParameter
from meanfield import ops
from meanfield.errors import InputError
from meanfield.random import stream

Model: TypeAlias = layers.Transformer | layers.EncoderDecoder


def _places(model: Model) -> Iterator[tuple[int, str, nn.Module]]:
    """Yield every module with its layer and the prefix of its name; a shared one once, where it is first."""
    if isinstance(model, layers.Transformer):
        stacks = [("", model)]
    else:
        stacks = [("encoder.", model.encoder), ("decoder.", model.decoder)]
    seen: set[nn.Module] = set()
    for prefix, stack in stacks:
        last = len(stack.layers) + 1
        parts = [(0, stack.embeddings), (0, stack.entry), *enumerate(stack.layers, start=1)]
        for layer, part in [*parts, (last, stack.final_norm), (last, stack.head)]:
            for module in part.modules():
                if module not in seen:
                    seen.add(module)
                    common = isinstance(module, layers.Embedding) and module.common
                    yield layer, "" if common else prefix, module


def points(model: Model) -> list[tuple[ops.ParameterKey, nn.Module]]:
    """List the points at which hidden states are recorded: the outputs of the named ops below the head.

    Args:
        model: A model made by `empirical.build`.

    Returns:
        (key, module whose output it is); the sum of the embeddings, or the input where there is none, is
        called ``input``.
    """
    return [
        (ops.ParameterKey(layer, prefix + module.name, "activation"), module)
        for layer, prefix, module in _places(model)
        if isinstance(module, layers.POINTS)
    ]


def named_parameters(model: Model) -> list[NamedParameter]:
    """List every parameter with its key columns and the law from which it is drawn.

    Args:
        model: A model made by `empirical.build`.

    Returns:
        One entry per tensor, in the order of the layers; a shared one stands where it is first.

    Example:
        >>> import meanfield as mf
        >>> from empirical import build
        >>> [p.key.module for p in named_parameters(build(mf.paper_pre_ln(width=8, depth=1)))][:4]
        ['norm1', 'norm1', 'attention.v', 'norm2']
    """
    return [
        NamedParameter(
            ops.ParameterKey(layer, prefix + module.name, parameter), tensor, module.laws[parameter]
        )
        for layer, prefix, module in _places(model)
        if isinstance(module, layers.DRAWN)
        for parameter, tensor in module.named_parameters(recurse=False)
    ]


def check_names(arch: str, keys: list[ops.ParameterKey]) -> None:
    """Check that no two parameters and no two points have one key.

    Args:
        arch: Name of the architecture, for the message.
        keys: Those of all parameters and points.

    Raises:
        InputError: If two have.
    """
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise InputError(
            f"layer {twice.layer} of {arch} has two ops named {twice.module!r}: give each a name of its own"
        )


def dropouts(model: Model) -> list[layers.Dropout]:
    """List the dropouts that do something, in the order of the layers.

    Args:
        model: A model made by `empirical.build`.

    Returns:
        The modules.
    """
    return [module for _, _, module in _places(model) if isinstance(module, layers.Dropout) and module.rate]


def open_streams(modules: list[layers.Dropout], seed: int) -> None:
    """Set every dropout to the start of its stream of masks.

    Args:
        modules: What `dropouts` lists.
        seed: The seed of the run.
    """
    for k, module in enumerate(modules):
        module.generator = stream(seed, f"dropout{k}")
