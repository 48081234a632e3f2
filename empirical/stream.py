"""`stream`: gradients of a model of any depth in the memory of one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from empirical.build import Architecture
from empirical.ensemble import measurement
from empirical.host import fast
from empirical.measure import Measurement
from empirical.passes import Pass
from empirical.setting import Setting, conditions, seed_list
from empirical.streamed import Streamed
from meanfield.checks import check_architecture
from meanfield.given import PerStack


def stream(
    arch: Architecture,
    *,
    tokens: int = 16,
    batch: int = 1,
    source_tokens: int | None = None,
    seeds: Iterable[int] = range(1),
    loss: str = "linear",
    label_smoothing: float = 0.0,
    ids: PerStack | None = None,
    gram: PerStack | None = None,
    padding: PerStack | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure ||dL/dtheta||_F^2 of every parameter of a deep or wide model, one seed after another.

    Numbers are those of `empirical.ensemble`, at twice its random numbers and half as many products more.
    Memory is that of the largest layer and of some tokens, whatever the depth: up to 16 MB of inputs of
    layers are kept, and of deeper models those of every k-th layer, from which others are computed again.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence; of the target for an encoder-decoder.
        batch: Sequences.
        source_tokens: Tokens in a source sequence of an encoder-decoder; as many as in the target if None.
        seeds: Distinct integers of at least 0.
        loss: ``"linear"``, ``"mse"`` or ``"cross_entropy"``; see `empirical.losses`.
        label_smoothing: For cross entropy.
        ids: Ids in place of random ones; for this one and the next two see `empirical.measure`.
        gram: Covariance of the input vectors.
        padding: Which tokens are real.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        dtype: ``"float32"``, ``"float64"``, or ``"tf32"`` on CUDA.
        progress: Called with the number of seeds finished since the last call.

    Returns:
        The measurement, without hidden states.

    Raises:
        InputError: If the setting cannot be measured, one layer needs more memory than there is, or a
            gradient is not finite.

    Source:
        definition; chen2016 for hidden states that are computed again.

    Example:
        >>> import meanfield as mf
        >>> from empirical import ensemble
        >>> how = {"tokens": 4, "seeds": range(2), "dtype": "float64"}
        >>> arch = mf.paper_post_ln(width=16, depth=8)
        >>> one, other = stream(arch, **how).df.grad_sq_hat, ensemble(arch, **how).df.grad_sq_hat
        >>> bool((abs(one - other) <= 1e-12 * other.max()).all())
        True
    """
    setting = Setting(tokens, batch, loss, 1, label_smoothing, device, dtype, source_tokens)
    checked, arch = seed_list(seeds), check_architecture(arch)
    fixed = conditions(arch, setting, ids=ids, gram=gram, padding=padding)
    found = []
    with fast(setting.dtype, setting.device) as products:
        run = Pass(arch, setting, fixed, Streamed)
        for seed in checked:
            found.append(run([seed]))
            if progress is not None:
                progress(1)
    return measurement(arch, setting, checked, found, f"1 seed at once, weights drawn again, {products}")
