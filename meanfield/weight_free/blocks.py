"""Seeds in blocks: halves where memory ends, one look at all numbers where the host must not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from meanfield.errors import InputError
from meanfield.weight_free.backend import Array, Backend

Found = TypeVar("Found")


class Numbers(NamedTuple):
    """What a pass has found.

    Attributes:
        values: (seeds, parameters).
        doubtful: Which seeds have to run again, and be looked at; None where none has.
    """

    values: Array
    doubtful: Array | None = None


def in_blocks(
    work: Callable[[list[int], bool], Numbers],
    seeds: list[int],
    together: int,
    backend: Backend,
    name: str,
    check: Callable[[NDArray[np.float64], list[int]], None],
    report: Callable[[int], None],
) -> NDArray[np.float64]:
    """Run work on blocks of seeds.

    Where the host may look it does so after each block. Where it may not, all numbers stay on the device
    until the last block is under way; then they come to the host, the one time that it waits, and the seeds
    that are doubtful run again while it looks.

    Args:
        work: Takes some seeds, and whether the host may look while it runs.
        seeds: The seeds.
        together: Seeds in a block.
        backend: Where work runs.
        name: Of the model, for messages.
        check: Refuses numbers (seeds, parameters) of some seeds.
        report: Called with the number of seeds that are under way since the last call.

    Returns:
        (seeds, parameters).

    Raises:
        InputError: If one seed alone needs more memory than there is, or numbers are refused.
    """
    if backend.looks:
        return np.concatenate(list(_looked_at(work, seeds, together, backend, name, check, report)))
    found = []
    for block, numbers in _blocks(lambda some: work(some, False), seeds, together, backend, name):
        found.append(numbers)
        report(len(block))
    xp = backend.xp
    values = backend.host(xp.concat([numbers.values for numbers in found]))
    if found[0].doubtful is not None:
        doubtful = np.flatnonzero(backend.host(xp.concat([numbers.doubtful for numbers in found])))
        if len(doubtful):
            again = [seeds[k] for k in doubtful]
            values[doubtful] = np.concatenate(
                list(_looked_at(work, again, together, backend, name, check, lambda _: None))
            )
    check(values, seeds)
    return values


def _looked_at(
    work: Callable[[list[int], bool], Numbers],
    seeds: list[int],
    together: int,
    backend: Backend,
    name: str,
    check: Callable[[NDArray[np.float64], list[int]], None],
    report: Callable[[int], None],
) -> Iterator[NDArray[np.float64]]:
    for block, numbers in _blocks(lambda some: work(some, True), seeds, together, backend, name):
        values = backend.host(numbers.values)
        check(values, block)
        report(len(block))
        yield values


def _blocks(
    work: Callable[[list[int]], Found], seeds: list[int], together: int, backend: Backend, name: str
) -> Iterator[tuple[list[int], Found]]:
    start = 0
    while start < len(seeds):
        found = in_halves(work, seeds[start : start + together], backend, name)
        start += together
        if len(found) > 1:  # later blocks are no larger than what has fitted
            together = max(len(block) for block, _ in found)
        yield from found


def in_halves(
    work: Callable[[list[int]], Found], seeds: list[int], backend: Backend, name: str
) -> list[tuple[list[int], Found]]:
    """Run work on some seeds at once; where memory ends, on half of them at a time.

    Args:
        work: Takes seeds.
        seeds: The seeds.
        backend: Knows the errors that mean the end of memory, and gives back what is kept.
        name: Of the model, for the message.

    Returns:
        Blocks of seeds in order, each with what the work has found.

    Raises:
        InputError: If one seed alone needs more memory than there is.
        MemoryError: Never: halves take its place.
        RuntimeError: Where the work raises one that has nothing to do with memory.

    Example:
        >>> from meanfield.weight_free.backend import Backend
        >>> def two_fit(seeds):
        ...     if len(seeds) > 2:
        ...         raise MemoryError
        ...     return sum(seeds)
        >>> in_halves(two_fit, [1, 2, 3, 4, 5], Backend(), "model")
        [([1, 2], 3), ([3], 3), ([4, 5], 9)]
    """
    try:
        return [(seeds, work(seeds))]
    except (MemoryError, RuntimeError) as error:
        if not backend.out_of_memory(error):
            raise
        if len(seeds) == 1:
            raise InputError(
                f"{name} at seed={seeds[0]} needs more memory than there is: give fewer tokens, or use "
                "empirical.stream"
            ) from error
    backend.release()  # out here, where the error no longer holds the arrays of the pass
    half = len(seeds) // 2
    return [
        *in_halves(work, seeds[:half], backend, name),
        *in_halves(work, seeds[half:], backend, name),
    ]
