"""The answers: their numbers by another route, their refusals, and the page that shows them."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import meanfield as mf
from meanfield.answers import (
    GradientRatio,
    by_layer,
    depth_to_share,
    gradient_ratio,
    matches_paper,
    residual_growth,
    unit_scaling_gradients,
)
from meanfield.initialization import SCHEMES, Initialization, Sizes, deepnorm_constants, initialization

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"
SIZES = Sizes(width=64, kv_width=64, d_ff=256, depth=6)


def test_every_block_of_the_page_gives_what_it_shows() -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 9
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    doctest.DocTestRunner().run(examples, out=report.append)
    assert not report, "".join(report)


def test_the_blocks_are_really_run() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "control", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1


@pytest.mark.parametrize("tokens", [1, 2, 16])
def test_a_norm_on_each_branch_adds_one_to_q(tokens: int) -> None:
    found = residual_growth(mf.branch_norm(width=64, depth=5, qk_norm="all", norm_eps=0.0), tokens=tokens)
    assert found.q == pytest.approx([1 + 2 * layer for layer in range(6)], rel=1e-9)
    assert found.norms[-1] == pytest.approx(math.sqrt(11))
    assert 0.4 < found.exponent < 0.5


def test_growth_of_the_other_placements() -> None:
    assert residual_growth(mf.paper_post_ln(width=64, depth=4), tokens=3).q == pytest.approx([1.0] * 5)
    deep = residual_growth(mf.paper_pre_ln(width=64, depth=512), tokens=1)
    assert deep.exponent == pytest.approx(0.5, abs=0.002)
    with pytest.raises(mf.InputError, match="depth"):
        residual_growth(mf.pre_ln(width=64, depth=1), tokens=1)


def test_by_layer_adds_up_to_the_whole_table_and_keeps_stacks_apart() -> None:
    df = mf.predict(mf.pre_ln(width=64, depth=3, vocab=2_000), tokens=4).df
    layers = by_layer(df)
    assert list(layers.layer) == [0, 1, 2, 3, 4]
    assert layers.grad_sq.sum() == pytest.approx(df.grad_sq.sum())
    assert set(layers["stack"]) == {""}
    both = df.assign(module=["encoder." + df.module[0], *("decoder." + df.module[1:])])
    assert list(dict.fromkeys(by_layer(both)["stack"])) == ["encoder", "decoder"]


def test_gradient_ratio_of_one_token_in_pre_ln_is_that_of_the_telescoping_product() -> None:
    found = gradient_ratio(mf.paper_pre_ln(width=64, depth=6), tokens=1)
    assert (found.largest, found.smallest) == (1, 6)
    # Squares of W_V and of W_1, W_2 fall like 1/q at the sub-layer's input and output; see docs/theory.md.
    df = mf.predict(mf.paper_pre_ln(width=64, depth=6), tokens=1).df
    down = df[(df.module == "ffn.down") & (df.parameter == "weight")].set_index("layer").grad_sq
    assert down[1] / down[6] == pytest.approx((1 + 3 * 6 / 2) / (1 + 3 / 2))
    assert GradientRatio((1.0, 0.0)).ratio == math.inf


def test_the_depth_is_the_least_one_and_the_share_is_reached_there() -> None:
    found = depth_to_share("paper_post_ln", 0.5, tokens=64, of="token", longest=64, width=64)
    assert found.depth is not None
    assert found.reached < 0.5

    def share(depth: int) -> float:
        points = mf.predict(mf.paper_post_ln(width=64, depth=depth), tokens=64).activations
        ends = points[points.module == "norm2"].set_index("layer").q_grad
        return math.sqrt(ends[1] / ends[depth])

    assert share(found.depth) == pytest.approx(found.reached)
    assert all(share(depth) >= 0.5 for depth in range(1, found.depth))


def test_post_ln_parameters_never_fall_below_the_limit_of_their_mean() -> None:
    found = depth_to_share("paper_post_ln", 0.1, tokens=16, longest=128, width=64)
    assert found.depth is None
    assert "never up to depth 128" in str(found)
    assert found.reached == pytest.approx(
        depth_to_share("paper_post_ln", 0.1, tokens=16, longest=64, width=64).reached, rel=1e-3
    )


@pytest.mark.parametrize(
    ("preset", "share", "named"),
    [("post_lm", 0.5, "post_ln"), ("post_ln", 0.0, "share"), ("post_ln", math.nan, "share")],
)
def test_depth_to_share_refuses(preset: str, share: float, named: str) -> None:
    with pytest.raises(mf.InputError, match=named):
        depth_to_share(preset, share, tokens=2, width=64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_matches_itself_and_nothing_ten_per_cent_off(scheme: str) -> None:
    law = initialization(scheme, SIZES)
    assert matches_paper(law, scheme, SIZES) == ()
    off = {"q": 1.1 * float(law.q.variance), "down": 0.9 * float(law.down.variance)}
    assert [mismatch.tensor for mismatch in matches_paper(off, scheme, SIZES)] == ["q", "down"]


def test_the_known_mistakes_are_named() -> None:
    alpha, beta = deepnorm_constants(SIZES)
    xavier = float(initialization("xavier_normal", SIZES).v.variance)
    assert matches_paper({"alpha": alpha, "v": beta**2 * xavier}, "deepnorm", SIZES) == ()
    inverted, fixed = matches_paper({"v": beta**-2 * xavier, "alpha": 2.828}, "deepnorm", SIZES)
    assert "wrong sign" in inverted.reason
    assert fixed.reason == "right for depth 32 alone"
    at_32 = Sizes(width=64, kv_width=64, d_ff=256, depth=32)
    assert matches_paper({"alpha": 2.828}, "deepnorm", at_32) == ()
    packed = matches_paper(initialization("torch", SIZES), "xavier_uniform", SIZES)
    assert {m.tensor for m in packed if "packed" in m.reason} == {"q", "k", "v"}
    unexplained = matches_paper({"q": 0.3, "up_bias": 0.1}, "bert", SIZES)
    assert [mismatch.reason for mismatch in unexplained] == ["", ""]
    assert str(unexplained[1]) == "up_bias: 0.1 is not the scheme's 0"


@pytest.mark.parametrize(
    ("given", "scheme", "more", "named"),
    [
        ({"w_q": 1.0}, "gpt2", {}, "w_q"),
        ({"q": -1.0}, "gpt2", {}, "q=-1"),
        ({"q": 1.0}, "gpt3", {}, "gpt3"),
        ({"q": 1.0}, "gpt2", {"tolerance": 0.0}, "tolerance"),
        ({"alpha": 2.0}, "gpt2", {}, "alpha"),
    ],
)
def test_matches_paper_refuses(given: dict[str, Any], scheme: str, more: dict[str, Any], named: str) -> None:
    with pytest.raises(mf.InputError, match=named):
        matches_paper(given, scheme, SIZES, **more)


def test_an_initialisation_with_a_law_of_its_own_for_the_gate_is_compared_there() -> None:
    law = initialization("gpt2", SIZES)
    gated = Initialization(**{name: getattr(law, name) for name in law.__slots__} | {"gate": mf.Draw(1)})
    assert [mismatch.tensor for mismatch in matches_paper(gated, "gpt2", SIZES)] == ["gate"]


def _unit_scaled_gradients(expansion: int, seed: int) -> list[float]:
    """Root mean square of the gradients of up and gate in one random network of width 128, on 16 tokens."""
    rng = np.random.default_rng(seed)
    tokens, width, d_ff = 16, 128, 128 * expansion

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    x, out = normal(tokens, width), normal(tokens, width)
    up, gate = (x @ normal(width, d_ff) / width**0.5 for _ in range(2))
    sigmoid = 1 / (1 + np.exp(-gate))
    scale = 2**0.75
    # The forward factor of the down-projection, in the backward pass too.
    hidden_grad = out @ normal(width, d_ff) / d_ff**0.5
    up_grad = hidden_grad * scale * gate * sigmoid
    gate_grad = hidden_grad * scale * up * sigmoid * (1 + gate * (1 - sigmoid))
    # ||x^T g||^2 = <x x^T, g g^T>; weight gradients are divided by sqrt(tokens).
    squares = (np.sum((x @ x.T) * (grad @ grad.T)) / tokens for grad in (up_grad, gate_grad))
    return [float(np.sqrt(square / (width * d_ff))) for square in squares]


DRAWS = 200
PUBLISHED = {1: (0.94, 0.99), 2: (0.73, 0.72), 4: (0.51, None)}  # up, gate


@pytest.mark.parametrize("expansion", PUBLISHED)
def test_unit_scaled_gradients_are_those_of_random_networks_and_of_the_published_one(expansion: int) -> None:
    theory = unit_scaling_gradients(expansion)
    drawn = np.array([_unit_scaled_gradients(expansion, seed) for seed in range(DRAWS)])
    mean_sq, spread = (drawn**2).mean(axis=0), drawn.std(axis=0, ddof=1)
    for k, name in enumerate(("up", "gate")):
        error = (drawn[:, k] ** 2).std(ddof=1) / DRAWS**0.5
        allowed = 4.5 * error + theory[name] ** 2 * 2 / 128  # 2/d for finite width
        assert abs(mean_sq[k] - theory[name] ** 2) < allowed
        assert abs(mean_sq[k] - 1.1 * theory[name] ** 2) > allowed  # control
        published = PUBLISHED[expansion][k]
        if published is not None:
            assert abs(published - theory[name]) < 2 * spread[k] + 0.005  # it is rounded
    assert theory["up"] / theory["gate"] == pytest.approx(
        unit_scaling_gradients(1)["up"] / unit_scaling_gradients(1)["gate"]
    )
    assert theory["up"] * math.sqrt(expansion) == pytest.approx(unit_scaling_gradients(1)["up"])
    with pytest.raises(mf.InputError, match="expansion"):
        unit_scaling_gradients(-expansion)
