"""The criterion of every claim: a fixed function of a figure's tables, the same for every preset and run.

Where a criterion looks at several rows at once, a row speaks against the claim when it is more than 2 % off
and its z beyond `figures.criteria.finding.family_limit`: chance does that to one family of rows in a hundred.
Training runs have few seeds and no theory to agree with: `figures.criteria.training` says what decides there.
"""

from __future__ import annotations

from collections.abc import Callable

from figures.criteria import gradients, states, training
from figures.criteria.finding import Finding, Tables

CRITERIA: dict[str, tuple[str, Callable[[Tables], Finding]]] = {
    "lemma1": ("hidden_state_growth", states.lemma1),
    "lemma2.post": ("hidden_state_growth", states.lemma2_post),
    "lemma2.pre": ("hidden_state_growth", states.lemma2_pre),
    "lemma3": ("norm_jacobian", states.lemma3),
    "concentration.chi2": ("concentration", states.concentration_chi2),
    "concentration.measured": ("concentration", states.concentration_measured),
    "theorem1.post": ("theorem1", lambda tables: gradients.theorem1(tables, "post_ln")),
    "theorem1.pre": ("theorem1", lambda tables: gradients.theorem1(tables, "pre_ln")),
    "extension.post": ("gradient_by_layer", gradients.extension_post),
    "extension.pre": ("gradient_by_layer", gradients.extension_pre),
    "fig3a/b": ("paper_model", gradients.figure3ab),
    "fig3c/d": ("gradient_by_depth", gradients.figure3cd),
    "warmup.post": ("learning_rate_grid", training.warmup_post),
    "warmup.pre": ("steps_to_loss", training.warmup_pre),
    "small_lr": ("steps_to_loss", training.small_lr),
}
