"""`predict`: the tidy theory table of an architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from meanfield.errors import InputError, MissingRuleError, positive_integer
from meanfield.moments.stack import propagate
from meanfield.moments.state import Exchangeable
from meanfield.ops import EncoderDecoder, Norm, Transformer, walk

if TYPE_CHECKING:
    import pandas as pd

    from meanfield.moments.backward import Record

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


def configuration(arch: Transformer, tokens: int, batch: int, loss: str) -> dict[str, Any]:
    """Build the key columns that are the same for all rows of one run.

    Args:
        arch: The architecture.
        tokens: Tokens in a sequence.
        batch: Sequences.
        loss: Name of the loss.

    Returns:
        Column name to value, in the order of `KEYS` up to ``loss``.
    """
    return {
        "arch": arch.name,
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
        record: The numbers of the recursion.
    """

    configuration: dict[str, Any]
    record: Record

    @property
    def df(self) -> pd.DataFrame:
        """One row per parameter: key columns, ``grad_sq`` and its root ``grad_norm``; in order of depth."""
        import pandas as pd  # half a second: not at import

        rows = [(*key, grad_sq, math.sqrt(grad_sq)) for key, grad_sq in reversed(self.record.grad_sq.items())]
        return self._table(
            pd.DataFrame(rows, columns=["layer", "module", "parameter", "grad_sq", "grad_norm"])
        )

    @property
    def activations(self) -> pd.DataFrame:
        """One row per point: key columns, q, cov, cov_across, their gradient twins; NaN where no pair is."""
        import pandas as pd

        counts = Exchangeable(self.configuration["tokens"], self.configuration["batch"]).counts
        missing = np.where(counts > 0, 0.0, np.nan)
        rows = [
            (layer, module, "activation", *(kernel + missing), *(gradient + missing))
            for (layer, module), (kernel, gradient) in reversed(self.record.points.items())
        ]
        names = ["q", "cov", "cov_across", "q_grad", "cov_grad", "cov_grad_across"]
        return self._table(pd.DataFrame(rows, columns=["layer", "module", "parameter", *names]))

    def _table(self, rows: pd.DataFrame) -> pd.DataFrame:
        table = rows.assign(**self.configuration)
        values = [name for name in rows.columns if name not in KEYS]
        return table[[*KEYS, *values]].sort_values("layer", kind="stable", ignore_index=True)


def check_architecture(arch: object) -> Transformer | EncoderDecoder:
    """Check that a value is an architecture on which gradients say something.

    Args:
        arch: The value.

    Returns:
        The value.

    Raises:
        InputError: If it is no architecture, or a LayerNorm has a single coordinate: x - mean(x) is then 0.

    Example:
        >>> from meanfield import paper_post_ln
        >>> check_architecture(paper_post_ln(width=2, depth=3)).name
        'paper_post_ln'
    """
    if not isinstance(arch, Transformer | EncoderDecoder):
        shown = repr(arch).partition("\n")[0]
        raise InputError(
            f"arch={shown} is no architecture: give a Transformer, for example mf.pre_ln(width=512, depth=6)"
        )
    for stack in (arch.encoder, arch.decoder) if isinstance(arch, EncoderDecoder) else (arch,):
        blocks = [run.block for run in stack.layers]
        for op in (op for part in (*blocks, stack.final_norm) if part is not None for op in walk(part)):
            if isinstance(op, Norm) and op.kind == "layernorm" and op.width < 2:
                raise InputError(
                    f"width={op.width} is too small: LayerNorm needs at least 2 coordinates; give a greater "
                    "width, or norm='rmsnorm'"
                )
    return arch


def predict(
    arch: Transformer | EncoderDecoder,
    *,
    tokens: int,
    batch: int = 1,
    loss: str = "linear",
    label_smoothing: float = 0.0,
    q: float = 1.0,
    cov: float = 0.0,
) -> Prediction:
    """Predict E||dL/dtheta||_F^2 of every parameter tensor at initialisation, at infinite width.

    Nothing is measured or fitted: the numbers follow from the architecture value alone.

    Args:
        arch: The architecture; for an encoder-decoder there is no rule.
        tokens: Tokens in a sequence.
        batch: Sequences.
        loss: ``"linear"``: (1/T) sum_i <r_i, y_i>, r_i ~ N(0, I/d); ``"cross_entropy"``: the mean over the T
            positions with uniform random labels.
        label_smoothing: For cross entropy, in [0, 1).
        q: Second moment per coordinate of the input vectors; an embedding gives its own.
        cov: The same between two input tokens of a sequence, |cov| <= q.

    Returns:
        The table, with ``.df`` for parameters and ``.activations`` for the points of every block.

    Raises:
        InputError: If this is no architecture, LayerNorm has one coordinate, a size or the input moments
            cannot be, or an argument has no meaning here.
        MissingRuleError: If the theory has no rule for a part of the architecture.

    Assumes:
        Width to infinity; Gaussian or other independent weights of mean 0; exchangeable tokens.

    Source:
        xiong2020, App. B-F, with the residual branches kept in the backward pass.

    Example:
        For one token Post-LN keeps the squared gradient: ||dL/dW_2||^2 = d/3 in every layer.

        >>> from meanfield import paper_post_ln
        >>> df = predict(paper_post_ln(width=300, depth=3), tokens=1).df
        >>> down = df[(df.module == "ffn.down") & (df.parameter == "weight")]
        >>> [round(value, 9) for value in down.grad_sq]
        [100.0, 100.0, 100.0]
    """
    arch = check_architecture(arch)
    if isinstance(arch, EncoderDecoder):
        raise MissingRuleError(
            arch, "moments", "the theory covers one stack; measure this architecture instead"
        )
    layout = Exchangeable(positive_integer("tokens", tokens), positive_integer("batch", batch))
    for what, value in (("q", q), ("cov", cov), ("label_smoothing", label_smoothing)):
        if not isinstance(value, Real):
            raise InputError(f"{what}={value!r} is not a number: give a real number")
    if arch.embedding is not None and (q, cov) != (1, 0):
        raise InputError(
            f"q={q}, cov={cov} mean nothing where an embedding makes the input: leave them out, or leave "
            "out vocab"
        )
    if label_smoothing and loss == "linear":
        raise InputError(
            f"label_smoothing={label_smoothing} means nothing for loss='linear': give 0, or 'cross_entropy'"
        )
    if not (math.isfinite(q) and q > 0):
        raise InputError(f"q={q} is no second moment: give a finite number above 0")
    if not (math.isfinite(cov) and -q / max(1, layout.tokens - 1) <= cov <= q):
        lowest = -q / max(1, layout.tokens - 1)
        raise InputError(
            f"cov={cov} is impossible for {layout.tokens} tokens: give a number in [{lowest:g}, {q:g}]"
        )
    record = propagate(arch, layout, loss=loss, label_smoothing=label_smoothing, q=q, cov=cov)
    return Prediction(configuration(arch, layout.tokens, layout.batch, loss), record)
