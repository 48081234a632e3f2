"""`sample`: squared gradient norms of every parameter at finite width, one number per seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield import ops
from meanfield.checks import (
    check_architecture,
    check_gram,
    check_ids,
    check_moments,
    check_padding,
    check_positions,
)
from meanfield.errors import InputError, positive_integer
from meanfield.moments.loss import Loss
from meanfield.threads import one_thread
from meanfield.weight_free.backend import Backend, generator
from meanfield.weight_free.run import Run
from meanfield.weight_free.stack import Data, squares


def sample(
    arch: ops.Transformer | ops.EncoderDecoder,
    *,
    tokens: int,
    batch: int = 1,
    seeds: Iterable[int],
    loss: str = "linear",
    label_smoothing: float = 0.0,
    q: float = 1.0,
    cov: float = 0.0,
    gram: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    padding: ArrayLike | None = None,
    dtype: str = "float64",
    backend: Backend | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[ops.ParameterKey, NDArray[np.float64]]:
    """Sample ||dL/dtheta||_F^2 of every parameter tensor at initialisation, exact in law at any width.

        forward  X W = sqrt(v) R Z,   backward  G W^T = sqrt(v) (G Z^T Q + D Z' (1 - Q^T Q)),
        X = R Q, Q of orthonormal rows,  D D^T = G G^T,  ||dL/dW||^2 = <X X^T, G G^T>

    No weight is formed: O(T^2 d) time and O(T d) memory for T = batch * tokens. Attention, norms and
    non-linearities between the maps are computed as they are.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence, of source and target alike.
        batch: Sequences.
        seeds: Distinct integers of at least 0; a seed gives the same numbers in any company.
        loss: ``"linear"``, ``"mse"``, or ``"cross_entropy"``, which needs a head and has uniform labels.
        label_smoothing: For cross entropy, in [0, 1).
        q: Second moment per coordinate of input vectors; an embedding makes its own input.
        cov: The same between two tokens of a sequence.
        gram: T x T matrix of second moments in place of q and cov.
        ids: Token ids (batch, tokens), for source and target alike; uniform for each seed without.
        padding: Booleans (batch, tokens), True for a real token; the others are not attended to and have no
            part in the loss.
        dtype: ``"float32"`` or ``"float64"``.
        backend: Where to compute; numpy by default, with this dtype.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        Parameter -> array of one number per seed.

    Raises:
        InputError: If the setting makes no sense, or a gradient is not finite.
        MissingRuleError: If the sampler has no rule for a part of the architecture.
        UnknownNameError: If the loss has another name.

    Assumes:
        Weights of mean 0, each used once; those of another law are replaced by Gaussian ones of the same
        variance. Biases, embeddings and other small tensors are drawn from their own law.

    Source:
        definition: a Gaussian matrix splits into independent parts over orthogonal subspaces.

    Example:
        The shift of the last norm sees the probe alone, ||r||^2 for one token, which is 1 in the mean.

        >>> import meanfield as mf
        >>> found = sample(mf.paper_post_ln(width=64, depth=2), tokens=1, seeds=range(64))
        >>> round(float(found[ops.ParameterKey(2, "norm2", "bias")].mean()), 1)
        1.0
    """
    arch, target = check_architecture(arch), Loss(loss, label_smoothing)
    tokens, batch = positive_integer("tokens", tokens), positive_integer("batch", batch)
    stacks = [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]
    if loss == "cross_entropy" and stacks[-1].head is None:
        raise InputError(f"loss={loss!r} needs an output head and {arch.name} has none: give vocab=...")
    embedded = stacks[0].embedding is not None
    if embedded and (gram is not None or (q, cov) != (1, 0)):
        raise InputError(
            "q, cov and gram mean nothing where an embedding makes the input: leave them out, or give ids"
        )
    for stack in stacks:
        check_positions(stack, tokens)
    real = None if padding is None else check_padding(padding, batch, tokens)
    if real is not None and not real.any(axis=1).all():
        raise InputError("padding leaves a sequence without a real token: keep at least one")
    root = None if embedded else _root(q, cov, gram, batch, tokens)
    given = None
    for stack in stacks if ids is not None else []:
        given = check_ids(ids, batch, tokens, stack)
    where = Backend(dtype) if backend is None else backend
    ordered = _check_seeds(seeds)
    together = max(1, where.entries // (batch * tokens * max(_widest(stack) for stack in stacks)))
    found: list[dict[ops.ParameterKey, NDArray[np.float64]]] = []
    for start in range(0, len(ordered), together):
        chunk = ordered[start : start + together]
        data = _data(stacks, chunk, batch * tokens, target, root, given)
        run = Run(where, where.streams(chunk), batch, tokens, real)
        with np.errstate(all="ignore"), one_thread():  # what is beyond the type is refused below
            squares(arch, data, run)
        found.append({key: where.host(run.squares[key]) for key in reversed(run.squares)})
        _check_range(found[-1], chunk, where)
        if progress is not None:
            progress(len(chunk))
    return {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def _check_seeds(seeds: Iterable[int]) -> list[int]:
    ordered = list(seeds)
    whole = all(isinstance(seed, int | np.integer) and seed >= 0 for seed in ordered)
    if not whole or not ordered or len(set(ordered)) < len(ordered):
        raise InputError("seeds are no distinct integers of at least 0: give one or more, such as range(64)")
    return ordered


def _widest(arch: ops.Transformer) -> int:
    parts = [part for part in (arch.entry, *arch.layers) if part is not None]
    sizes = [op.d_out for part in parts for op in ops.walk(part) if isinstance(op, ops.Linear)]
    return max([arch.width, *sizes, *([] if arch.head is None else [arch.head.linear.d_out])])


def _root(
    q: float, cov: float, gram: ArrayLike | None, batch: int, tokens: int
) -> NDArray[np.float64] | None:
    """Root of the Gram matrix of input vectors; None for independent tokens of second moment 1."""
    check_moments(q, cov, tokens)
    if gram is None and (q, cov) == (1, 0):
        return None
    within = np.full((tokens, tokens), float(cov)) + (q - cov) * np.eye(tokens)
    matrix = np.kron(np.eye(batch), within) if gram is None else check_gram(gram, batch * tokens)
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), dtype=np.float64)


def _data(
    stacks: list[ops.Transformer],
    seeds: list[int],
    total: int,
    loss: Loss,
    root: NDArray[np.float64] | None,
    ids: NDArray[Any] | None,
) -> Data:
    """Ids and labels of some seeds, each from the seed's own stream on the host."""
    streams = [generator(seed, "discrete") for seed in seeds]

    def integers(high: int) -> NDArray[Any]:
        return np.stack([stream.integers(high, size=total) for stream in streams])

    looked_up: list[NDArray[Any] | None] = []
    for stack in stacks:
        if stack.embedding is None:
            looked_up.append(None)
        elif ids is None:
            looked_up.append(integers(stack.embedding.vocab))
        else:
            looked_up.append(np.broadcast_to(ids.reshape(1, -1), (len(seeds), total)))
    head = stacks[-1].head
    labels = integers(head.linear.d_out) if loss.name == "cross_entropy" and head is not None else None
    return Data(loss, root, looked_up, labels)


def _check_range(
    found: dict[ops.ParameterKey, NDArray[np.float64]], seeds: list[int], backend: Backend
) -> None:
    """Refuse numbers beyond the range of the type; rounding alone gives a key's bias a gradient."""
    for key, values in found.items():
        tiny = (values > 0) & (values < backend.tiny) & (key.parameter == "weight")
        beyond = ~np.isfinite(values) | tiny
        if beyond.any():
            seed = seeds[int(np.argmax(beyond))]
            raise InputError(
                f"seed={seed}: the gradient of {key.module}.{key.parameter} in layer {key.layer} is not "
                "finite, or too small for its type: give dtype='float64', or another initialisation"
            )
