"""`sample`: squared gradient norms of every parameter at finite width, one number per seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield import ops
from meanfield.checks import check_architecture
from meanfield.errors import InputError, positive_integer
from meanfield.given import FeaturesPerStack, Given, PerStack, given_inputs, gram_root
from meanfield.moments.inputs import Input
from meanfield.moments.loss import Loss
from meanfield.threads import one_thread
from meanfield.weight_free.backend import Backend, generator
from meanfield.weight_free.blocks import Numbers, in_blocks
from meanfield.weight_free.matrices import WeightFree
from meanfield.weight_free.room import numbers_kept
from meanfield.weight_free.run import Feed
from meanfield.weight_free.stack import Data, squares


def sample(
    arch: ops.Transformer | ops.EncoderDecoder,
    *,
    tokens: int,
    batch: int = 1,
    source_tokens: int | None = None,
    seeds: Iterable[int],
    loss: str = "linear",
    label_smoothing: float = 0.0,
    q: float = 1.0,
    cov: float = 0.0,
    gram: PerStack | None = None,
    ids: PerStack | None = None,
    padding: PerStack | None = None,
    features: FeaturesPerStack | None = None,
    fixed: bool = False,
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
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        seeds: Distinct integers of at least 0; a seed gives the same numbers in any company.
        loss: ``"linear"``, ``"mse"``, or ``"cross_entropy"``, which needs a head and has uniform labels.
        label_smoothing: For cross entropy, in [0, 1).
        q: Second moment per coordinate of input vectors; an embedding makes its own input.
        cov: The same between two tokens of a sequence.
        gram: T x T matrix of second moments in place of q and cov; for this one and the next three see
            `meanfield.predict`.
        ids: Token ids (batch, tokens); uniform for each seed without.
        padding: Booleans (batch, tokens), True for a real token; the others are not attended to and have no
            part in the loss.
        features: T x T inner products of what makes the vectors, by the names of the parameters.
        fixed: Whether the vectors are the same in every initialisation, so that gram is exactly theirs.
        dtype: ``"float32"`` or ``"float64"``.
        backend: Where to compute; numpy by default, with this dtype.
        progress: Called with the number of seeds finished since the last call; on a device, of those that are
            under way.

    Returns:
        Parameter -> array of one number per seed.

    Raises:
        InputError: If the setting makes no sense, one seed needs more memory than there is, or a gradient is
            not finite.
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
    fed = given_inputs(
        arch,
        tokens=tokens,
        batch=batch,
        source_tokens=source_tokens,
        q=q,
        cov=cov,
        gram=gram,
        ids=ids,
        padding=padding,
        features=features,
    )
    batch, head = positive_integer("batch", batch), fed[-1].stack.head
    if loss == "cross_entropy" and head is None:
        raise InputError(f"loss={loss!r} needs an output head and {arch.name} has none: give vocab=...")
    if fixed and not any(each.input.gram is not None for each in fed):
        raise InputError("fixed=True means that gram is exactly that of the vectors: give gram as well")
    roots = [_root(each.input, batch, each.tokens) if each.stack.embedding is None else None for each in fed]
    where = Backend(dtype) if backend is None else backend
    ordered = _check_seeds(seeds)
    rows = [batch * each.tokens for each in fed]
    together = where.together(
        max(rows) * max(_widest(each.stack) for each in fed),
        sum(
            numbers_kept(each.stack, own, each.tokens, head=loss == "cross_entropy")
            for each, own in zip(fed, rows, strict=True)
        ),
    )
    keys: list[ops.ParameterKey] = []

    def work(some: list[int], looks: bool) -> Numbers:
        data = _data(fed, some, batch, target, roots, fixed)
        run = WeightFree(where, len(some), batch, data.feeds[0], streams=where.streams(some), looks=looks)
        with np.errstate(all="ignore"), one_thread():  # what is beyond the type is refused below
            squares(arch, data, run)
        keys[:] = reversed(run.squares)
        return Numbers(where.xp.stack([run.squares[key] for key in keys], axis=1), run.doubtful)

    def check(values: NDArray[np.float64], some: list[int]) -> None:
        check_range(dict(zip(keys, values.T, strict=True)), some, where)

    report = progress if progress is not None else lambda _: None
    values = in_blocks(work, ordered, together, where, arch.name, check, report)
    return dict(zip(keys, np.ascontiguousarray(values.T), strict=True))


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


def _root(given: Input, batch: int, tokens: int) -> NDArray[np.float64] | None:
    """Root of the Gram matrix of input vectors; None for independent tokens of second moment 1."""
    if given.gram is None and (given.q, given.cov) == (1, 0):
        return None
    within = np.full((tokens, tokens), float(given.cov)) + (given.q - given.cov) * np.eye(tokens)
    return gram_root(np.asarray(np.kron(np.eye(batch), within)) if given.gram is None else given.gram)


def _data(
    fed: tuple[Given, ...],
    seeds: list[int],
    batch: int,
    loss: Loss,
    roots: list[NDArray[np.float64] | None],
    fixed: bool,
) -> Data:
    """Ids and labels of some seeds, each from the seed's own stream on the host."""
    streams: list[Any] = []

    def integers(high: int, total: int) -> NDArray[Any]:
        if not streams:
            streams.extend(generator(seed, "discrete") for seed in seeds)
        return np.stack([stream.integers(high, size=total) for stream in streams])

    feeds = []
    for each, root in zip(fed, roots, strict=True):
        embedding, total = each.stack.embedding, batch * each.tokens
        ids = None if each.input.ids is None else each.input.ids.reshape(1, -1)
        if embedding is not None:
            ids = integers(embedding.vocab, total) if ids is None else np.repeat(ids, len(seeds), axis=0)
        feeds.append(Feed(each.tokens, each.padding, ids, root, fixed, each.input.features))
    head = fed[-1].stack.head
    labels = None
    if loss.name == "cross_entropy" and head is not None:
        labels = integers(head.linear.d_out, batch * fed[-1].tokens)
    return Data(loss, feeds, labels)


def check_range(
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
