"""The kernel of the input (vectors, a Gram matrix, embeddings of tokens), and gradients of what makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meanfield.errors import MissingRuleError
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable, Kernel, Layout
from meanfield.ops import Embedding, Transformer


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """What goes into the stack.

    Args:
        q: Second moment per coordinate of input vectors.
        cov: The same between two tokens of a sequence.
        gram: T x T second moments of input vectors, in place of q and cov; None without.
        ids: (batch, tokens) token ids; None for uniform random ones.
        features: Parameters that make the input vectors linearly, x_i = sum over theta of f_theta(i) theta:
            name -> K_ij = <f(i), f(j)>, T x T.
    """

    q: float = 1.0
    cov: float = 0.0
    gram: Kernel | None = None
    ids: npt.NDArray[np.intp] | None = None
    features: Mapping[str, Kernel] = field(default_factory=dict)


def _second_moment(table: Embedding) -> float:
    if table.weight.mean:
        raise MissingRuleError(
            f"an embedding of mean {table.weight.mean}", "moments.inputs", "give entries of mean 0"
        )
    return float(table.scale) ** 2 * float(table.weight.variance)


def same_row(arch: Transformer, table: str, layout: Layout, ids: npt.NDArray[np.intp] | None) -> Kernel:
    """Say which pairs of tokens read the same row of a table: 1, 0, or a probability.

        two random tokens share their row of the token embedding with probability 1/V

    Args:
        arch: The architecture.
        table: ``"embedding"``, ``"position"`` or ``"segment"``.
        layout: Layout of the tokens.
        ids: Token ids, or None for random ones.

    Returns:
        A kernel-shaped array.

    Source:
        definition.
    """
    assert arch.embedding is not None
    chance = 1 / arch.embedding.vocab
    if isinstance(layout, Exchangeable):
        values = {"embedding": [1, chance, chance], "position": [1, 0, 0], "segment": [1, 1, 1]}
        return np.array(values[table], dtype=np.float64)
    if table == "segment":
        return np.ones((layout.total, layout.total))
    if table == "position":
        rows = np.arange(layout.total) % layout.tokens
    elif ids is None:
        return layout.expand(np.array([1.0, chance, chance]))
    else:
        rows = ids.reshape(-1)
    return (rows[:, None] == rows[None, :]).astype(np.float64)


def _tables(arch: Transformer) -> list[tuple[str, Embedding]]:
    found = [("embedding", arch.embedding), ("position", arch.position), ("segment", arch.segment)]
    return [(name, table) for name, table in found if table is not None]


def input_kernel(arch: Transformer, layout: Layout, given: Input) -> Kernel:
    """Build the kernel of the input: of vectors, or of the sum of embeddings.

        Q_ij = sum over tables of scale^2 s^2 [i and j read the same row]

    Args:
        arch: The architecture.
        layout: Layout of the tokens.
        given: The input.

    Returns:
        Q.

    Source:
        definition.

    Example:
        >>> from meanfield import paper_pre_ln
        >>> layout = Exchangeable(tokens=4, batch=1)
        >>> input_kernel(paper_pre_ln(width=8, depth=1), layout, Input(cov=0.5)).tolist()
        [1.0, 0.5, 0.0]
    """
    if arch.embedding is None:
        vectors = np.array([given.q, given.cov, 0.0])
        if isinstance(layout, Exchangeable):
            return vectors
        return layout.expand(vectors) if given.gram is None else given.gram
    parts = [_second_moment(table) * same_row(arch, name, layout, given.ids) for name, table in _tables(arch)]
    return np.asarray(np.sum(parts, axis=0))


def record_inputs(arch: Transformer, layout: Layout, given: Input, gradient: Kernel, record: Record) -> None:
    """Record the gradients of what makes the input: embeddings, or features of the vectors.

        E||dL/dE||^2 = scale^2 sum_ij [i and j read the same row] G_ij
        E||dL/dtheta||^2 = sum_ij K_ij G_ij, K_ij = <f(i), f(j)>, as dL/dtheta = sum_i f(i)^T dL/dx_i

    Args:
        arch: The architecture.
        layout: Layout of the tokens.
        given: The input.
        gradient: G at the input of the stack.
        record: Collects parameters.

    Source:
        definition.
    """
    for name, features in given.features.items():
        record.parameter(name, "weight", layout.inner(features, gradient))
    for name, table in _tables(arch):
        rows = same_row(arch, name, layout, given.ids)
        record.table(table.name, float(table.scale) ** 2 * layout.inner(rows, gradient), shared=False)
