"""The structure of a module beside what a scheme belongs to: placement, factors on sums, last norm."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from empirical.initialization.expected import Stack
from empirical.initialization.features import NORM, SKIP, Features, features
from empirical.initialization.finding import Finding, runs
from empirical.initialization.items import Item
from empirical.initialization.sample import Sample
from empirical.initialization.stacks import layer_name, stacks_of
from empirical.initialization.structure import Difference
from empirical.readers.reading import Reading
from meanfield.initialization import Sizes, deepnorm_constants
from meanfield.ops import Norm, Residual, Sequential
from meanfield.presets.builder import stack as build_stack
from meanfield.presets.options import Options
from meanfield.presets.placements import PLACEMENTS


def placement(reading: Reading, found: list[Stack], scheme: str, said: list[Difference]) -> Iterator[Finding]:
    """Compare norms and factors of skip connections with the placement that a scheme belongs to.

    DeepNorm, Sub-LN and T-Fixup have one; other schemes go with any. Of the factors of a sum only the ratio
    of skip and branch counts, as a norm follows wherever one is not 1.

    Args:
        reading: What was read.
        found: Its stacks.
        scheme: Name of the scheme.
        said: Differences between layers, which are not said twice.

    Yields:
        ``norm_missing``, ``norm_extra``, ``norm_doubled`` and ``skip_scale``, one for each set of layers.
    """
    if scheme not in PLACEMENTS or PLACEMENTS[scheme].init != scheme:
        return
    for stack in found:
        wanted = features(_reference(stack.sizes, scheme))
        layers = {layer: features(block) for layer, block in stack.arch.blocks()}
        deviations: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
        for name in dict.fromkeys(name for own in (*layers.values(), wanted) for name in own):
            known = {
                layer
                for one in said
                if not one.on_purpose and (one.prefix, one.feature) == (stack.prefix, name)
                for layer in one.odd
            }
            left = {layer: own for layer, own in layers.items() if layer not in known}
            for kind, message, odd in _deviations(name, left, wanted, stack.sizes, scheme):
                deviations[kind, message, odd].append(name.removeprefix(NORM))
        for (kind, message, odd), places in deviations.items():
            part = f"{stack.prefix.rstrip('.')} " if stack.prefix else ""
            where = f"{part}{'layer' if len(odd) == 1 else 'layers'} {runs(odd)}"
            names = tuple(name for layer in odd if (name := layer_name(reading, stack.prefix, layer)))
            yield Finding(kind, names, f"{where}, {' and '.join(places)}: {message}")


def _deviations(
    name: str, layers: dict[int, Features], wanted: Features, sizes: Sizes, scheme: str
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Kind, message and layers of each value of one feature that is not the wanted one."""
    odd: dict[tuple[str, str], list[int]] = defaultdict(list)
    for layer, own in layers.items():
        if name.startswith(NORM) and " on " not in name:
            count, right = _number(own.get(name, 0)), _number(wanted.get(name, 0))
            if count != right:
                kind = "norm_missing" if count < right else "norm_doubled" if count > 1 else "norm_extra"
                odd[kind, f"{count or 'no'} norm, {scheme} has {right or 'none'} there"].append(layer)
        elif name.startswith(SKIP) and name in wanted:
            ratio, alpha = _ratio(own.get(name)), _ratio(wanted[name])
            if ratio and alpha and not math.isclose(ratio, alpha, rel_tol=1e-3):
                cause = _alpha(ratio, sizes) if scheme == "deepnorm" else ""
                odd["skip_scale", f"factor {ratio:.4g}, {scheme} has {alpha:.4g}{cause}"].append(layer)
    for (kind, message), several in odd.items():
        yield kind, message, tuple(several)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _ratio(value: object) -> float | None:
    """Factor on the skip connection over that on the branch; None where there is none."""
    return float(value[0] / value[1]) if isinstance(value, tuple) and value[1] else None


def _reference(sizes: Sizes, scheme: str) -> Sequential:
    options = Options(
        heads=sizes.heads,
        kv_heads=sizes.heads * sizes.kv_width // sizes.q_width,
        head_size=sizes.head_size,
        d_ff=sizes.d_ff,
    )
    built = build_stack(
        PLACEMENTS[scheme],
        name=scheme,
        width=sizes.width,
        depth=sizes.depth,
        options=options,
        part=sizes.stack,
        other_depth=sizes.other_depth,
    )
    return built.layers[0].block


def _alpha(alpha: float, sizes: Sizes) -> str:
    """Explain a wrong alpha."""
    depth = alpha**4 / 2
    if math.isclose(alpha, 1.0, rel_tol=1e-6):
        return ": alpha is missing, as in plain Post-LN"
    if sizes.stack != "alone" and math.isclose(alpha, (2 * sizes.depth) ** 0.25, rel_tol=1e-3):
        return ": that of a stack alone, and this is one of a pair"
    if math.isclose(alpha, deepnorm_constants(sizes)[1], rel_tol=1e-3):
        return ": that is beta, the gain of the weights"
    if math.isclose(alpha, (2 * sizes.depth) ** -0.25, rel_tol=1e-3):
        return ": the exponent has the wrong sign"
    if round(depth) >= 1 and math.isclose(depth, round(depth), rel_tol=2e-3):
        return f": alpha = {alpha:.4g} is right for N = {round(depth)} layers alone, here are {sizes.depth}"
    return ""


def last_norm(reading: Reading, samples: dict[Item, Sample]) -> Iterator[Finding]:
    """Look at what follows the last layer: a norm that Pre-LN needs, or one too many.

    Args:
        reading: What was read.
        samples: Samples of all tensors: gains of 1 that the output does not depend on may be the last norm,
            of a pooled output.

    Yields:
        ``norm_missing`` where layers norm their branches alone and nothing norms the sum; ``last_norm``, a
        note, where the last layer ends in a norm already, or the norm acts on another output.
    """
    spare = [
        item.label
        for item, sample in samples.items()
        if item.key is None and not item.matrix and sample.law == "constant" and sample.mean == 1
    ]
    for prefix, stack in stacks_of(reading):
        *_, (depth, block) = stack.blocks()
        inside = any(name.startswith(f"{NORM}before") for name in features(block))
        part = f"{prefix.rstrip('.')} " if prefix else ""
        if inside and stack.final_norm is None and isinstance(block.ops[-1], Residual):
            message = (
                f"no norm follows the last of the {depth} {part}layers, whose norms stand inside the "
                "branches: the output is the sum of all of them and grows with the depth"
            )
            if spare:
                yield Finding("last_norm", tuple(spare), f"{message}; {spare[0]} is for another output")
            else:
                yield Finding("norm_missing", (layer_name(reading, prefix, depth),), message)
        elif isinstance(block.ops[-1], Norm) and isinstance(stack.final_norm, Norm):
            names = tuple(slot.label for slot in reading.slots if slot.key.module == f"{prefix}final_norm")
            message = (
                f"the last {part}layer ends in a norm and another one follows: at first the second changes "
                "nothing, as in torch.nn.Transformer"
            )
            yield Finding("last_norm", names, message)
