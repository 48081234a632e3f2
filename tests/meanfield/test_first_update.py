"""The first update: hand-computed steps, sums over parameters by two routes, closures, refusals."""

from __future__ import annotations

import doctest
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import meanfield as mf
from empirical import build
from empirical.names import named_parameters
from meanfield import ops
from meanfield.first_update import LARGEST_CHANGE, OPTIMIZERS, Setting
from meanfield.first_update.algebra import (
    average,
    effective_rank,
    leaning,
    multiply,
    normal,
    root_share,
    times,
    trace,
    within_sequences,
)
from meanfield.first_update.change import Tangent
from meanfield.first_update.moves import GAUSSIAN
from meanfield.first_update.scores import unevenness
from meanfield.first_update.shapes import parameter_shapes
from meanfield.first_update.sides import Sides
from meanfield.first_update.survey import Survey
from meanfield.first_update.tables import rows_move, word_rows
from meanfield.first_update.tangent import Flow
from meanfield.given import Given, given_inputs
from meanfield.moments.loss import Loss
from meanfield.moments.state import Exchangeable, Gram
from meanfield.predict.engine import limit

PAGE = Path(__file__).parents[2] / "docs" / "first_update.md"
SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 4, "vocab": 11}
OTHERS = {
    "gated": mf.pre_ln(**SMALL, tied=True, activation="swiglu", kv_heads=2, qk_norm="head", norm="rmsnorm"),
    "segments": mf.post_ln(**SMALL, positions=7, segments=2, head_bias=True, embedding_norm=True),
    "pair": mf.paper_encoder_decoder(width=16, depth=2, heads=4, d_ff=32, vocab=11, positions=7),
    "one table": mf.encoder_decoder(**SMALL, placement="pre_ln", tied=True, shared_embedding=True),
    "relative": mf.pre_ln(**SMALL, relative_bias=ops.RelativeBias("bias", ops.Draw(1.0), shared=True)),
}


def updated(arch: Any, **how: Any) -> mf.FirstUpdate:
    return mf.first_update(arch, **{"tokens": 4, "batch": 2, "learning_rate": 1e-3, **how})


def row(update: mf.FirstUpdate, layer: int, module: str, parameter: str = "weight") -> Any:
    df = update.df
    return df[(df.layer == layer) & (df.module == module) & (df.parameter == parameter)].iloc[0]


@pytest.mark.parametrize("name", [*sorted(mf.presets().name), *OTHERS])
def test_every_tensor_of_the_built_model_has_its_shape(name: str) -> None:
    if name in OTHERS:
        arch: Any = OTHERS[name]
    elif name in ("encoder_decoder", "paper_encoder_decoder"):
        arch = getattr(mf, name)(**SMALL)
    elif name.startswith("paper"):
        arch = getattr(mf, name)(width=16, depth=2)
    else:
        arch = getattr(mf, name)(**SMALL)
    shapes = parameter_shapes(arch)
    built = {p.key: p for p in named_parameters(build(arch))}
    assert shapes.keys() == built.keys()
    for key, shape in shapes.items():
        law = built[key].law
        assert shape.size == built[key].tensor.numel()
        assert shape.square == pytest.approx(float(law.variance) + float(law.mean) ** 2)


def test_one_token_by_hand() -> None:
    """W_V: entries x d of Gaussians; W_2: relu(u) d, half of its rows 0; W_1: half of its columns."""
    width = 400
    update = updated(
        mf.paper_post_ln(width=width, depth=1), tokens=1, batch=1, loss="linear", learning_rate=1.0
    )
    value, up, down = (row(update, 1, name) for name in ("attention.v", "ffn.up", "ffn.down"))
    assert value.grad_abs == pytest.approx(2 / math.pi * width * value.grad_norm)
    assert (value.moved, value.update_norm) == (width**2, width)
    for weight in (
        up,
        down,
    ):  # E|relu(u)| / sqrt(E relu^2) = 1/sqrt(pi); E s / sqrt(E s^2) = sqrt(1/2), s = 0 or 1
        assert weight.moved / width**2 == pytest.approx(0.5, abs=0.05)
    half = GAUSSIAN * width
    assert down.grad_abs == pytest.approx(half / math.sqrt(math.pi) * down.grad_norm, rel=0.05)
    assert up.grad_abs == pytest.approx(half * GAUSSIAN * math.sqrt(0.5) * up.grad_norm, rel=0.05)
    assert down.grad_norm == pytest.approx(math.sqrt(width / 3))
    # x sign(x) sign(d): the output of W_V moves by sqrt(2/pi) d, and is 1 by coordinate
    expected = math.sqrt(2 / math.pi * width**2 + (1 - 2 / math.pi) * width)
    assert value.output_change == pytest.approx(expected)
    assert row(update.at(optimizer="sgd"), 1, "attention.v").weight_norm == pytest.approx(math.sqrt(width))


def test_tokens_that_share_nothing_move_an_output_by_a_root_less() -> None:
    """T independent tokens: mu = sqrt(2/pi)/sqrt(T), so that d_in^2 counts 1/T as much."""
    width, tokens = 256, 16
    arch = mf.paper_pre_ln(width=width, depth=1)
    update = updated(arch, tokens=1, batch=tokens, loss="linear", learning_rate=1.0)
    along = 2 / math.pi / tokens
    value = row(update, 1, "attention.v")
    assert value.output_change == pytest.approx(math.sqrt(width**2 * along + width * (1 - along)), rel=1e-9)
    share = root_share(tokens) * GAUSSIAN
    assert value.grad_abs == pytest.approx(share * width * value.grad_norm, rel=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_columns_follow_from_each_other(optimizer: str) -> None:
    update = updated(mf.pre_ln(**SMALL), optimizer=optimizer, learning_rate=0.3, warmup=10)
    df = update.df
    assert (df.entries >= df.moved).all()
    assert (df.grad_abs <= np.sqrt(df.moved) * df.grad_norm * (1 + 1e-9)).all()  # Cauchy and Schwarz
    if optimizer == "adam":
        assert df.update_norm.tolist() == pytest.approx((0.03 * np.sqrt(df.moved)).tolist())
        assert df.first_order_change.tolist() == pytest.approx((0.03 * df.grad_abs).tolist())
    else:
        assert df.update_norm.tolist() == pytest.approx((0.03 * df.grad_norm).tolist())
        assert df.first_order_change.tolist() == pytest.approx((0.03 * df.grad_norm**2).tolist())
    weights = df[df.weight_norm > 0]
    assert weights.relative_update.tolist() == pytest.approx(
        (weights.update_norm / weights.weight_norm).tolist()
    )
    biases = df[(df.weight_norm == 0) & (df.moved > 0)]
    assert len(biases)
    assert np.isinf(biases.relative_update).all()
    keys = df[(df.module == "attention.k") & (df.parameter == "bias")]
    assert (keys.moved == 0).all()
    assert (keys.update_norm == 0).all()
    assert update.first_order_change == pytest.approx(df.first_order_change.sum())
    assert update.changes.output_change.iloc[-1] == update.output_change
    assert (update.changes.aligned_change <= update.changes.output_change).all()


def test_radam_begins_as_sgd_and_adam_does_not() -> None:
    update = updated(mf.post_ln(**SMALL))
    radam, sgd, adam = (update.at(optimizer=name).df.update_norm for name in ("radam", "sgd", "adam"))
    assert radam.equals(sgd)
    assert not np.allclose(adam, sgd)


def test_the_gradient_is_that_of_predict() -> None:
    arch = mf.encoder_decoder(**{**SMALL, "depth": 1})
    df = mf.predict(arch, tokens=4, batch=2, source_tokens=3, loss="cross_entropy", label_smoothing=0.1).df
    update = updated(arch, source_tokens=3, label_smoothing=0.1)
    assert update.df.grad_norm.tolist() == pytest.approx(df.grad_norm.tolist(), rel=1e-12)
    uniform = updated(arch, source_tokens=3, label_smoothing=0.1, label_collision=1 / 11)
    assert uniform.df.grad_norm.tolist() == pytest.approx(df.grad_norm.tolist(), rel=1e-9)
    frequent = updated(arch, source_tokens=3, label_smoothing=0.1, label_collision=0.5)
    assert frequent.first_order_change > uniform.first_order_change


FLOWS: dict[str, Any] = {
    "post": mf.post_ln(**SMALL),
    "pre": mf.pre_ln(**SMALL, causal=True),
    "gated": mf.pre_ln(**SMALL, activation="swiglu", kv_heads=2, norm="rmsnorm"),
    "scaled": mf.layer_scale(**SMALL, skip_scale=0.5, branch_scale=2.0, dropout=0.1),
    "normed": mf.sub_ln(**SMALL, qk_norm="all"),
    "sandwich": mf.sandwich_ln(**SMALL, attention="uniform", tied=True),
    "pair": OTHERS["pair"],
}


@lru_cache
def surveyed(arch: Any) -> tuple[Survey, tuple[Given, ...]]:
    fed, sides = given_inputs(arch, tokens=4, batch=2), Sides()
    limit(arch, 2, fed, Loss(), sides)
    return Survey.of(sides, fed, Loss()), fed


def followed(arch: Any, *, adam: bool) -> tuple[Flow, Sides, Survey]:
    survey, fed = surveyed(arch)
    flow = Flow(survey, {key: shape.size for key, shape in parameter_shapes(arch).items()}, adam)
    list(flow.through(fed))
    return flow, survey.sides, survey


@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("name", FLOWS)
def test_the_aligned_change_lowers_the_loss_by_what_the_gradients_say(name: str, adam: bool) -> None:
    """tr K G at the final hidden states = sum of lr |g|_1, or lr ||g||^2, over all parameters below.

    Forward: K through every op. Backward: squares of gradients. Drawn attention weights differ by 1 %. The
    table of relative positions is left out of K.
    """
    flow, sides, survey = followed(FLOWS[name], adam=adam)
    assert flow.memory is not None
    layout = sides.stacks[flow.prefix].layout
    found = trace(layout, multiply(layout, flow.memory.aligned, flow.memory.gradient))
    expected = sum(
        survey.moves[key].share * math.sqrt(flow.sizes[key] * grad_sq) if adam else grad_sq
        for key, grad_sq in sides.grad_sq.items()
    )
    assert found == pytest.approx(expected, rel=0.01)
    assert found != pytest.approx(1.05 * expected, rel=0.01)


def test_one_linear_map_scatters_what_comes_back_through_it() -> None:
    """g W^T W of a Gaussian W with d_in = d_out and variance 1/d: mean g, and as much spread."""
    arch = mf.paper_pre_ln(width=8, depth=1)
    flow, sides, _ = followed(arch, adam=False)
    layout = sides.stacks[""].layout
    step = sides.stacks[""].steps[0][1].inner["0"].inner["branch"].inner["1"].inner["value"]
    flow.layer, behind = 1, sides.behind[1, "attention.v"]
    start = Tangent(np.array([1.0, 0.0, 0.0]), np.zeros(3), behind)
    flow.survey.moves.pop(ops.ParameterKey(1, "attention.v", "weight"))
    after = flow._linear("attention.v", step, start, layout)
    assert after.aligned.tolist() == [1.0, 0.0, 0.0]
    assert after.fresh[0] == pytest.approx(behind[0] / 8)


def test_the_change_grows_faster_with_depth_behind_norms() -> None:
    """From 8 to 16 layers at d = 512: Post-LN about L^1.4, Pre-LN about L^0.6; alike at 4 layers."""
    found = {
        (preset, depth): updated(
            getattr(mf, preset)(width=512, depth=depth, heads=8, vocab=1000), tokens=16, batch=4
        ).output_change
        for preset in ("post_ln", "pre_ln")
        for depth in (4, 8, 16)
    }
    exponents = {p: math.log2(found[p, 16] / found[p, 8]) for p in ("post_ln", "pre_ln")}
    assert 1.2 < exponents["post_ln"] < 1.6
    assert 0.4 < exponents["pre_ln"] < 0.75
    assert found["post_ln", 16] > 2 * found["pre_ln", 16]
    assert 0.7 < found["post_ln", 4] / found["pre_ln", 4] < 1.5


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Exchangeable, Any, Any]:
    """Two positive semidefinite kernels of exchangeable tokens."""
    layout = Exchangeable(draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    found = []
    for _ in range(2):
        across, within = draw(st.floats(0, 1)), draw(st.floats(0, 1))
        own = draw(st.floats(0.01, 2))
        found.append(np.array([own + within + across, within + across, across]))
    return layout, found[0], found[1]


@settings(max_examples=60, deadline=None)
@given(kernels())
def test_both_layouts_multiply_alike(case: tuple[Exchangeable, Any, Any]) -> None:
    few, q, g = case
    whole = Gram(few.tokens, few.batch)
    Q, G = whole.expand(q), whole.expand(g)
    rows = np.random.default_rng(0).standard_normal((5, few.total))
    pairs = [
        (multiply(few, q, g, q), multiply(whole, Q, G, Q)),
        (leaning(few, q, g), leaning(whole, Q, G)),
        (within_sequences(few, q), within_sequences(whole, Q)),
    ]
    for small, large in pairs:
        assert np.allclose(whole.expand(small), large, rtol=1e-9, atol=1e-12)
    assert np.allclose(times(few, rows, q), times(whole, rows, Q))
    assert effective_rank(few, q, g) == pytest.approx(effective_rank(whole, Q, G))
    assert trace(few, q) == pytest.approx(trace(whole, Q))
    full = average(whole, rows, rows)
    assert few.inner(q, average(few, rows, rows)) == pytest.approx(whole.inner(Q, full))


def exact_averages(values: np.ndarray) -> tuple[float, np.ndarray]:
    """E sqrt(S), E lambda_k z_k^2 / S of S = sum_k lambda_k z_k^2 with sum 1, by Laplace transforms.

    E sqrt(S) = 1/sqrt(pi) int (1 - P(s^2))/s^2 ds,
    E lambda_k z_k^2/S = int lambda_k P(t)/(1 + 2 t lambda_k) dt,
    P(t) = E exp(-t S) = prod_k (1 + 2 t lambda_k)^(-1/2),   over s, t from 0 to infinity
    """
    nodes, weights = np.polynomial.legendre.leggauss(600)
    s, weights = ((1 + nodes) / (1 - nodes))[:, None], 2 * weights / (1 - nodes) ** 2  # t = s^2
    whole = np.prod((1 + 2 * s**2 * values) ** -0.5, axis=1, keepdims=True)
    root = weights @ ((1 - whole) / s**2)[:, 0]
    return float(root) / np.pi**0.5, weights @ (2 * s * values / (1 + 2 * s**2 * values) * whole)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
@example([1.0, *[0.01] * 5])  # 0.099 of the whole
@example([1.0, *[0.029] * 7])  # 3.3 %
def test_the_closures_are_near_the_averages_that_they_stand_for(spectrum: list[float]) -> None:
    """E sqrt(S) within 4 %, E lambda_k z_k^2/S within 0.11 of the whole; suprema are 3.7 % and 0.1105."""
    values = np.array(spectrum) / sum(spectrum)
    layout, diagonal = Gram(len(values), 1), np.diag(values)
    root, shares = exact_averages(values)
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    assert root_share(effective_rank(layout, diagonal, np.eye(len(values)))) == pytest.approx(root, rel=0.04)
    found = np.diagonal(leaning(layout, diagonal, np.eye(len(values)))) / values
    assert np.allclose(found, shares, rtol=0, atol=0.1106)


def test_draws_have_their_kernel() -> None:
    layout, kernel = Exchangeable(2, 2), np.array([2.0, 1.0, 0.5])
    drawn = normal(layout, kernel, 200_000, np.random.default_rng(0))
    assert np.allclose(average(layout, drawn, drawn), kernel, atol=0.02)


def test_rows_of_words_by_their_counts() -> None:
    """Random ids: the mean of given ones. A row that nobody reads does not move."""
    layout, vocab = Gram(6, 2), 5
    gradient = layout.expand(np.array([1.0, 0.3, 0.3]))
    rng = np.random.default_rng(0)
    moves = [
        rows_move(*word_rows([(layout, gradient, rng.integers(vocab, size=(2, 6)))], vocab))
        for _ in range(400)
    ]
    drawn = rows_move(*word_rows([(layout, gradient, None)], vocab))
    assert drawn.moved == pytest.approx(1 - (1 - 1 / vocab) ** 12)
    assert drawn.moved == pytest.approx(float(np.mean([move.moved for move in moves])), abs=0.02)
    assert drawn.share == pytest.approx(float(np.mean([move.share for move in moves])), rel=0.02)
    exchangeable = word_rows([(Exchangeable(6, 2), np.array([1.0, 0.3, 0.3]), None)], vocab)
    assert rows_move(*exchangeable).share == pytest.approx(drawn.share)


def test_unevenness_against_dense_products() -> None:
    """-V^T M V g with M = J J / d_k of uniform weights on n keys: 1 + d_k/(n - 1) in mean square."""
    arch = mf.post_ln(width=32, depth=1, heads=4, causal=False, init="normal_0.02")
    fed = given_inputs(arch, tokens=5, batch=1)
    sides = Sides()
    limit(arch, 1, fed, Loss(), sides)
    layout, step = sides.stacks[""].layout, sides.stacks[""].steps[0][1]
    attention = step.inner["0"].inner["branch"]
    assert unevenness(attention, layout) == pytest.approx(8 / 4, rel=0.05)  # scores of variance 1e-4: a = 1/n
    rng = np.random.default_rng(0)
    jacobian = np.eye(5) / 5 - 1 / 25
    V, g = rng.standard_normal((4000, 5, 8)), rng.standard_normal((4000, 8))
    out = np.einsum("sid,ij,sje,se->sd", V, jacobian @ jacobian, V, g)
    mean = np.trace(jacobian @ jacobian)
    assert (out**2).sum() / (mean * g**2 * mean).sum() - 1 == pytest.approx(8 / 4 + 1 / 4, rel=0.1)


def test_risk_scales_with_the_rate_and_the_warmup() -> None:
    updates = [updated(mf.post_ln(**SMALL)), updated(mf.pre_ln(**SMALL))]
    table = mf.risk(updates, [("adam", 1e-3, 1), Setting("adam", 1e-3, 100), ("sgd", 0.5, 1)])
    assert table.placement.tolist() == ["post_ln"] * 3 + ["pre_ln"] * 3
    assert table.risk.tolist() == pytest.approx((table.output_change / LARGEST_CHANGE).tolist())
    assert table.risk[0] == pytest.approx(100 * table.risk[1])
    assert table.risk.tolist() == pytest.approx((table.learning_rate / table.critical_learning_rate).tolist())
    for update, critical in zip(updates, table.critical_learning_rate[::3], strict=True):
        assert mf.critical_learning_rate(update) == pytest.approx(critical)
        at = update.at(learning_rate=critical)
        assert mf.risk(at, [("adam", critical, 1)]).risk.item() == pytest.approx(1.0)
        assert at.changes.critical_learning_rate.iloc[-1] == pytest.approx(critical)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": math.nan}, "above 0"),
        ({"learning_rate": -1e-3}, "above 0"),
        ({"learning_rate": True}, "above 0"),
        ({"learning_rate": "1e-3"}, "above 0"),
        ({"warmup": 0}, "at least 1"),
        ({"warmup": 1.5}, "whole number"),
        ({"batch": 0}, "at least 1"),
        ({"tokens": 0}, "at least 1"),
        ({"loss": "hinge"}, "accepted are"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": "a"}, "label_smoothing"),
        ({"label_collision": 0.0}, "label_collision"),
        ({"label_collision": 1e-3}, "at least 1/11"),
        ({"label_collision": "often"}, "label_collision"),
        ({"label_collision": 0.1, "loss": "linear"}, "cross_entropy"),
        ({"source_tokens": 3}, "encoder-decoder"),
        ({"ids": [[99] * 4] * 2}, "99"),
    ],
)
def test_bad_input_is_refused_in_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(mf.InputError) as caught:
        updated(mf.post_ln(**SMALL), **wrong)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_architecture_is_refused() -> None:
    with pytest.raises(mf.InputError, match="no architecture"):
        updated("post_ln")
    with pytest.raises(mf.InputError, match="output head"):
        updated(mf.post_ln(width=16, depth=1))


def test_settings_are_checked() -> None:
    update = updated(mf.post_ln(**SMALL))
    for settings_ in ([], [("adam", -1.0, 1)], [("adam", 1e-3, 0)], [("lion", 1e-3, 1)]):
        with pytest.raises(mf.InputError):
            mf.risk(update, settings_)
    with pytest.raises(mf.InputError, match="at least one of both"):
        mf.risk([], [("adam", 1e-3, 1)])


@pytest.mark.parametrize("preset", ["residual", "b2t", "parallel"])
def test_where_there_is_no_rule_for_hidden_states_the_table_is_still_there(preset: str) -> None:
    update = updated(getattr(mf, preset)(**SMALL))
    assert (update.df.grad_abs > 0).any()
    with pytest.raises(mf.MissingRuleError, match=r"\.df"):
        mf.critical_learning_rate(update)
    with pytest.raises(mf.MissingRuleError):
        _ = update.changes


def test_nothing_moves_where_nothing_is_learnt() -> None:
    """ReZero's branches are off: their weights have no gradient, and Adam without eps leaves them alone."""
    df = updated(mf.rezero(**SMALL)).df
    inside = df[df.module.str.startswith("ffn")]
    assert (inside.moved == 0).all()
    assert (inside.output_change == 0).all()


def test_the_page_shows_what_is_computed() -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    examples = doctest.DocTestParser().get_doctest(blocks[0], {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    doctest.DocTestRunner().run(examples, out=report.append)
    assert not report, "".join(report)


def test_padding_is_not_there() -> None:
    """Padded tokens change nothing: every number but draws of units, 5 %, is that of shorter sequences."""
    arch = mf.encoder_decoder(**SMALL, attention="uniform")
    ids = np.random.default_rng(0).integers(11, size=(2, 4))
    short = updated(arch, ids=(ids, ids))
    longer, real = np.pad(ids, ((0, 0), (0, 2))), np.pad(np.ones((2, 4), dtype=bool), ((0, 0), (0, 2)))
    padded = updated(arch, tokens=6, ids=(longer, longer), padding=(real, real))
    for column in ("grad_norm", "grad_abs", "moved", "first_order_change"):
        assert np.allclose(short.df[column], padded.df[column], rtol=0.05), column
    exact = ~short.df.module.str.contains("ffn|head")
    assert np.allclose(short.df.grad_abs[exact], padded.df.grad_abs[exact], rtol=1e-9)
    assert padded.output_change == pytest.approx(short.output_change, rel=0.05)
