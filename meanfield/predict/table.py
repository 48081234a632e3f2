"""The tidy theory table of an architecture: limit, means and bands of every parameter, and of every point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from meanfield.moments.state import Exchangeable, Gram, Kernel, Layout
from meanfield.ops import EncoderDecoder, ParameterKey, Transformer

if TYPE_CHECKING:
    import pandas as pd

    from meanfield.moments.record import Record

KEYS = (
    "arch",
    "placement",
    "init",
    "activation",
    "width",
    "depth",
    "heads",
    "d_ff",
    "tokens",
    "batch",
    "loss",
    "layer",
    "module",
    "parameter",
)


def configuration(arch: Transformer | EncoderDecoder, tokens: int, batch: int, loss: str) -> dict[str, Any]:
    """Build the key columns that are the same for all rows of one run.

    Args:
        arch: The architecture; an encoder-decoder speaks through its decoder.
        tokens: Tokens in a sequence.
        batch: Sequences.
        loss: Name of the loss.

    Returns:
        Column name to value, in the order of `KEYS` up to ``loss``.
    """
    arch, name = (arch.decoder, arch.name) if isinstance(arch, EncoderDecoder) else (arch, arch.name)
    return {
        "arch": name,
        "placement": arch.placement,
        "init": arch.init,
        "activation": arch.feed_forward.activation,
        "width": arch.width,
        "depth": arch.depth,
        "heads": arch.attention.heads,
        "d_ff": arch.feed_forward.up.d_out,
        "tokens": tokens,
        "batch": batch,
        "loss": loss,
    }


@dataclass(frozen=True, slots=True)
class Prediction:
    """The theory table of one architecture.

    Attributes:
        configuration: Key columns shared by all rows.
        record: The numbers of the recursion, at infinite width.
        layout: How tokens were laid out.
        samples: Square gradient norms at the real width, one array over seeds per parameter; empty without.
    """

    configuration: dict[str, Any]
    record: Record
    layout: Layout
    samples: Mapping[ParameterKey, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)

    @property
    def df(self) -> pd.DataFrame:
        """One row per parameter, in order of depth: the key columns and these.

            grad_sq       E||dL/dtheta||^2: at the real width where there are samples, else the limit
            grad_norm     its root
            log10_grad_sq its logarithm, which no depth takes out of range

        and with samples: grad_sq_limit (infinite width), grad_sq_se (standard error of grad_sq), grad_sq_sd
        (from seed to seed), grad_sq_low and grad_sq_high (95 % of single seeds, log-normal).
        """
        import pandas as pd  # half a second: not at import

        keys = list(reversed(self.record.grad_sq))
        grad_sq = np.array([self.record.grad_sq[key] for key in keys])
        table = pd.DataFrame(keys, columns=["layer", "module", "parameter"])
        columns = {
            "grad_sq": grad_sq,
            "grad_norm": np.sqrt(grad_sq),
            "log10_grad_sq": np.array([self.record.log10_grad_sq[key] for key in keys]),
        }
        if self.samples:
            columns |= _width_columns(
                np.array([self.samples[key] for key in keys], dtype=np.float64), grad_sq
            )
        return self._table(table.assign(**columns))

    @property
    def activations(self) -> pd.DataFrame:
        """One row per point: key columns, q, cov, cov_across, their gradient twins; NaN where no pair is.

        Where tokens differ these are means over tokens and pairs.
        """
        import pandas as pd

        rows = [
            (layer, module, "activation", *self._values(kernel), *self._values(gradient))
            for (layer, module), (kernel, gradient) in reversed(self.record.points.items())
        ]
        names = ["q", "cov", "cov_across", "q_grad", "cov_grad", "cov_grad_across"]
        return self._table(pd.DataFrame(rows, columns=["layer", "module", "parameter", *names]))

    @property
    def sampling_error(self) -> float:
        """Largest relative standard error of an average over drawn attention scores; 0 without."""
        return max(self.layout.errors, default=0.0) if isinstance(self.layout, Gram) else 0.0

    def _values(self, kernel: Kernel) -> Kernel:
        layout = self.layout
        if isinstance(layout, Exchangeable):
            own = kernel if kernel.ndim == 1 else kernel[0]  # of two streams, the first
            return np.where(layout.counts > 0, own, np.nan)
        own = kernel if kernel.ndim == 2 else kernel[0]
        return _means(own, Exchangeable(len(own) // layout.batch, layout.batch))  # source or target

    def _table(self, rows: pd.DataFrame) -> pd.DataFrame:
        table = rows.assign(**self.configuration)
        values = [name for name in rows.columns if name not in KEYS]
        return table[[*KEYS, *values]].sort_values("layer", kind="stable", ignore_index=True)


def _means(kernel: Kernel, layout: Exchangeable) -> Kernel:
    """Means of a T x T kernel over the diagonal, over pairs within sequences and over pairs across them."""
    blocks = kernel.reshape(layout.batch, layout.tokens, layout.batch, layout.tokens)
    own = float(np.trace(kernel))
    within = float(np.einsum("bibj->", blocks))
    sums = np.array([own, within - own, kernel.sum() - within])
    return np.divide(sums, layout.counts, out=np.full(3, np.nan), where=layout.counts > 0)


def _width_columns(samples: Kernel, limit: Kernel) -> dict[str, Kernel]:
    """Mean, its error, spread and log-normal band from samples of shape (parameters, seeds)."""
    seeds = samples.shape[1]
    # What is exactly 0, as a key's bias, comes out of a sample as rounding.
    rounding = (limit == 0) & (samples.mean(axis=1) < 1e-12 * samples.mean(axis=1).max())
    samples = np.where(rounding[:, None], 0.0, samples)
    mean, sd = samples.mean(axis=1), samples.std(axis=1, ddof=1)
    # A positive product of many factors is near log-normal; both moments are matched.
    spread = np.sqrt(np.log1p(np.divide(sd, mean, out=np.zeros_like(sd), where=mean > 0) ** 2))
    middle = mean * np.exp(-(spread**2) / 2)
    return {
        "grad_sq": mean,
        "grad_norm": np.sqrt(mean),
        "grad_sq_limit": limit,
        "grad_sq_se": sd / np.sqrt(seeds),
        "grad_sq_sd": sd,
        "grad_sq_low": middle * np.exp(-_NORMAL_975 * spread),
        "grad_sq_high": middle * np.exp(_NORMAL_975 * spread),
    }


_NORMAL_975 = 1.959963984540054
"""The 97.5 % quantile of a standard normal variable."""
