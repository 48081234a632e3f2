"""The command with a preset of training: one pass for all figures, each drawn from its own tables alone."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from scipy import stats

import empirical.train.grid
import empirical.train.presets
from figures import first_update, gradient_after_warmup, learning_rate_grid, training_curves
from figures.__main__ import FIGURES, PROG, TRAINED, main, read
from figures.presets import PRESETS, TRAINING
from figures.style import style
from meanfield.claims import LEDGER
from meanfield.cli import run
from meanfield.errors import InputError
from tests.figures.training_tables import STEPS, Course, gradients, predictions, trained

CLAIMS = ("warmup.post", "warmup.pre", "small_lr")
ARGUMENTS = ["--preset", "warmup", "--device", "cpu", "--json", "--out"]


def risk(row: dict[str, Any]) -> float:
    """Above 1 exactly where the made-up course of the paper fails."""
    fails = row["placement"] == "post_ln" and row["warmup"] == 1 and row["optimizer"] != "radam"
    return 4.0 if fails and row["schedule"] != "constant" else 0.1


def everything() -> dict[str, pd.DataFrame]:
    tables = trained()
    return tables | {"gradients": gradients(), "predictions": predictions(tables, risk)}


class Trainer:
    """Stands in for `empirical.train.grid.train_grid`, and keeps what it was called with."""

    def __init__(self, made: dict[str, pd.DataFrame]) -> None:
        self.made = made
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        runs: Sequence[Any],
        folder: Path,
        *,
        workers: int,
        device: str,
        advance: Callable[[float], None],
    ) -> dict[str, pd.DataFrame]:
        there = [run.name for run in runs if (folder / run.name).exists()]
        self.calls.append({"runs": runs, "workers": workers, "device": device, "there": there})
        for one in runs:
            (folder / one.name).mkdir(parents=True, exist_ok=True)
            advance(one.steps)
        return self.made


@pytest.fixture(scope="module")
def quick_claims() -> Iterator[None]:
    """Leave the derivations out: they are no part of this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("figures.verdicts.LEDGER", {name: LEDGER[name] for name in CLAIMS})
        yield


@pytest.fixture(scope="module")
def trainer(quick_claims: None) -> Iterator[Trainer]:
    """Train nothing, and three runs of it."""
    made = Trainer(everything())
    runs = tuple(SimpleNamespace(name=f"run-{k}", steps=STEPS) for k in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(empirical.train.grid, "train_grid", made)
        patch.setitem(empirical.train.presets.PRESETS, "warmup", runs)
        yield made


class Made(NamedTuple):
    """What one run of the command left."""

    out: Path
    report: dict[str, Any]
    stderr: str
    calls: list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make every figure once."""
    out = tmp_path_factory.mktemp("warmup")
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        assert main([*ARGUMENTS, str(out)]) == 0
    return Made(out, json.loads(stdout.getvalue()), stderr.getvalue(), list(trainer.calls))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def test_one_pass_of_training_makes_every_figure_and_verdict(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    assert [(call["device"], call["there"]) for call in made.calls] == [("cpu", [])]
    assert "100%" in made.stderr
    assert {claim["id"]: claim["measured"] for claim in made.report["claims"]} == dict.fromkeys(
        CLAIMS, "holds"
    )
    assert {claim["theory"] for claim in made.report["claims"]} == {"not_derived"}
    assert "unless the claim is about training" in (made.out / "verdicts.md").read_text()
    for name, module in TRAINED.items():
        with style(), caplog.at_level(logging.WARNING):
            figure = module.draw(read(made.out, name))
            if name == "gradient_after_warmup":  # the others would only take longer
                assert png(figure) == (made.out / f"{name}.png").read_bytes()
        assert (made.out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert not caplog.records
        drawn = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
        assert any(axes.get_xlabel() for axes in drawn)
        assert any(axes.get_ylabel() for axes in drawn)
        for legend in figure.findobj(Legend):
            labels = [text.get_text() for text in legend.get_texts()]
            assert labels
            assert len(labels) == len(set(labels))


def test_only_force_and_the_same_tables_again(
    made: Made, trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in made.out.glob("*.*")}
    assert main([*ARGUMENTS, str(made.out), "--only", "gradient_after_warmup"]) == 0
    assert json.loads(capsys.readouterr().out) == made.report
    assert {path.name: path.read_bytes() for path in made.out.glob("*.*")} == before
    assert trainer.calls[-1]["there"] == ["run-0", "run-1", "run-2"]
    assert main([*ARGUMENTS, str(made.out), "--only", "gradient_after_warmup", "--force"]) == 0
    assert trainer.calls[-1]["there"] == []


def test_verdicts_of_both_kinds_of_preset_meet_in_one_folder(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.figures.conftest import TINY

    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr("figures.verdicts.LEDGER", {n: LEDGER[n] for n in (*CLAIMS, "lemma3")})
    arguments = ["--preset", "tiny", "--device", "cpu", "--json", "--out", str(made.out)]
    main([*arguments, "--only", "norm_jacobian"])
    found = {claim["id"]: claim["measured"] for claim in json.loads(capsys.readouterr().out)["claims"]}
    assert found == {"lemma3": "holds_under", **dict.fromkeys(CLAIMS, "holds")}


def test_without_predictions_that_figure_is_left_out_by_name(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delitem(trainer.made, "predictions")
    for name in ("training_curves", "learning_rate_grid", "steps_to_loss"):
        monkeypatch.delitem(TRAINED, name)
    (tmp_path / "first_update.risk.csv").write_text("of another run")
    assert main([*ARGUMENTS, str(tmp_path)]) == 0
    assert "first_update: nothing to show" in capsys.readouterr().err
    assert not list(tmp_path.glob("first_update.*"))
    assert (tmp_path / "gradient_after_warmup.png").exists()
    with pytest.raises(SystemExit) as stop:
        run(PROG, lambda: main([*ARGUMENTS, str(tmp_path), "--only", "first_update"]))
    assert stop.value.code == 2
    assert "figure 'first_update' has nothing to show" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "warmup", "--only", "theorem1"], "accepted are first_update, gradient_after_warmup"),
        (["--preset", "quick", "--only", "training_curves"], "accepted are concentration, gradient_by_depth"),
        (["--preset", "warm"], "did you mean 'warmup'?"),
    ],
)
def test_a_figure_belongs_to_a_kind_of_preset(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(PROG, lambda: main([*arguments, "--out", str(tmp_path / "out")]))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_presets_and_figures_have_names_of_their_own() -> None:
    assert not set(PRESETS) & set(TRAINING)
    assert not set(FIGURES) & set(TRAINED)
    assert set(TRAINING.values()) <= set(empirical.train.presets.PRESETS)


def test_curves_leave_the_sweep_out_and_stop_where_a_run_diverged() -> None:
    table = training_curves.measure(trained())["curves"]
    translation = table[table["task"] == "translation"]
    adam = translation[(translation["optimizer"] == "adam") & (translation["schedule"] != "constant")]
    assert sorted(adam["lr_max"].unique()) == [0.001, 0.004]
    assert translation["depth"].unique().tolist() == [6]
    gone = table[table["status"] == "diverged"]
    assert gone["step"].max() == gone["last_step"].iloc[0] < STEPS


def test_gradients_are_those_of_the_best_warm_up_before_and_after() -> None:
    tables = everything()
    layers = gradient_after_warmup.measure(tables)["layers"]
    assert layers["warmup"].unique().tolist() == [400]
    assert layers.groupby("moment", sort=False)["step"].first().to_dict() == {
        "before training": 0,
        "after warm-up": 400,
        "last step": STEPS,
    }
    post = layers[(layers["placement"] == "post_ln") & (layers["module"] == "decoder.ffn.down")]
    before = post[post["moment"] == "before training"].sort_values("layer")
    found = before[["norm_of_mean_low", "norm_of_mean", "norm_of_mean_high"]].to_numpy(dtype=float)
    true = 1.4 ** np.arange(1, 7)
    np.testing.assert_allclose(found[:, 1], true, rtol=0.2)
    assert ((found[:, 0] < true) & (true < found[:, 2])).sum() >= 5
    assert (layers["norm_of_mean_low"] > 0).all()
    seeds = tables["gradients"]
    assert gradient_after_warmup.measure({**tables, "gradients": seeds[seeds["seed"] == 0]}) == {}
    broken = seeds.assign(norm_of_mean=seeds["norm_of_mean"].where(seeds["seed"] != 1))
    assert set(gradient_after_warmup.measure({**tables, "gradients": broken})["layers"]["seeds"]) == {2}


def test_gradients_are_compared_at_a_warm_up_of_both_placements() -> None:
    tables = everything()
    for name in ("runs", "gradients"):
        rows = tables[name]
        tables[name] = rows[(rows["placement"] == "post_ln") | (rows["warmup"] != 400)]
    layers = gradient_after_warmup.measure(tables)["layers"]
    assert layers["warmup"].unique().tolist() == [100]
    assert set(layers["placement"]) == {"post_ln", "pre_ln"}
    alone = {name: rows[rows["placement"] == "post_ln"] for name, rows in tables.items()}
    assert gradient_after_warmup.measure(alone)["layers"]["warmup"].unique().tolist() == [400]


def test_a_grid_of_one_learning_rate_is_drawn_without_sweeps() -> None:
    one = {name: rows[rows["lr_max"] == 0.001] for name, rows in trained().items()}
    with style():
        figure = learning_rate_grid.draw(learning_rate_grid.measure(one))
        assert png(figure).startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == [
        "Post-LN, Adam",
        "Pre-LN, Adam",
        "Post-LN, RAdam",
        "Pre-LN, RAdam",
    ]


def test_a_true_risk_is_told_and_its_controls_are_not() -> None:
    tables = first_update.measure(everything())
    true, control = tables["told"].to_dict("records")
    assert (true["by"], control["by"]) == ("risk", "risk_other_placement")
    assert (true["auc"], true["right"]) == (1.0, 1.0)
    assert true["auc_p"] < 0.001
    assert control["auc"] < 0.5
    assert control["auc_p"] > 0.5
    assert true["rank_correlation"] < -0.5 < control["rank_correlation"]
    assert true["rank_p"] < 0.001
    assert control["rank_p"] > 0.05
    rows = tables["risk"]
    oracle = stats.spearmanr(rows["risk"], rows["share"]).statistic
    assert true["rank_correlation"] == pytest.approx(oracle)
    assert tables["risk"]["fails"].sum() == true["failing"] == 11


def test_what_is_slow_at_a_small_rate_has_not_failed() -> None:
    def slow(key: Any) -> Course:
        return Course(7.0 if key["lr_max"] < 0.0005 else 1.0)

    def too_large(key: Any) -> Course:
        return Course(7.0 if key["lr_max"] in {0.004, 0.008} else 1.0)

    for course, failing in ((slow, set()), (too_large, {0.004, 0.008})):
        tables = trained(course)
        risks = first_update.measure(tables | {"predictions": predictions(tables, risk)})["risk"]
        adam = risks[
            (risks["optimizer"] == "adam") & (risks["depth"] == 6) & (risks["task"] == "translation")
        ]
        assert set(adam[adam["fails"]]["lr_max"]) == failing


def test_a_risk_that_is_the_same_for_all_tells_nothing() -> None:
    tables = trained()
    told = first_update.measure(tables | {"predictions": predictions(tables, lambda row: 2.0)})["told"]
    assert told["auc"].tolist() == [0.5, 0.5]
    assert told["auc_p"].tolist() == told["rank_p"].tolist() == [1.0, 1.0]
    assert told["rank_correlation"].isna().all()
    nothing_fails = trained(lambda key: Course())
    told = first_update.measure(nothing_fails | {"predictions": predictions(nothing_fails, risk)})["told"]
    assert told["auc"].isna().all()


def test_two_risks_of_one_configuration_are_refused() -> None:
    tables = everything()
    twice = pd.concat([tables["predictions"], tables["predictions"].assign(risk=7.0)])
    with pytest.raises(InputError, match="a configuration has two risks"):
        first_update.measure(tables | {"predictions": twice})


def test_a_grid_without_warm_up_has_nothing_to_compare() -> None:
    alone = {name: table[table["warmup"] == 1] for name, table in everything().items()}
    shown = [name for name, module in TRAINED.items() if module.measure(alone)]
    assert shown == ["first_update"]  # a risk can still be set beside what came of it
