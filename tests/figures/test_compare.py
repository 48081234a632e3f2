"""The join of theory and measurement, and the controls that it has to reject."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from figures.compare import KEYS, compare, interval, resampled_means, summarise
from meanfield import paper_post_ln, paper_pre_ln
from meanfield.errors import InputError
from meanfield.ops import Transformer
from meanfield.predict import predict

TOKENS = 16
SEEDS = 200
SPREAD = 0.25  # relative spread of one seed, as measured models have it


def theory(arch: Transformer) -> pd.DataFrame:
    return predict(arch, tokens=TOKENS).df


def synthetic(
    table: pd.DataFrame, seeds: int = SEEDS, spread: float = SPREAD, stream: int = 1
) -> pd.DataFrame:
    """Measurements whose mean is the table: gamma draws with a common and a private factor per seed."""
    rng = np.random.default_rng(stream)
    shape = 2 / spread**2  # two factors share the variance
    common = rng.gamma(shape, 1 / shape, (seeds, 1))
    values = table["grad_sq"].to_numpy() * common * rng.gamma(shape, 1 / shape, (seeds, len(table)))
    rows = pd.concat([table[KEYS]] * seeds, ignore_index=True)
    return rows.assign(seed=np.repeat(np.arange(seeds), len(table)), grad_sq_hat=values.ravel())


@pytest.fixture
def post_ln() -> pd.DataFrame:
    return theory(paper_post_ln(width=512, depth=6))


@pytest.fixture
def pre_ln() -> pd.DataFrame:
    return theory(paper_pre_ln(width=512, depth=6))


def test_hand_computed_ratio_interval_and_z() -> None:
    keys: dict[str, object] = dict.fromkeys(KEYS, 1)
    samples = pd.DataFrame([keys | {"seed": s, "grad_sq_hat": v} for s, v in enumerate([1.0, 2.0, 3.0])])
    row = compare(pd.DataFrame([keys | {"grad_sq": 2.5}]), samples).iloc[0]
    assert row["ratio"] == pytest.approx(0.8)
    assert row["grad_sq_hat_se"] == pytest.approx(1 / np.sqrt(3))
    assert row["z"] == pytest.approx(-0.5 * np.sqrt(3))
    assert 1 / 2.5 <= row["ratio_low"] < 0.8 < row["ratio_high"] <= 3 / 2.5
    assert row["seeds"] == 3


def test_a_correct_theory_is_accepted(post_ln: pd.DataFrame, pre_ln: pd.DataFrame) -> None:
    # Rows share a factor; over 10 data sets false alarms stay near the 0.27 % of three standard errors.
    alarms = [
        1 - compare(table, synthetic(table, stream=stream))["agrees"].mean()
        for table in (post_ln, pre_ln)
        for stream in range(5)
    ]
    assert np.mean(alarms) < 0.01


@pytest.mark.statistical
def test_interval_covers_the_truth() -> None:
    # 400 data sets: the standard error of the coverage is 1.1 %.
    rng = np.random.default_rng(7)
    ends = [interval(resampled_means(rng.gamma(16.0, 1 / 16, (50, 1)))) for _ in range(400)]
    assert np.mean([low[0] <= 1 <= high[0] for low, high in ends]) == pytest.approx(0.95, abs=3 * 0.011)


@pytest.mark.parametrize("factor", [1.05, 1 / 1.05])
def test_a_theory_wrong_by_five_percent_is_rejected(post_ln: pd.DataFrame, factor: float) -> None:
    # 3 SE of the mean are 1.5 % with this sample and a spread of 7 %: 5 % is far outside.
    samples = synthetic(post_ln, spread=0.07)
    wrong = post_ln.assign(grad_sq=post_ln["grad_sq"] * factor)
    assert compare(post_ln, samples)["agrees"].all()
    assert not compare(wrong, samples)["agrees"].any()


def test_swapped_placement_is_rejected(post_ln: pd.DataFrame, pre_ln: pd.DataFrame) -> None:
    shared = ["layer", "module", "parameter"]
    swapped = post_ln[KEYS].merge(pre_ln[[*shared, "grad_sq"]], on=shared)
    samples = synthetic(post_ln)
    samples = samples[samples["module"].isin(["attention.v", "ffn.up", "ffn.down"])]
    swapped = swapped[swapped["module"].isin(["attention.v", "ffn.up", "ffn.down"])]
    table = compare(swapped, samples)
    # The two placements' curves cross, so single rows may agree on the way; not in the last layer.
    assert not table.loc[table["layer"] == 6, "agrees"].any()
    assert table["agrees"].mean() < 0.2


def test_dropped_root_of_depth_is_rejected(pre_ln: pd.DataFrame) -> None:
    last = pre_ln[(pre_ln["layer"] == 6) & (pre_ln["module"] == "ffn.down")]
    wrong = last.assign(grad_sq=last["grad_sq"] * 6)
    assert not compare(wrong, synthetic(last))["agrees"].any()


def test_unmatched_rows_are_named(post_ln: pd.DataFrame) -> None:
    samples = synthetic(post_ln)
    with pytest.raises(InputError, match=r"no measurement.*layer=6 module=ffn\.down"):
        compare(post_ln, samples[~((samples["layer"] == 6) & (samples["module"] == "ffn.down"))])
    with pytest.raises(InputError, match="no theory"):
        compare(post_ln.iloc[1:], samples)
    with pytest.raises(InputError, match="no measurement"):
        compare(post_ln.assign(tokens=8), samples)


def test_doubled_rows_and_missing_seeds_are_refused(post_ln: pd.DataFrame) -> None:
    samples = synthetic(post_ln, seeds=3)
    with pytest.raises(InputError, match="twice"):
        compare(pd.concat([post_ln, post_ln]), samples)
    with pytest.raises(InputError, match="twice"):
        compare(post_ln, pd.concat([samples, samples]))
    with pytest.raises(InputError, match="seeds are missing"):
        compare(post_ln, samples.iloc[1:])
    with pytest.raises(InputError, match="at least 2 seeds"):
        compare(post_ln, samples[samples["seed"] == 0])


def test_a_quantity_without_spread(post_ln: pd.DataFrame) -> None:
    samples = synthetic(post_ln, seeds=3).drop(columns="grad_sq_hat").merge(post_ln, on=KEYS)
    exact = samples.rename(columns={"grad_sq": "grad_sq_hat"})
    assert (compare(post_ln, exact)["z"].abs() < 1e-6).all() or compare(post_ln, exact)["agrees"].all()
    off = exact.assign(grad_sq_hat=exact["grad_sq_hat"] * 1.03)
    assert not compare(post_ln, off)["agrees"].any()


def test_seeds_are_resampled_jointly_for_all_parameters(post_ln: pd.DataFrame) -> None:
    values = np.random.default_rng(0).gamma(4.0, size=(50, 1)) @ np.array([[1.0, 3.0]])
    means = resampled_means(values)
    np.testing.assert_allclose(means[:, 1], 3 * means[:, 0])


def test_order_of_rows_does_not_matter(post_ln: pd.DataFrame) -> None:
    samples = synthetic(post_ln, seeds=20)
    shuffled = samples.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(compare(post_ln, samples), compare(post_ln, shuffled), rtol=1e-12)


def test_configurations_are_resampled_apart(post_ln: pd.DataFrame, pre_ln: pd.DataFrame) -> None:
    both = pd.concat([synthetic(post_ln, seeds=20), synthetic(pre_ln, seeds=30)])
    table = summarise(both, "grad_sq_hat")
    assert table.groupby("placement")["seeds"].unique().map(list).to_dict() == {
        "post_ln": [20],
        "pre_ln": [30],
    }
