"""`sample`: squared gradient norms of every parameter at finite width, one number per seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield import ops
from meanfield.errors import InputError, MissingRuleError, UnknownNameError, positive_integer
from meanfield.predict import check_architecture
from meanfield.weight_free.backend import Backend, generator
from meanfield.weight_free.losses import LOSSES
from meanfield.weight_free.run import INTERPRETER, Run
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
        ids: Token ids (batch, tokens); a pair of such arrays, source and target, for an encoder-decoder;
            uniform for each seed where they are not given.
        padding: Booleans (batch, tokens), True for a token that nobody attends to and the loss leaves out.
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
        the law of a Gaussian matrix given its action on a subspace (bayati2011, Lemma 11).

    Example:
        One token through Post-LN: the last layer's ||dL/db_2||^2 is below that of the probe, 1.

        >>> import meanfield as mf
        >>> found = sample(mf.paper_post_ln(width=64, depth=2), tokens=1, seeds=range(4))
        >>> found[ops.ParameterKey(2, "norm2", "bias")].shape
        (4,)
    """
    arch = check_architecture(arch)
    tokens, batch = positive_integer("tokens", tokens), positive_integer("batch", batch)
    _check_loss(arch, loss, label_smoothing)
    stacks = [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]
    embedded = stacks[0].embedding is not None
    if embedded and (gram is not None or (q, cov) != (1, 0)):
        raise InputError("q, cov and gram mean nothing where an embedding makes the input: leave them out")
    if not embedded and ids is not None:
        raise InputError("ids without an embedding: give vocab=..., or leave the ids out")
    hidden = _padding(padding, batch, tokens)
    if hidden is not None and len(stacks) > 1:
        raise MissingRuleError("padding in an encoder-decoder", INTERPRETER, "leave the padding out")
    root = None if embedded else _root(q, cov, gram, batch, tokens)
    given = _ids(stacks, ids, batch, tokens)
    where = Backend(dtype) if backend is None else backend
    ordered = list(seeds)
    widest = max(op.d_out for stack in stacks for op in _linears(stack))
    together = max(1, where.entries // (batch * tokens * widest))
    found: list[dict[ops.ParameterKey, NDArray[np.float64]]] = []
    for start in range(0, len(ordered), together):
        chunk = ordered[start : start + together]
        data = _data(stacks, chunk, batch * tokens, loss, label_smoothing, root, given)
        run = Run(where, where.streams(chunk), batch, tokens, hidden)
        with np.errstate(all="ignore"):  # what is not finite is refused below
            squares(arch, data, run)
        found.append({key: where.host(run.squares[key]) for key in reversed(run.squares)})
        _check_finite(found[-1], chunk)
        if progress is not None:
            progress(len(chunk))
    return {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def _linears(arch: ops.Transformer) -> list[ops.Linear]:
    parts: list[ops.Op] = [*arch.layers, *([arch.entry] if arch.entry is not None else [])]
    found = [op for part in parts for op in ops.walk(part) if isinstance(op, ops.Linear)]
    return found if arch.head is None else [*found, arch.head.linear]


def _check_loss(arch: ops.Transformer | ops.EncoderDecoder, loss: str, label_smoothing: float) -> None:
    if loss not in LOSSES:
        raise UnknownNameError("loss", loss, LOSSES)
    top = arch.decoder if isinstance(arch, ops.EncoderDecoder) else arch
    if loss == "cross_entropy" and top.head is None:
        raise InputError(
            f"loss='cross_entropy' needs an output head and {arch.name} has none: give vocab=..."
        )
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing} is outside [0, 1): give a share such as 0.1")
    if label_smoothing and loss != "cross_entropy":
        raise InputError(
            f"label_smoothing={label_smoothing} means nothing for loss={loss!r}: give 0, or 'cross_entropy'"
        )


def _padding(padding: ArrayLike | None, batch: int, tokens: int) -> NDArray[np.bool_] | None:
    if padding is None:
        return None
    hidden = np.asarray(padding)
    if hidden.dtype != bool or hidden.shape != (batch, tokens):
        raise InputError(
            f"padding has shape {hidden.shape} and type {hidden.dtype}: give booleans {(batch, tokens)}"
        )
    if hidden.all(-1).any():
        raise InputError("padding hides a whole sequence: leave that sequence out")
    return hidden if hidden.any() else None


def _root(
    q: float, cov: float, gram: ArrayLike | None, batch: int, tokens: int
) -> NDArray[np.float64] | None:
    """Root of the Gram matrix of input vectors; None for independent tokens of second moment 1."""
    total = batch * tokens
    if gram is None:
        if (q, cov) == (1, 0):
            return None
        if not (np.isfinite(q) and np.isfinite(cov) and q > 0):
            raise InputError(f"q={q}, cov={cov} are no second moments: give finite numbers, q above 0")
        matrix = np.kron(np.eye(batch), np.full((tokens, tokens), float(cov)) + (q - cov) * np.eye(tokens))
    else:
        matrix = np.asarray(gram, dtype=np.float64)
        if matrix.shape != (total, total):
            raise InputError(f"gram has shape {matrix.shape}: give {(total, total)}, batch * tokens each way")
        if not np.isfinite(matrix).all():
            raise InputError("gram has entries that are not finite: give finite second moments")
        if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12 * np.abs(matrix).max()):
            raise InputError("gram is not symmetric: give second moments <x_i, x_j>/d")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-9 * max(values[-1], 0.0):
        raise InputError(
            f"gram (or q={q}, cov={cov}) is not positive semidefinite, least eigenvalue {values[0]:.3g}: "
            "give second moments of vectors"
        )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _ids(
    stacks: list[ops.Transformer], ids: ArrayLike | None, batch: int, tokens: int
) -> list[NDArray[Any] | None]:
    """Given ids as (1, T), for each stack."""
    if ids is None:
        return [None] * len(stacks)
    found: list[NDArray[Any] | None] = []
    for stack, part in zip(stacks, np.asarray(ids).reshape(len(stacks), -1), strict=True):
        assert stack.embedding is not None
        if part.dtype.kind not in "iu" or part.size != batch * tokens:
            raise InputError(
                f"ids have {part.size} entries of type {part.dtype}: give integers {(batch, tokens)}"
            )
        if part.min() < 0 or part.max() >= stack.embedding.vocab:
            raise InputError(
                f"ids reach from {part.min()} to {part.max()}: give ids from 0 to {stack.embedding.vocab - 1}"
            )
        found.append(part.reshape(1, -1))
    return found


def _data(
    stacks: list[ops.Transformer],
    seeds: list[int],
    total: int,
    loss: str,
    label_smoothing: float,
    root: NDArray[np.float64] | None,
    given: list[NDArray[Any] | None],
) -> Data:
    """Ids and labels of some seeds, each from the seed's own stream on the host."""
    streams = [generator(seed, "discrete") for seed in seeds]

    def integers(high: int) -> NDArray[Any]:
        return np.stack([stream.integers(high, size=total) for stream in streams])

    ids = [
        None if stack.embedding is None else integers(stack.embedding.vocab) if part is None
        else np.broadcast_to(part, (len(seeds), total))
        for stack, part in zip(stacks, given, strict=True)
    ]  # fmt: skip
    head = stacks[-1].head
    labels = integers(head.linear.d_out) if loss == "cross_entropy" and head is not None else None
    return Data(loss, label_smoothing, root, ids, labels)


def _check_finite(found: dict[ops.ParameterKey, NDArray[np.float64]], seeds: list[int]) -> None:
    for key, values in found.items():
        if not np.isfinite(values).all():
            seed = seeds[int(np.argmin(np.isfinite(values)))]
            raise InputError(
                f"seed={seed}: the gradient of {key.module}.{key.parameter} in layer {key.layer} is not "
                "finite: give dtype='float64', or another initialisation"
            )
