"""Fresh Gaussian matrices that are never formed: the two products in which one acts.

With inputs X = R Q, Q of orthonormal rows, and Z, Z' standard normal:

    forward   X W = sqrt(v) R Z,                       Z = Q W / sqrt(v)
    backward  G W^T = sqrt(v) (G Z^T Q + N (1 - Q^T Q)),  N = D Z',  D D^T = G G^T

The second line splits W into what the forward pass has seen, Q^T Q W, and the rest, which is still free: G
depends on the rest in no way, so that G times it is Gaussian with covariance G G^T between tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.ops import Linear
from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import INTERPRETER

if TYPE_CHECKING:
    from meanfield.weight_free.matrices import WeightFree


@dataclass(frozen=True, slots=True)
class Span:
    """Token rows X = rows @ basis, basis = inverse @ spanning orthonormal, r = min(T, d) rows of size d.

    Args:
        gram: X X^T, (seeds, T, T).
        rows: (seeds, T, r).
        spanning: (seeds, r, d): X itself where rows are its Gram matrix' Cholesky factor, else the basis.
        inverse: (seeds, r, r), that of the factor; None where ``spanning`` is the basis.
    """

    gram: Array
    rows: Array
    spanning: Array
    inverse: Array | None = None

    @property
    def basis(self) -> Array:
        """Orthonormal rows (seeds, r, d)."""
        return self.spanning if self.inverse is None else self.inverse @ self.spanning


@dataclass(frozen=True, slots=True)
class Projected:
    """What the backward pass of several maps of the same tokens needs: their span and their normals."""

    maps: dict[str, Linear]
    span: Span
    normals: dict[str, Array]


def span(x: Array, run: WeightFree) -> Span:
    """Factorise token rows (seeds, T, d) for the maps that read them."""
    xp, (tokens, size) = run.xp, x.shape[1:]
    gram = run.backend.matmul(x, xp.matrix_transpose(x))
    if tokens >= size:  # they span all of the space, and need no other basis
        return Span(gram, x, xp.broadcast_to(_unit(size, run), (x.shape[0], size, size)))
    lower, sound = _cholesky(gram, run)
    if not run.looks:
        run.doubt(sound)
    if not run.looks or xp.all(sound):
        return Span(gram, lower, x, run.backend.inverse(lower))
    q, r = xp.linalg.qr(xp.matrix_transpose(x), mode="reduced")
    rows, basis = xp.matrix_transpose(r), xp.matrix_transpose(q)
    if xp.any(sound):  # each seed goes its own way, whatever the others do
        basis = xp.where(sound, run.backend.inverse(xp.where(sound, lower, _unit(tokens, run))) @ x, basis)
        rows = xp.where(sound, lower, rows)
    return Span(gram, rows, basis)


def _unit(size: int, run: WeightFree) -> Array:
    key = ("unit", size)
    if key not in run.masks:
        run.masks[key] = run.backend.asarray(np.eye(size))
    return run.masks[key]


def _cholesky(gram: Array, run: WeightFree) -> tuple[Array, Array]:
    """Cholesky factor, and for which seeds (seeds, 1, 1) it is as accurate as the root of the precision."""
    xp = run.xp
    lower, positive = run.backend.cholesky(gram)
    pivots = xp.linalg.diagonal(lower)
    sound = pivots * pivots > run.backend.eps**0.5 * xp.linalg.diagonal(gram)  # (seeds, T); False for NaN
    return lower, (positive & xp.all(sound, axis=-1))[:, None, None]


def _root(gram: Array, maps: dict[str, Linear], gradients: dict[str, Array], run: WeightFree) -> Array:
    """Any D with D D^T = gram, which is that of the gradients, each times its map's deviation."""
    xp = run.xp

    def rows() -> Array:
        return xp.concat([_deviation(op) * gradients[name] for name, op in maps.items()], axis=-1)

    if gram.shape[-1] >= sum(op.d_out for op in maps.values()):
        return rows()
    lower, sound = _cholesky(gram, run)
    if not run.looks:
        run.doubt(sound)
    if not run.looks or xp.all(sound):
        return lower
    _, r = xp.linalg.qr(xp.matrix_transpose(rows()), mode="reduced")
    upper = xp.matrix_transpose(r)
    return xp.where(sound, lower, upper) if xp.any(sound) else upper


def project(
    module: str, maps: dict[str, Linear], x: Array | Span, run: WeightFree
) -> tuple[dict[str, Array], Projected]:
    """Apply fresh linear maps to the same tokens.

    Args:
        module: Name of the module.
        maps: Name -> map.
        x: Token rows (seeds, T, d), or their span where it is known.
        run: The pass.

    Returns:
        Name -> mapped tokens (seeds, T, d_out), and what the backward pass needs.

    Raises:
        MissingRuleError: If the entries of a weight have a mean.
    """
    tokens = x if isinstance(x, Span) else span(x, run)
    outputs, normals, product = {}, {}, run.backend.matmul
    for name, op in maps.items():
        if op.weight.mean:
            raise MissingRuleError(f"weights of mean {op.weight.mean}", INTERPRETER, "give weights of mean 0")
        rows, normals[name] = _deviation(op) * tokens.rows, run.normal(tokens.rows.shape[-1], op.d_out)
        bias = run.bias(module, name, op)
        outputs[name] = (
            product(rows, normals[name])
            if bias is None
            else run.backend.add_product(bias, rows, normals[name])
        )
    return outputs, Projected(maps, tokens, normals)


def project_back(
    saved: Projected, gradients: dict[str, Array], run: WeightFree
) -> tuple[Array, dict[str, Array]]:
    """Draw the gradient of the tokens that `project` has read.

    Args:
        saved: From the forward pass.
        gradients: Name -> gradient of the mapped tokens (seeds, T, d_out).
        run: The pass.

    Returns:
        The gradient of the tokens (seeds, T, d_in), and name -> ||dL/dW||^2 = <K, H>, with the Gram matrices
        K of tokens and H of gradients.
    """
    xp, tokens = run.xp, saved.span
    squares, gram, known, product = {}, 0.0, 0.0, run.backend.matmul
    for name, op in saved.maps.items():
        g, deviation = gradients[name], _deviation(op)
        of_map = product(g, xp.matrix_transpose(g))
        squares[name] = xp.sum(tokens.gram * of_map, axis=(1, 2))
        gram = gram + deviation**2 * of_map
        known = known + deviation * product(g, xp.matrix_transpose(saved.normals[name]))
    rank, size = tokens.spanning.shape[-2:]
    if rank == size:  # the basis is that of the space: all of W is known
        return known, squares
    root = _root(gram, saved.maps, gradients, run)
    free = product(root, run.normal(root.shape[-1], size))
    seen = product(free, xp.matrix_transpose(tokens.spanning))  # what of the free part is in the span
    if tokens.inverse is None:
        return run.backend.add_product(free, known - seen, tokens.spanning), squares
    # (known - seen L^-T) L^-1 X: the basis L^-1 X is never formed
    inside = product(known - product(seen, xp.matrix_transpose(tokens.inverse)), tokens.inverse)
    return run.backend.add_product(free, inside, tokens.spanning), squares


def _deviation(op: Linear) -> float:
    return float(op.weight.variance) ** 0.5
