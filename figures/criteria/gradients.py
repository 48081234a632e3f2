"""Criteria of the claims about gradients."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from figures.concentration import PAPER_POINT
from figures.criteria.finding import Finding, Tables, sample

LEVEL, NEARLY_LEVEL = 1.25, 2.0  # largest over smallest layer that still counts as level, and as nearly so
FLAT = 0.05  # an exponent this small counts as none


def theorem1(tables: Tables, placement: str) -> Finding:
    """Fail if the bound is broken too often, or if the measured norm grows faster in d or L than the bound.

    Too often is more than 0.01 + delta + eps/(0.9 + eps) of the seeds, at the paper's (eps, delta); faster is
    an exponent whose whole interval is above the bound's by more than 0.05. Else hold loosely if the exponent
    of d is below the bound's with all of its interval, else hold.

    Args:
        tables: Of ``theorem1``.
        placement: ``"post_ln"`` or ``"pre_ln"``.

    Returns:
        The finding.
    """
    rows = tables["last_ffn"][tables["last_ffn"]["placement"] == placement]
    fits = tables["exponents"][tables["exponents"]["placement"] == placement]
    width, depth = (fits[fits["size"] == size].iloc[0].to_dict() for size in ("width", "depth"))
    eps, delta = PAPER_POINT
    broken = rows["broken"].sum() / rows["seeds"].sum()
    too_steep = any(fit["low"] > fit["bound"] + FLAT for fit in (width, depth))
    wrong = broken > 0.01 + delta + eps / (0.9 + eps) or too_steep
    factor = rows["bound"] / rows["grad_sq_hat"] ** 0.5
    return Finding(
        "fails" if wrong else "holds_loosely" if width["high"] < width["bound"] else "holds",
        f"exponent of d, the bound's is {width['bound']:.2f}; of L: {depth['estimate']:.2f} "
        f"[{depth['low']:.2f}, {depth['high']:.2f}], the bound's is {depth['bound']:.2f}; "
        f"{broken:.1%} of seeds break the bound, which is {factor.min():.0f} to {factor.max():.0f} times the "
        "measured norm",
        width["estimate"],
        (width["low"], width["high"]),
        sample(rows, "width", "depth", "tokens"),
    )


def _matrix(tables: Tables, placement: str, module: str) -> pd.DataFrame:
    """Pick a matrix in the deepest model, with the interval of its root mean square gradient."""
    table = tables["parameters"]
    rows = table[(table["module"] == module) & (table["parameter"] == "weight")]
    rows = rows[(rows["placement"] == placement) & (rows["depth"] == rows["depth"].max())]
    ends = {end: (rows["grad_sq"] * rows[f"ratio_{end}"]) ** 0.5 for end in ("low", "high")}
    return rows.assign(middle=rows["grad_sq_hat"] ** 0.5, **ends).sort_values(["tokens", "layer"])


def _log_ratio(first: dict[Any, Any], last: dict[Any, Any]) -> tuple[float, tuple[float, float]]:
    """Log of last over first; the interval pairs opposite ends, so it is wider than 95 %."""
    value, low, high = (
        math.log(last[above] / first[below])
        for above, below in (("middle", "middle"), ("low", "high"), ("high", "low"))
    )
    return value, (low, high)


def extension_post(tables: Tables) -> Finding:
    """Fail if W2's gradient grows per layer, first to last, by less than sqrt(3/2) for some number of tokens.

    Args:
        tables: Of ``gradient_by_layer``.

    Returns:
        The finding.
    """
    claimed = math.sqrt(1.5)
    rows = _matrix(tables, "post_ln", "ffn.down")
    growth = {}
    for tokens in rows["tokens"].unique():
        line = rows[rows["tokens"] == tokens].to_dict("records")
        value, ends = _log_ratio(line[0], line[-1])
        steps = len(line) - 1
        growth[tokens] = math.exp(value / steps), (math.exp(ends[0] / steps), math.exp(ends[1] / steps))
    least = min(growth, key=lambda tokens: growth[tokens][0])
    each = ", ".join(f"{value:.3f} at n = {tokens}" for tokens, (value, _) in growth.items())
    return Finding(
        "fails" if any(ends[1] < claimed for _, ends in growth.values()) else "holds",
        f"growth per layer of W2's gradient at n = {least}; claimed is {claimed:.3f}; all: {each}",
        *growth[least],
        sample(rows, "width", "depth", "tokens"),
    )


def extension_pre(tables: Tables) -> Finding:
    """Fail if W2's gradient falls with l over the second half of the layers, by an exponent below -0.05.

    Args:
        tables: Of ``gradient_by_layer``.

    Returns:
        The finding.
    """
    rows = _matrix(tables, "pre_ln", "ffn.down")
    rows = rows[(rows["tokens"] == rows["tokens"].max()) & (rows["layer"] >= rows["depth"] // 2)]
    line = rows.to_dict("records")
    value, ends = _log_ratio(line[0], line[-1])
    span = math.log(line[-1]["layer"] / line[0]["layer"])
    return Finding(
        "fails" if ends[1] / span < -FLAT else "holds",
        f"exponent of l of W2's gradient from layer {line[0]['layer']} to {line[-1]['layer']}; claimed is 0",
        value / span,
        (ends[0] / span, ends[1] / span),
        sample(rows, "width", "depth", "tokens"),
    )


def _last_over_first(table: pd.DataFrame, module: str, value: str) -> float:
    rows = table[(table["module"] == module) & (table["placement"] == "post_ln")].sort_values("layer")
    return float(rows[value].iloc[-1] / rows[value].iloc[0])


def figure3ab(tables: Tables) -> Finding:
    """Judge the decoder's W1 and W2 in the paper's notion, the norm of the mean gradient.

    Fail unless Post-LN's last layer is above its first in both, intervals apart. Then Pre-LN decides, by its
    largest over its smallest layer: hold up to 1.25, hold loosely up to 2, else fail. The interval of that
    ratio pairs opposite ends, so it is wider than 95 %. The encoder, and theory for uniform attention, are
    reported and decide nothing.

    The 2 is the paper's own latitude, rounded up: in its Fig. 3 the Pre-LN bars that stand for "about level"
    fall from about 0.55 to about 0.29, a factor of 1.9. The 1.25 is our choice of what is level without
    further words. `extension_pre` decides another claim, that the gradient does not depend on l when l is
    large, and so fails on any power of l that goes on falling.

    Args:
        tables: Of ``paper_model``.

    Returns:
        The finding.
    """
    table = tables["layers"]
    growth = {
        module: [_last_over_first(table, module, f"norm_of_mean{suffix}") for suffix in ("", "_theory")]
        for module in ("decoder.ffn.up", "decoder.ffn.down", "encoder.ffn.down")
    }
    spread, apart = {}, True
    for name, module in (("W1", "decoder.ffn.up"), ("W2", "decoder.ffn.down")):
        rows = table[table["module"] == module].sort_values("layer")
        post = rows[rows["placement"] == "post_ln"].to_dict("records")
        apart = apart and post[-1]["norm_of_mean_low"] > post[0]["norm_of_mean_high"]
        pre = rows[rows["placement"] == "pre_ln"].sort_values("norm_of_mean").to_dict("records")
        spread[name] = tuple(
            pre[-1][f"norm_of_mean{above}"] / pre[0][f"norm_of_mean{below}"]
            for above, below in (("", ""), ("_low", "_high"), ("_high", "_low"))
        )
    uneven, *ends = max(spread.values())
    level = "holds" if uneven <= LEVEL else "holds_loosely" if uneven <= NEARLY_LEVEL else "fails"
    return Finding(
        level if apart else "fails",
        f"Pre-LN, largest over smallest layer (W1 {spread['W1'][0]:.2f}, W2 {spread['W2'][0]:.2f}); "
        f"Post-LN, last over first layer: W1 {growth['decoder.ffn.up'][0]:.2f}, "
        "W2 {:.2f} (theory for uniform attention: {:.2f}), ".format(*growth["decoder.ffn.down"])
        + "encoder's W2 {:.2f} (theory: {:.2f})".format(*growth["encoder.ffn.down"]),
        uneven,
        (ends[0], ends[1]),
        f"{sample(table, 'width', 'depth', 'tokens')}, {table['minibatches'].iloc[0]} mini-batches",
    )


def figure3cd(tables: Tables) -> Finding:
    """Hold if, over the paper's depths, Pre-LN's exponent is below 0 and Post-LN's is flat or covers 0.

    Args:
        tables: Of ``gradient_by_depth``.

    Returns:
        The finding.
    """
    fits = tables["exponents"]
    fits = fits[fits["largest"] == fits["largest"].min()]
    post, pre = (fits[fits["placement"] == name].iloc[0].to_dict() for name in ("post_ln", "pre_ln"))
    stays = abs(post["estimate"]) <= FLAT or post["low"] <= 0 <= post["high"]
    return Finding(
        "holds" if stays and pre["high"] < 0 else "fails",
        f"exponent of L, Pre-LN; Post-LN: {post['estimate']:.3f} [{post['low']:.3f}, {post['high']:.3f}]",
        pre["estimate"],
        (pre["low"], pre["high"]),
        f"L = {pre['smallest']} to {pre['largest']}, {sample(tables['last_ffn'], 'width', 'tokens')}",
    )
