"""The criterion of every claim: a fixed function of a figure's tables, the same for every preset and run.

Where a criterion looks at several rows at once, a row speaks against the claim when it is more than 2 % off
and its z beyond `family_limit`: chance does that to one family of rows in a hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
from scipy import stats

from figures.compare import STANDARD_ERRORS, TOLERANCE
from figures.concentration import PAPER_POINT

Tables: TypeAlias = Mapping[str, pd.DataFrame]

FORMULA_DIGITS = 1e-6  # relative error that a float64 Jacobian may show
MEAN_DOMINATED = 2.0  # times sqrt(d)/||x||
LEVEL, NEARLY_LEVEL = 1.25, 2.0  # largest over smallest layer that still counts as level, and as nearly so
FLAT = 0.05  # an exponent this small counts as none


class Finding(NamedTuple):
    """What the measurements say about one claim.

    Args:
        verdict: ``holds``, ``holds_loosely``, ``holds_under``, ``fails`` or ``not_measured``.
        statistic: What ``value`` is, and what goes with it.
        value: The deciding number, None where nothing was measured.
        interval: Its 95 % interval, None where it has none.
        sample: Sizes and number of seeds.
    """

    verdict: str
    statistic: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    sample: str = ""


def family_limit(rows: int, seeds: int) -> float:
    """The |z| that one family of rows exceeds by chance once in a hundred times, at least 3.

    Args:
        rows: Number of comparisons.
        seeds: Seeds behind each.

    Returns:
        The limit, from Student's law by Bonferroni: valid for rows that depend on each other.

    Example:
        >>> round(family_limit(1, 10_000), 2), round(family_limit(546, 10_000), 2)
        (3.0, 4.29)
    """
    return max(STANDARD_ERRORS, float(stats.t.isf(0.005 / rows, seeds - 1)))


def disagreements(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a comparison that chance does not explain.

    Args:
        table: What `figures.compare.compare` returned.

    Returns:
        The rows that are more than 2 % off with |z| beyond `family_limit`.
    """
    off = (table["ratio"] - 1).abs() > TOLERANCE
    return table[off & (table["z"].abs() > family_limit(len(table), table["seeds"].min()))]


def sample(rows: pd.DataFrame, *names: str) -> str:
    """Sizes and seeds of some rows, in words.

    Args:
        rows: Rows with the columns named and ``seeds``.
        names: Of ``width``, ``depth``, ``tokens``.

    Returns:
        The words.
    """
    sizes = []
    for name in names:
        values = [str(value) for value in sorted(rows[name].unique())]
        text = " and ".join(values) if len(values) < 3 else f"{values[0]} to {values[-1]}"
        sizes.append(f"{ {'width': 'd', 'depth': 'L', 'tokens': 'n'}[name] } = {text}")
    return ", ".join([*sizes, f"{rows['seeds'].min()} seeds"])


def _largest(rows: pd.DataFrame, by: pd.Series[float]) -> dict[Any, Any]:
    return rows.iloc[int(by.to_numpy().argmax())].to_dict()


def _every_row(rows: pd.DataFrame, what: str) -> Finding:
    worst = _largest(rows, rows["z"].abs())
    against = len(disagreements(rows))
    return Finding(
        "fails" if against else "holds",
        f"{what}, where |z| is largest (layer {worst['layer']}); "
        f"{len(rows) - against} of {len(rows)} rows agree",
        worst["ratio"],
        (worst["ratio_low"], worst["ratio_high"]),
        sample(rows, "width", "depth", "tokens"),
    )


def lemma1(tables: Tables) -> Finding:
    """Hold if the feed-forward output has q = 1/2 in every layer (its W2 keeps E||ReLU||^2).

    Args:
        tables: Of ``hidden_state_growth``.

    Returns:
        The finding.
    """
    table = tables["second_moment"]
    return _every_row(table[table["module"] == "ffn"], "q of the feed-forward output over 1/2")


def lemma2_post(tables: Tables) -> Finding:
    """Hold if q = 3/2 before the second norm of every layer.

    Args:
        tables: Of ``hidden_state_growth``.

    Returns:
        The finding.
    """
    table = tables["second_moment"]
    rows = table[(table["module"] == "residual2") & (table["placement"] == "post_ln")]
    return _every_row(rows, "q over 3/2")


def lemma2_pre(tables: Tables) -> Finding:
    """Hold if no layer's q is outside [1 + l/2, 1 + 3l/2] by more than `family_limit` standard errors.

    Args:
        tables: Of ``hidden_state_growth``.

    Returns:
        The finding.
    """
    table = tables["second_moment"]
    rows = table[(table["module"] == "residual2") & (table["placement"] == "pre_ln")]
    margin = family_limit(len(rows), rows["seeds"].min()) * rows["q_hat_se"]
    outside = (rows["q_hat"] + margin < rows["lemma2_low"]) | (rows["q_hat"] - margin > rows["lemma2_high"])
    position = (rows["q_hat"] - rows["lemma2_low"]) / (rows["lemma2_high"] - rows["lemma2_low"])
    return Finding(
        "fails" if outside.any() else "holds",
        f"largest position between the bounds (0: lower, 1: upper; smallest {position.min():.2f}); "
        f"{int((~outside).sum())} of {len(rows)} layers inside",
        float(position.max()),
        None,
        sample(rows, "width", "depth", "tokens"),
    )


def lemma3(tables: Tables) -> Finding:
    """Fail if a spectral norm is not sqrt(d)/||y||; hold under a condition if one exceeds 2 sqrt(d)/||x||.

    Args:
        tables: Of ``norm_jacobian``.

    Returns:
        The finding.
    """
    table = tables["jacobian"]
    error = (table["spectral_norm"] / table["lemma3"] - 1).abs().max()
    excess = float((table["spectral_norm"] / table["without_mean"]).max())
    verdict = "holds_under" if excess > MEAN_DOMINATED else "holds"
    return Finding(
        "fails" if error > FORMULA_DIGITS else verdict,
        f"largest norm over sqrt(d)/||x||, where {table['mean_share'].max():.2%} of ||x||^2 is in the "
        f"coordinate mean; sqrt(d)/||y|| is met to {error:.0e}",
        excess,
        None,
        f"d = {table['width'].iloc[0]}, {table['seed'].nunique()} draws",
    )


def concentration_chi2(tables: Tables) -> Finding:
    """Fail if an interval of delta is above the lemma; hold loosely if at 0.1 it is below half of it.

    Args:
        tables: Of ``concentration``.

    Returns:
        The finding.
    """
    table = tables["tail"]
    rows = table[(table["series"] == "input") & (table["eps"] > 0)]
    at = rows[rows["eps"] == PAPER_POINT[0]].iloc[0].to_dict()
    verdict = "holds_loosely" if at["delta_hat_high"] < at["lemma"] / 2 else "holds"
    return Finding(
        "fails" if (rows["delta_hat_low"] > rows["lemma"]).any() else verdict,
        f"delta(0.1) of Gaussian tokens; allowed is {at['lemma']:.3f}, the exact tail is {at['chi2']:.4f}",
        at["delta_hat"],
        (at["delta_hat_low"], at["delta_hat_high"]),
        sample(rows, "width", "tokens"),
    )


def concentration_measured(tables: Tables) -> Finding:
    """Fail if delta(0.1) of a placement is above 0.125 with all of its interval.

    Args:
        tables: Of ``concentration``.

    Returns:
        The finding.
    """
    table = tables["tail"]
    rows = table[(table["series"] != "input") & (table["eps"] == PAPER_POINT[0])]
    worst = _largest(rows, rows["delta_hat"])
    return Finding(
        "fails" if (rows["delta_hat_low"] > PAPER_POINT[1]).any() else "holds",
        f"delta(0.1), the larger of both placements ({worst['series']}); claimed is at most {PAPER_POINT[1]}",
        worst["delta_hat"],
        (worst["delta_hat_low"], worst["delta_hat_high"]),
        sample(rows, "width", "depth", "tokens"),
    )


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


def figure3ab(tables: Tables) -> Finding:
    """Judge the decoder's W1 and W2 in the paper's notion, the norm of the mean gradient.

    Fail unless Post-LN's last layer is above its first in both, intervals apart. Then Pre-LN decides, by its
    largest over its smallest layer: hold up to 1.25, hold loosely up to 2, else fail. The interval of that
    ratio pairs opposite ends, so it is wider than 95 %.

    Args:
        tables: Of ``paper_model``.

    Returns:
        The finding.
    """
    table = tables["layers"]
    growth, spread, apart = {}, {}, True
    for name, module in (("W1", "decoder.ffn.up"), ("W2", "decoder.ffn.down")):
        rows = table[table["module"] == module].sort_values("layer")
        post = rows[rows["placement"] == "post_ln"].to_dict("records")
        growth[name] = post[-1]["norm_of_mean"] / post[0]["norm_of_mean"]
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
        f"Post-LN, last over first layer: W1 {growth['W1']:.2f}, W2 {growth['W2']:.2f}",
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


CRITERIA: dict[str, tuple[str, Callable[[Tables], Finding]]] = {
    "lemma1": ("hidden_state_growth", lemma1),
    "lemma2.post": ("hidden_state_growth", lemma2_post),
    "lemma2.pre": ("hidden_state_growth", lemma2_pre),
    "lemma3": ("norm_jacobian", lemma3),
    "concentration.chi2": ("concentration", concentration_chi2),
    "concentration.measured": ("concentration", concentration_measured),
    "theorem1.post": ("theorem1", lambda tables: theorem1(tables, "post_ln")),
    "theorem1.pre": ("theorem1", lambda tables: theorem1(tables, "pre_ln")),
    "extension.post": ("gradient_by_layer", extension_post),
    "extension.pre": ("gradient_by_layer", extension_pre),
    "fig3a/b": ("paper_model", figure3ab),
    "fig3c/d": ("gradient_by_depth", figure3cd),
}
