"""What a check looks like: its table, its text, its JSON."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import meanfield as mf
from empirical.initialization import FAULTS, NOTES, Row, check_initialization
from empirical.initialization.finding import runs
from tests.empirical.initialization_models import check_own, encoder


def test_the_table_has_a_row_for_each_tensor_and_part() -> None:
    module = encoder(2)
    check = check_initialization(module, "xavier_uniform")
    table = check.df
    assert list(table) == list(Row.__dataclass_fields__)
    assert len(table) == 2 * 16 + 2
    row = table.set_index("name").loc["layers.1.self_attn.in_proj_weight[v]"]
    assert (row.layer, row.module, row.parameter, row.entries) == (2, "attention.v", "weight", 64 * 64)
    assert row.variance == pytest.approx(1 / 64)
    assert row.ratio == pytest.approx(row.variance_hat / row.variance)
    assert row.ratio_low < row.ratio < row.ratio_high < 1
    assert row.law == "uniform"
    assert row["kurtosis"] == pytest.approx(1.8, abs=0.1)
    assert row.finding == "variance"
    gain = table.set_index("name").loc["layers.1.norm1.weight"]
    assert (gain.mean_hat, gain.variance_hat, gain.law, gain["dtype"]) == (1, 0, "constant", "float32")
    assert list(table.layer) == sorted(table.layer)


def test_without_a_scheme_its_columns_are_empty() -> None:
    table = check_initialization(encoder(2)).df
    assert table[["variance", "ratio", "p_value", "detectable"]].isna().all().all()
    assert table.p_value_mean.notna().sum() == 2 * 6


def test_everything_goes_into_json() -> None:
    check = check_own(mf.pre_ln(width=32, depth=2, heads=2, init="torch"), "bert")
    values = json.loads(json.dumps(check.as_dict(), allow_nan=False))
    assert values["scheme"] == "bert"
    assert values["ok"] is False
    assert {finding["kind"] for finding in values["findings"]} <= set(FAULTS)
    assert {note["kind"] for note in values["notes"]} <= set(NOTES)
    assert len(values["tensors"]) == len(check.rows)
    assert values["tensors"][0]["ratio"] is None


def test_the_text_has_one_line_for_equal_layers_and_keeps_brackets() -> None:
    text = str(check_initialization(encoder(3), "xavier_uniform"))
    assert "layers.*.self_attn.in_proj_weight[q]" in text
    line = next(line for line in text.splitlines() if "in_proj_weight[q]" in line)
    assert line.split()[1:4] == ["1-3", "4,096", "0.01562"]
    assert "• variance: attention.q weight" in text
    assert "at most 1 % of right models fail one of them" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert "no fault" in str(check_initialization(encoder(1), "torch"))


def test_it_prints_itself() -> None:
    check = check_initialization(encoder(1), "torch")
    written = io.StringIO()
    check.show(Console(file=written, width=110, color_system=None))
    assert "Initialisation of 18 tensors beside torch: no fault" in written.getvalue()
    console = Console(file=io.StringIO(), width=110)
    console.print(check)


def test_runs_of_layers() -> None:
    assert runs([]) == ""
    assert runs([5, 1, 2, 3, 9, 8]) == "1-3, 5, 8-9"


def test_detectable_shrinks_with_the_size_of_the_tensor() -> None:
    table = check_own(mf.pre_ln(width=64, depth=2, heads=2, init="bert"), "bert").df
    tested = table[table.p_value.notna()].sort_values("entries")
    sizes, ratios = tested.entries.to_numpy(), tested.detectable.to_numpy()
    assert 1 < ratios[-1] < ratios[0]
    assert (ratios[-1] - 1) / (ratios[0] - 1) == pytest.approx(math.sqrt(sizes[0] / sizes[-1]), rel=0.1)


def test_the_page_shows_what_is_printed_and_lists_every_kind() -> None:
    page = (Path(__file__).parents[2] / "docs/initialization_check.md").read_text()
    code, text = (page.split(f"```{kind}\n")[1].split("\n```")[0] for kind in ("python", "text"))
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), names)
    assert [line.rstrip() for line in printed.getvalue().rstrip().splitlines()] == text.splitlines()
    for kind, what in (FAULTS | NOTES).items():
        assert f"| `{kind}` | {what} |" in page
