"""How much memory a pass takes for one seed, estimated beforehand."""

from __future__ import annotations

from meanfield import ops


def numbers_kept(stack: ops.Transformer, rows: int, length: int, *, head: bool) -> int:
    """Estimate the numbers that a pass of one seed has in memory where it turns back.

        sum over maps of 2 T (d_in + d_out), over other ops of 2 T width, over heads of 2 T tokens

    Args:
        stack: The stack.
        rows: Tokens of all sequences, T.
        length: Tokens in a sequence.
        head: Whether the loss reads the head.

    Returns:
        The estimate, without weights.

    Example:
        >>> import meanfield as mf
        >>> numbers_kept(mf.pre_ln(width=8, depth=6, heads=2), 4, 4, head=False) == 3 * numbers_kept(
        ...     mf.pre_ln(width=8, depth=2, heads=2), 4, 4, head=False) - 2 * 2 * 4 * 8  # one last norm
        True
    """
    parts: list[tuple[ops.Op, int]] = [(run.block, run.times) for run in stack.layers]
    parts += [(part, 1) for part in (stack.entry, stack.final_norm) if part is not None]
    if head and stack.head is not None:
        parts.append((stack.head.linear, 2))  # logits, and their softmax
    return sum(times * _kept(op, rows, length, stack.width) for part, times in parts for op in ops.walk(part))


def _kept(op: ops.Op, rows: int, length: int, width: int) -> int:
    match op:
        case ops.Linear():
            return 2 * rows * (op.d_in + op.d_out)
        case ops.FeedForward():
            return 2 * rows * op.up.d_out
        case ops.Attention():
            return 2 * rows * (op.heads * length + op.value.d_out * op.heads // op.kv_heads)
        case ops.Norm():
            return 2 * rows * op.width
        case ops.Sequential() | ops.Parallel():
            return 0
        case _:
            return 2 * rows * width
