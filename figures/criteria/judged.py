"""One learning rate of the training experiments, judged: what the verdicts on training are made of."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from figures.contrasts import Estimate, contrast
from figures.outcomes import Pair
from figures.races import speed

HALF = 0.5  # of what is learnt with warm-up: less is failing
READABLE = 5.0  # BLEU with the best warm-up from which half of it means something
SAME, NEARLY = 0.02, 0.10  # of the gain: a loss that much higher counts as the same, and as nearly so
DECISIVE = 0.95  # share of the gain at which steps are compared


class Against(NamedTuple):
    """A learning rate without warm-up against the best warm-up.

    Args:
        pair: What is compared.
        difference: Final loss without warm-up less that with the best.
        worse: Whether that is above 0 with all of its interval.
        fails: Whether BLEU, or what is learnt, is below half of that with warm-up with all of its interval.
    """

    pair: Pair
    difference: Estimate
    worse: bool
    fails: bool


def against_warmup(pair: Pair, family: int = 1) -> Against:
    """Compare a learning rate without warm-up with its best warm-up.

    The best of m warm-ups is picked by its mean, so that the intervals are those of m comparisons.

    Args:
        pair: The runs.
        family: Number of learning rates of which it is enough that one shows something.

    Returns:
        The comparison.
    """
    none, best, comparisons = pair.without, pair.best, len(pair.warmups) * family
    difference = contrast([none["final_loss"], best["final_loss"]], [1, -1], comparisons)
    readable = none["bleu"].notna().all() and best["bleu"].notna().all() and best["bleu"].mean() >= READABLE
    measure = "bleu" if readable else "learnt"
    below_half = contrast([none[measure], best[measure]], [1, -HALF], comparisons)
    return Against(pair, difference, difference.low > 0, below_half.high < 0)


class PreLn(NamedTuple):
    """Pre-LN without warm-up at one learning rate.

    Args:
        difference: Its final loss less that of Post-LN with the best warm-up.
        same: Whether its loss is that of its own best warm-up and of Post-LN's, within 2 % of the gain.
        nearly: Whether within 10 %.
        faster: Whether it does so in fewer steps than Post-LN.
        less: Whether the optimiser matters less than the placement; None where RAdam was not run.
        words: The numbers.
    """

    difference: Estimate
    same: bool
    nearly: bool
    faster: bool
    less: bool | None
    words: str


class Runs(NamedTuple):
    """What one learning rate of Pre-LN is judged by.

    Args:
        pre: Pre-LN by Adam.
        post: Post-LN by Adam.
        pre_radam: Pre-LN by RAdam without warm-up; empty where it was not run.
        post_radam: Post-LN by RAdam without warm-up; empty where it was not run.
        steps: Rows of the table ``steps`` of `figures.steps_to_loss` of this learning rate.
    """

    pre: Pair
    post: Pair
    pre_radam: pd.DataFrame
    post_radam: pd.DataFrame
    steps: pd.DataFrame


def pre_ln(runs: Runs, family: int = 1) -> PreLn:
    r"""Judge Pre-LN without warm-up at one learning rate.

    In the two-by-two table of placements and optimisers the mean effects P of the placement and O of the
    optimiser satisfy P - |O| = \min(post_radam - pre_adam, post_adam - pre_radam): the placement matters more
    exactly if Post-LN is worse than Pre-LN also where it has the better optimiser.

    Args:
        runs: The runs.
        family: Number of learning rates of which it is enough that one shows something.

    Returns:
        The judgement.
    """
    pre, post = runs.pre, runs.post
    own, other = (
        contrast([pre.without["final_loss"], pair.best["final_loss"]], [1, -1], family)
        for pair in (pre, post)
    )
    excess = max(own.high / pre.best["gained"].mean(), other.high / post.best["gained"].mean())
    found = speed_at(runs.steps, family)
    less, effects = _dominates(runs, family)
    return PreLn(
        other,
        excess <= SAME,
        excess <= NEARLY,
        found is not None and found[1] in ("exact", "at most") and found[0].high < 1,
        less,
        f"{words(other)}, less its own best {words(own)}, steps {speed_words(found)} of Post-LN's{effects}",
    )


def _dominates(runs: Runs, family: int) -> tuple[bool | None, str]:
    if runs.pre_radam.empty or runs.post_radam.empty:
        return None, ""
    crossed = [
        contrast([runs.post_radam["final_loss"], runs.pre.without["final_loss"]], [1, -1], family),
        contrast([runs.post.without["final_loss"], runs.pre_radam["final_loss"]], [1, -1], family),
    ]
    less = all(difference.low > 0 for difference in crossed)
    return less, f", effect of placement less that of optimiser {words(min(crossed))}"


def speed_at(steps: pd.DataFrame, family: int = 1) -> tuple[Estimate, str] | None:
    """Steps to the decisive level of one side over those of the other.

    Args:
        steps: Rows of the table ``steps`` of `figures.steps_to_loss` of one race.
        family: As for `pre_ln`.

    Returns:
        As `figures.races.speed`; None where a side gains too little for a level to come down to.
    """
    steps = steps[steps["share"] == DECISIVE]
    if steps.empty:
        return None
    return speed(steps[steps["side"] == "first"], steps[steps["side"] == "second"], family)


def words(estimate: Estimate) -> str:
    """Write a number with its interval.

    Args:
        estimate: The number.

    Returns:
        The text.

    Example:
        >>> words(Estimate(1.0, 0.5, 1.5))
        '1 [0.5, 1.5]'
    """
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def speed_words(found: tuple[Estimate, str] | None) -> str:
    """Write a ratio of steps.

    Args:
        found: What `speed_at` returned.

    Returns:
        The text.
    """
    if found is None:
        return "(none: one side learns next to nothing)"
    bound = "" if found[1] == "exact" else f"{found[1]} "
    return f"{bound}{words(found[0])} times those"
