"""Criteria of the claims about training: written down before any run was looked at.

All of them compare cells, a cell being the runs of one setting over its seeds, never single runs. Every cell
that is looked at needs three seeds; with fewer, or a loss that is not a number, the claim is not measured. A
diverged run counts as one that learnt nothing (`figures.outcomes.outcomes`). Intervals are Welch's at 95 %
(`figures.contrasts.contrast`); where it is enough that one of k comparisons shows something, at 1 - 0.05/k,
so that k chances do not make a finding.

What is *gained* is the validation loss before training less that after it, in nats per target token; what is
*learnt* is the loss of who knows the frequencies of tokens and nothing else, less that after training. The
first version had gained in place of learnt: in a pilot (seeds 0 to 2, not those that are judged) a model of
BLEU 0 that had found the frequencies then counted as half trained.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from figures.contrasts import contrast
from figures.criteria.enough import SEEDS, NotEnoughError, by_adam, compared, enough, sizes, without_warmup
from figures.criteria.finding import Finding, Tables
from figures.criteria.judged import DECISIVE, HALF, Runs, against_warmup, pre_ln, speed_at, speed_words
from figures.outcomes import NO_WARMUP, Pair
from figures.races import best, small_rate


def warmup_post(tables: Tables) -> Finding:
    """Judge Post-LN without warm-up against its best warm-up, at every learning rate of Adam and of SGD.

    A learning rate is *worse* without warm-up if the final loss less that of the best warm-up is above 0 with
    all of its interval. It *fails* without warm-up if BLEU less half of that of the best warm-up is below 0
    with all of its interval; where there is no BLEU, or less than 5 with the best warm-up, what is learnt
    takes its place. The best of m warm-ups is picked by its mean loss, so that these are m comparisons.

    - ``holds``: every learning rate of both optimisers is worse and fails.
    - ``holds_under``: some are worse and fail, by intervals that hold for all of them at once; or every one
      of Adam, and SGD was not run.
    - ``holds_loosely``: every one is worse, and none fails.
    - ``fails``: otherwise.

    The value is the difference at Adam's largest learning rate. That the length of the warm-up and the
    learning rate matter is reported, as the range over cells with warm-up; so are the learning rates and
    depths at which Post-LN learns less than half of what Pre-LN does, both without warm-up. Neither decides.

    Args:
        tables: Of ``learning_rate_grid``.

    Returns:
        The finding.
    """
    runs = tables["runs"]
    try:
        adam, sgd = by_adam(runs, "post_ln"), compared(runs, "post_ln", "sgd")
    except NotEnoughError as reason:
        return Finding("not_measured", str(reason))
    looked_at = [*adam.values(), *sgd.values()]
    each = [against_warmup(pair) for pair in looked_at]
    surely = [against_warmup(pair, len(looked_at)) for pair in looked_at]
    if all(found.worse and found.fails for found in each):
        verdict = "holds" if sgd else "holds_under"
    elif any(found.worse and found.fails for found in surely):
        verdict = "holds_under"
    elif all(found.worse for found in each) and not any(found.fails for found in each):
        verdict = "holds_loosely"
    else:
        verdict = "fails"
    largest = max((found for found in each if found.pair.optimizer == "adam"), key=lambda f: f.pair.lr_max)
    listed = ", ".join(
        f"{found.pair.optimizer} {found.pair.lr_max:g}: {found.difference.value:.2f}"
        + (" (fails)" if found.worse and found.fails else "")
        for found in each
    ) + ("" if sgd else ", SGD was not run")
    means = [runs["final_loss"].mean() for pair in looked_at for runs in pair.warmups.values()]
    return Finding(
        verdict,
        f"final loss without warm-up less that with the best, Adam at lr {largest.pair.lr_max:g}; {listed}; "
        f"over learning rates and lengths of warm-up the loss is {min(means):.2f} to {max(means):.2f}; "
        f"{_against_pre_ln(runs)}",
        largest.difference.value,
        (largest.difference.low, largest.difference.high),
        _sizes(looked_at),
    )


def _against_pre_ln(runs: pd.DataFrame) -> str:
    """Where Post-LN learns less than half of what Pre-LN learns, both by Adam without warm-up."""
    alone = runs[(runs["warmup"] == NO_WARMUP) & (runs["optimizer"] == "adam")]
    alone = alone[(alone["task"] == "translation") & (alone["schedule"] != "constant")]
    failing, looked_at = [], 0
    for _, group in alone.groupby(["lr_max", "depth"]):
        post, pre = (group[group["placement"] == name]["learnt"] for name in ("post_ln", "pre_ln"))
        if min(len(post), len(pre)) >= SEEDS and np.isfinite([*post, *pre]).all():
            looked_at += 1
            if contrast([post, pre], [1, -HALF]).high < 0:
                failing.append("lr {lr_max:g} at L = {depth}".format(**group.iloc[0]))
    where = f"at {', '.join(failing)}" if 0 < len(failing) < looked_at else f"at {len(failing)}"
    return (
        f"without warm-up Post-LN learns less than half of what Pre-LN does {where} of {looked_at} settings"
    )


def warmup_pre(tables: Tables) -> Finding:
    """Judge Pre-LN without warm-up at every learning rate of Adam, and RAdam against the placement.

    At a learning rate Pre-LN without warm-up reaches *the same* loss if its final loss is at most 2 % of what
    is gained above that of its own best warm-up, and at most 2 % above that of Post-LN's, by the upper ends
    of both intervals; *nearly* the same is at most 10 %. It is *faster* if the steps it needs to 95 % of the
    gain, over those that Post-LN with its best warm-up needs, are below 1 with all of the interval
    (`figures.steps_to_loss`; a run of Pre-LN that never gets there rules it out). The optimiser *matters
    less* if, without warm-up, Post-LN by RAdam is worse than Pre-LN by Adam and Post-LN by Adam worse than
    Pre-LN by RAdam, in both cases with all of the interval: that is, if the mean effect of the placement
    exceeds the size of the mean effect of the optimiser. That is looked at where RAdam was run.

    - ``holds``: at every learning rate it reaches the same loss, faster, and the optimiser matters less.
    - ``holds_loosely``: at every one, with nearly the same loss.
    - ``holds_under``: at some it reaches nearly the same loss, faster, and at some the optimiser matters
      less, by intervals that hold for all of them at once; or RAdam was not run.
    - ``fails``: otherwise.

    The value is the final loss of Pre-LN without warm-up less that of Post-LN with its best warm-up, at the
    largest learning rate. The best warm-up is picked by its mean, which makes it look better than it is: that
    counts against the claim.

    Args:
        tables: Of ``steps_to_loss``.

    Returns:
        The finding.
    """
    runs = tables["runs"]
    try:
        looked_at = _with_radam(runs, tables["steps"])
    except NotEnoughError as reason:
        return Finding("not_measured", str(reason))
    each = {lr_max: pre_ln(sides) for lr_max, sides in looked_at.items()}
    surely = [pre_ln(sides, len(looked_at)) for sides in looked_at.values()]
    radam = any(found.less is not None for found in each.values())
    if all(found.nearly and found.faster and found.less is not False for found in each.values()):
        same = all(found.same for found in each.values())
        verdict = ("holds" if same else "holds_loosely") if radam else "holds_under"
    else:
        trains = any(found.nearly and found.faster for found in surely)
        less = any(found.less for found in surely)
        verdict = "holds_under" if trains and (less or not radam) else "fails"
    largest = max(each)
    return Finding(
        verdict,
        f"final loss of Pre-LN without warm-up less Post-LN's with the best, at lr {largest:g}; "
        + "; ".join(
            f"lr {lr_max:g}{'' if found.nearly and found.faster else ' (not shown)'}: {found.words}"
            for lr_max, found in each.items()
        )
        + ("" if radam else "; RAdam was not run"),
        each[largest].difference.value,
        (each[largest].difference.low, each[largest].difference.high),
        _sizes([pair for sides in looked_at.values() for pair in (sides.pre, sides.post)]),
    )


def _with_radam(runs: pd.DataFrame, steps: pd.DataFrame) -> dict[float, Runs]:
    pre, post = by_adam(runs, "pre_ln"), by_adam(runs, "post_ln")
    rates = [lr_max for lr_max in pre if lr_max in post]
    if not rates:
        raise NotEnoughError("no learning rate of adam was run with warm-up in both placements")
    steps = steps[(steps["race"] == "pre_ln") & (steps["task"] == "translation")]
    return {
        lr_max: Runs(
            pre[lr_max],
            post[lr_max],
            without_warmup(runs, "pre_ln", "radam", lr_max),
            without_warmup(runs, "post_ln", "radam", lr_max),
            steps[steps["race_lr_max"] == lr_max],
        )
        for lr_max in rates
    }


def small_lr(tables: Tables) -> Finding:
    """Judge Post-LN by Adam at a small, constant learning rate without warm-up, against warm-up.

    It is compared with the learning rate and warm-up of the lowest mean final loss. It *trains* if no seed
    diverges and it learns more than half of what that learns, with all of the interval of the difference: the
    opposite of failing in `warmup_post`. It is *slower* if the steps it needs to 95 % of what it gains
    itself, over those that warm-up needs to the same loss, are above 1 with all of the interval (a run with
    warm-up that never gets there rules it out).

    - ``holds``: it trains and is slower.
    - ``holds_loosely``: it trains and is not shown to be slower.
    - ``fails``: otherwise.

    The value is its final loss less that with warm-up.

    Args:
        tables: Of ``steps_to_loss``.

    Returns:
        The finding.
    """
    runs, steps = tables["runs"], tables["steps"]
    try:
        small = enough(small_rate(runs, "translation"), "Post-LN by adam at a constant learning rate")
        other = best(list(by_adam(runs, "post_ln").values())).best
    except NotEnoughError as reason:
        return Finding("not_measured", str(reason))
    diverged = int((small["status"] == "diverged").sum())
    trains = not diverged and contrast([small["learnt"], other["learnt"]], [1, -HALF]).low > 0
    found = speed_at(steps[(steps["race"] == "small_lr") & (steps["task"] == "translation")])
    slower = found is not None and found[1] in ("exact", "at least") and found[0].low > 1
    value = contrast([small["final_loss"], other["final_loss"]], [1, -1])
    return Finding(
        ("holds" if slower else "holds_loosely") if trains else "fails",
        f"final loss at a constant lr of {small['lr_max'].iloc[0]:g} less that at "
        f"{other['lr_max'].iloc[0]:g} with {other['warmup'].iloc[0]} steps of warm-up; it learns "
        f"{small['learnt'].mean() / other['learnt'].mean():.0%} of that, {diverged} of {len(small)} diverge; "
        f"steps to {DECISIVE:.0%} of its gain {speed_words(found)} with warm-up",
        value.value,
        (value.low, value.high),
        sizes([small, other]),
    )


def _sizes(looked_at: list[Pair]) -> str:
    return sizes([runs for pair in looked_at for runs in (pair.without, *pair.warmups.values())])
