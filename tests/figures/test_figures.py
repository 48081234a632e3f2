"""Every figure from its tables alone, and what its tables must hold."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend

import empirical
from figures import style
from figures.__main__ import FIGURES, read
from figures.compare import resampled_means
from figures.lab import work
from meanfield import paper_encoder_decoder
from meanfield.symbolic.figure3 import post_ln_shapes
from tests.figures.conftest import TINY, Run


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_redrawn_from_its_data_alone(
    tiny_run: Run, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("empirical.measured", pytest.fail)
    monkeypatch.setattr("empirical.build", pytest.fail)
    with style.style(), caplog.at_level(logging.WARNING):
        figure = FIGURES[name].draw(read(tiny_run.out, name))
        assert png(figure) == (tiny_run.out / f"{name}.png").read_bytes()
    assert not caplog.records
    assert all(axes.get_title() or axes.get_title("left") for axes in figure.axes)
    assert any(axes.get_xlabel() for axes in figure.axes)
    assert any(axes.get_ylabel() for axes in figure.axes)
    legends = figure.findobj(Legend)
    assert legends
    for legend in legends:
        labels = [text.get_text() for text in legend.get_texts()]
        assert len(labels) == len(set(labels))


def test_gradient_table_holds_every_parameter_kind(tiny_run: Run) -> None:
    table = read(tiny_run.out, "gradient_by_layer")["parameters"]
    kinds = set(zip(table["module"], table["parameter"], strict=True))
    assert kinds == {
        ("attention.v", "weight"),
        *((f"ffn.{which}", p) for which in ("up", "down") for p in ("weight", "bias")),
        *((norm, p) for norm in ("norm1", "norm2", "final_norm") for p in ("weight", "bias")),
    }
    assert set(table["seeds"]) == {TINY.seeds}


def test_pre_ln_of_one_token_reaches_the_upper_bound(tiny_run: Run) -> None:
    table = read(tiny_run.out, "hidden_state_growth")["second_moment"]
    alone = table[
        (table["module"] == "residual2") & (table["tokens"] == 1) & (table["placement"] == "pre_ln")
    ]
    np.testing.assert_allclose(alone["q"], alone["lemma2_high"])
    post = table[(table["module"] == "residual2") & (table["placement"] == "post_ln")]
    assert (post["lemma2_low"] == 1.5).all()


def test_jacobian_is_lemma_3_to_float64(tiny_run: Run) -> None:
    table = read(tiny_run.out, "norm_jacobian")["jacobian"]
    np.testing.assert_allclose(table["spectral_norm"], table["lemma3"], rtol=1e-9)
    dominated = table[table["mean_share"] == 0.9999]
    np.testing.assert_allclose(dominated["spectral_norm"] / dominated["without_mean"], 100, rtol=1e-6)


def test_decorrelation_is_the_ratio_of_the_mean_moments(tiny_run: Run) -> None:
    table = read(tiny_run.out, "token_correlation")["decorrelation"]
    assert ((table["decorrelation"] > 0) & (table["decorrelation"] < 1)).all()
    inside = (table["ratio_low"] * table["decorrelation"] <= table["decorrelation_hat"]) & (
        table["decorrelation_hat"] <= table["ratio_high"] * table["decorrelation"]
    )
    assert inside.mean() > 0.9  # an interval may leave out its own estimate at 5 seeds, seldom


def test_mean_of_norms_is_not_below_norm_of_the_mean(tiny_run: Run) -> None:
    table = read(tiny_run.out, "paper_model")["layers"]
    assert (table["mean_of_norms"] >= table["norm_of_mean"]).all()
    assert sorted(table["module"].unique()) == [
        f"{stack}.ffn.{which}" for stack in ("decoder", "encoder") for which in ("down", "up")
    ]


def test_theory_of_the_paper_model_is_a_shape_set_to_the_last_layer(tiny_run: Run) -> None:
    table = read(tiny_run.out, "paper_model")["layers"]
    drawn = table[table["norm_of_mean_theory"].notna()]
    assert set(drawn["placement"]) == {"post_ln"}
    assert sorted(drawn["module"].unique()) == ["decoder.ffn.down", "encoder.ffn.down"]
    for notion in ("mean_of_norms", "norm_of_mean"):
        for stack, shape in post_ln_shapes(depth=2, tokens=TINY.tokens).items():
            line = drawn[drawn["module"] == f"{stack}.ffn.down"].sort_values("layer")
            np.testing.assert_allclose(line[f"{notion}_theory"], np.array(shape) * line[notion].iloc[-1])


@pytest.mark.statistical
def test_post_ln_shapes_are_those_of_a_model_with_uniform_attention() -> None:
    depth, tokens, width = 3, 8, 256
    options: dict[str, Any] = {
        "width": width,
        "heads": 1,
        "d_ff": width,
        "vocab": 500,
        "attention": "uniform",
    }
    arch = paper_encoder_decoder(depth=depth, **options)
    samples = empirical.ensemble(arch, tokens=tokens, seeds=range(60), loss="cross_entropy").samples
    shapes = post_ln_shapes(depth, tokens)

    def agrees(stack: str, shape: list[float]) -> bool:
        rows = samples[(samples["module"] == f"{stack}.ffn.down") & (samples["parameter"] == "weight")]
        squares = rows.pivot(index="seed", columns="layer", values="grad_sq_hat").to_numpy()
        mean, resampled = squares.mean(axis=0), resampled_means(squares)
        ratio, spread = (mean / mean[-1]) ** 0.5, (resampled / resampled[:, -1:]) ** 0.5
        # Finite width, and the mask of the decoder, which the theory leaves out: about 10/width of the norm.
        margin = 4 * spread.std(axis=0, ddof=1) + 10 / width * np.array(shape)
        return bool((np.abs(ratio - shape) <= margin).all())

    assert all(agrees(stack, shape) for stack, shape in shapes.items())
    assert not agrees("decoder", shapes["encoder"])
    assert not agrees("encoder", shapes["decoder"])
    # Had the encoder's tokens stayed apart, cross-attention would add 1/n and take that much less.
    assert not agrees("decoder", [(1 + 1 / tokens) ** ((layer - depth) / 2) for layer in range(1, depth + 1)])


def test_exponents_are_those_of_the_printed_means(tiny_run: Run) -> None:
    tables = read(tiny_run.out, "theorem1")
    for row in tables["exponents"].to_dict("records"):
        means = tables["last_ffn"]
        means = means[(means["sweep"] == row["size"]) & (means["placement"] == row["placement"])]
        fitted = np.polyfit(np.log(means[row["size"]]), np.log(means["grad_sq_hat"]) / 2, 1)[0]
        assert row["estimate"] == pytest.approx(fitted)
        assert row["low"] <= row["estimate"] <= row["high"]


def test_shared_cells_count_once() -> None:
    cells = [cell for module in FIGURES.values() for cell in module.cells(TINY)]
    assert work(cells) == work(cells + cells)
    assert work(cells) < sum(cell.seeds * cell.seed_cost for cell in cells)


def test_progress_reaches_its_total(tiny_run: Run) -> None:
    assert "100%" in tiny_run.stderr
