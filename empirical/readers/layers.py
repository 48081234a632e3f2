"""From the steps of a whole stack to layers: what comes before the first, and what follows the last."""

from __future__ import annotations

from dataclasses import dataclass

from empirical.readers.assemble import Assembler
from empirical.readers.reading import UnsupportedModuleError
from empirical.readers.structure import Add, Attend, Gate, Single, Step, Steps
from empirical.readers.terms import Activated, Capped, Gained, Map, Normed, Scaled
from meanfield import ops


@dataclass(frozen=True, eq=False, slots=True)
class Stack:
    """A stack in parts, not yet ops.

    Attributes:
        entry: Steps before the first layer.
        blocks: The steps of each layer.
        after: Steps after the last layer, without the head.
        head: The head: what it does first, its map, and what acts on logits.
    """

    entry: Steps
    blocks: tuple[Steps, ...]
    after: Steps
    head: Steps


def attends(step: Step) -> bool:
    """Whether a step holds self-attention."""
    match step:
        case Attend(memory=memory):
            return memory is None
        case Add(branches=branches):
            return any(attends(inner) for _, steps in branches for inner in steps)
        case Gate(first=first, second=second):
            return any(attends(inner) for inner in (*first, *second))
        case _:
            return False


def parted(steps: Steps, width: int) -> Stack:
    """Part the steps of a stack into layers: each begins where tokens attend to each other.

    Args:
        steps: All steps, from the input to the output.
        width: Size of a token.

    Returns:
        The parts.

    Raises:
        UnsupportedModuleError: If there is no attention.
    """
    starts = [k for k, step in enumerate(steps) if attends(step)]
    if not starts:
        raise UnsupportedModuleError("", "it has no self-attention: only Transformers are read")
    # Sums before the first self-attention, of cross-attention or a feed-forward op, begin each layer.
    first = next((k for k, step in enumerate(steps[: starts[0]]) if isinstance(step, Add)), starts[0])
    starts = [k - (starts[0] - first) for k in starts]
    last = [*starts[1:], len(steps)]
    blocks = [steps[a:b] for a, b in zip(starts, last, strict=True)]
    tail = _tail(blocks, width)
    body, rest = blocks[-1][: len(blocks[-1]) - tail], blocks[-1][len(blocks[-1]) - tail :]
    maps = [k for k, step in enumerate(rest) if _is_map(step)]
    if not maps or (_size(rest[maps[-1]]) == width and len(maps) == 1):
        return Stack(steps[: starts[0]], (*blocks[:-1], body), rest, ())
    first = next(k for k, step in enumerate(rest) if not _is_norm(step) and not _is_gain(step))
    return Stack(steps[: starts[0]], (*blocks[:-1], body), rest[:first], rest[first:])


def _tail(blocks: list[Steps], width: int) -> int:
    """How many steps of the last block follow the last layer."""
    final = blocks[-1]
    if len(blocks) > 1 and len(blocks[-2]) <= len(final):
        return len(final) - len(blocks[-2])
    # One layer: a norm behind the last sum is the layer's own where the first sum has one too.
    sums = [k for k, step in enumerate(final) if isinstance(step, Add)]
    normed = [k + 1 < len(final) and _is_norm(final[k + 1]) for k in sums]
    end = (sums[-1] if sums else 0) + 1
    own = len(sums) > 1 and normed[0] and normed[-1]
    return len(final) - end - (1 if own else 0)


def _is_norm(step: Step) -> bool:
    return isinstance(step, Single) and isinstance(step.term, Normed)


def _is_gain(step: Step) -> bool:
    return isinstance(step, Single) and isinstance(step.term, Gained)


def _is_map(step: Step) -> bool:
    return isinstance(step, Single) and isinstance(step.term, Map)


def _is_factor(step: Step) -> bool:
    return isinstance(step, Single) and isinstance(step.term, Scaled)


def _factor(step: Step) -> float:
    assert isinstance(step, Single)
    assert isinstance(step.term, Scaled)
    return step.term.factor


def _size(step: Step) -> int:
    assert isinstance(step, Single)
    return step.term.width


def transformer(
    stack: Stack, made: Assembler, *, tables: dict[str, ops.Embedding], tied_to: str | None, init: str
) -> ops.Transformer:
    """Turn a stack into an architecture.

    Args:
        stack: The stack.
        made: Collects parameters.
        tables: Embeddings by their names in `meanfield.ops.Transformer`.
        tied_to: Name of the token embedding's tensor: a head that uses it is tied.
        init: Name of the initialisation.

    Returns:
        The architecture.

    Raises:
        UnsupportedModuleError: If something follows the last layer that has no place there.
    """
    made.start(0)
    entry = _entry(stack.entry, made)
    runs: list[ops.Repeat] = []
    for layer, steps in enumerate(stack.blocks, start=1):
        made.start(layer)
        block = ops.Sequential(tuple(made.series(steps)))
        if runs and runs[-1].block == block:
            runs[-1] = ops.Repeat(block, runs[-1].times + 1)
        else:
            runs.append(ops.Repeat(block, 1))
    if not any(isinstance(op, ops.FeedForward) for op in ops.walk(runs[0])):
        raise UnsupportedModuleError("", "a stack whose layers have no feed-forward op")
    made.start(len(stack.blocks) + 1)
    final = _final(stack.after, made)
    head = _head(stack.head, made, tied_to) if stack.head else None
    return ops.Transformer(
        "read", placement(runs[0].block), init, tuple(runs), final, tables.get("embedding"), head,
        tables.get("position"), tables.get("segment"), entry,
    )  # fmt: skip


def _entry(steps: Steps, made: Assembler) -> ops.Op | None:
    found: list[ops.Op] = []
    for step in steps:
        if isinstance(step, Single) and isinstance(step.term, Normed):
            found.append(made.norm(step.term, made.name("embedding_norm")))
        else:
            found.append(made.one(step, ""))
    if not found:
        return None
    return found[0] if len(found) == 1 else ops.Sequential(tuple(found))


def _final(steps: Steps, made: Assembler) -> ops.Op | None:
    """What follows the last layer: a norm as a rule, factors, a projection."""
    found: list[ops.Op] = []
    for step in steps:
        if not isinstance(step, Single) or isinstance(step.term, Capped | Activated):
            where = step.term.at.module if isinstance(step, Single) else ""
            raise UnsupportedModuleError(
                where, "after the last layer only norms, factors, maps and a head are read"
            )
        if isinstance(step.term, Normed):
            found.append(made.norm(step.term, made.name("final_norm")))
        else:
            found.append(made.one(step, ""))
    if not found:
        return None
    return found[0] if len(found) == 1 else ops.Sequential(tuple(found))


def _head(steps: Steps, made: Assembler, tied_to: str | None) -> ops.Head:
    """The last linear map, what comes before it, and factors and a cap on the logits."""
    last = max(k for k, step in enumerate(steps) if _is_map(step))
    step = steps[last]
    assert isinstance(step, Single)
    assert isinstance(step.term, Map)
    before, scale, cap = list(steps[:last]), 1.0, None
    while before and _is_factor(before[-1]):  # a factor on what the head reads is one on its logits
        scale *= _factor(before.pop())
        if step.term.bias is not None:
            raise UnsupportedModuleError(step.term.at.module, "a factor before a head with a bias")
    for after in steps[last + 1 :]:
        match after:
            case Single(term=Scaled(factor=factor)) if cap is None:
                scale *= factor
            case Single(term=Capped(cap=found)) if cap is None:
                cap = found
            case Single(term=term):
                raise UnsupportedModuleError(
                    term.at.module, "logits go through more than a factor and a soft cap"
                )
            case _:
                raise UnsupportedModuleError(step.term.at.module, "logits are put together")
    transform = _transform(before, made)
    linear = made.linear(step.term, "head")
    scale = int(scale) if scale == int(scale) else scale
    return ops.Head("head", linear, step.term.weight.name == tied_to, scale, cap, transform)


def _transform(steps: list[Step], made: Assembler) -> ops.Op | None:
    """What a head does to the last hidden states first: a map, an activation and a norm as a rule."""
    found: list[ops.Op] = []
    for step in steps:
        if _is_norm(step):
            assert isinstance(step, Single)
            assert isinstance(step.term, Normed)
            found.append(made.norm(step.term, "head_norm"))
        else:
            found.append(made.one(step, ""))
    if not found:
        return None
    return found[0] if len(found) == 1 else ops.Sequential(tuple(found))


def placement(block: ops.Sequential) -> str:
    """Name where the norms of a block sit, from its ops alone.

    Args:
        block: The ops of a layer.

    Returns:
        ``"pre_ln"``, ``"post_ln"``, ``"sandwich_ln"``, ``"branch_norm"``, ``"parallel"`` or ``"other"``.
    """
    sums = [op for op in block.ops if isinstance(op, ops.Residual)]
    if not sums:
        return "other"
    branch = sums[0].branch
    inner = branch.ops if isinstance(branch, ops.Sequential) else (branch,)
    parallel = any(isinstance(op, ops.Parallel) for op in inner)
    before, behind = isinstance(inner[0], ops.Norm), isinstance(inner[-1], ops.Norm) and len(inner) > 1
    outside = any(isinstance(op, ops.Norm) for op in block.ops)
    if parallel:
        return "parallel"
    names = {
        (True, False, False): "pre_ln",
        (False, False, True): "post_ln",
        (True, True, False): "sandwich_ln",
        (False, True, False): "branch_norm",
    }
    return names.get((before, behind, outside), "other")
