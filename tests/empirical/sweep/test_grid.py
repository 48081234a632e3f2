"""Grids are multiplied out; what cannot be is refused before anything runs, by name."""

from pathlib import Path
from typing import Any

import pytest

import meanfield as mf
from empirical.sweep.cell import SETTINGS
from empirical.sweep.grid import ARCHITECTURES, KEYS, grid, load
from empirical.sweep.methods import METHODS
from meanfield.errors import InputError

BASE: dict[str, Any] = {"arch": "post_ln", "width": 16, "heads": 2, "depth": 1, "seeds": 2}


def names(table: dict[str, Any]) -> list[str]:
    return [cell.name for cell in grid(table).cells]


def test_lists_are_multiplied_out_and_seeds_come_in_blocks() -> None:
    found = grid({
        **BASE,
        "width": [16, 32],
        "depth": [1, 2, 3],
        "seeds": 5,
        "seed_block": 2,
        "first_seed": 7,
    })
    assert len(found.cells) == 2 * 3 * 3
    assert [cell.seeds for cell in found.cells[:3]] == [(7, 8), (9, 10), (11,)]
    assert {cell.options["width"] for cell in found.cells} == {16, 32}
    assert len({cell.name for cell in found.cells}) == 18


def test_architectures_are_those_of_the_presets() -> None:
    table = {**BASE, "activation": "gelu", "causal": True, "window": [[4, "none"]], "depth": 4}
    (cell,) = grid(table).cells
    assert cell.arch == mf.post_ln(
        width=16, heads=2, depth=4, activation="gelu", causal=True, window=(4, None)
    )
    pair = {
        "arch": "encoder_decoder",
        "placement": "deepnorm",
        "width": 8,
        "heads": 1,
        "depth": 1,
        "vocab": 50,
    }
    (cell,) = grid({**pair, "loss": "cross_entropy", "source_tokens": 3, "seeds": 1}).cells
    assert cell.arch == mf.encoder_decoder(placement="deepnorm", width=8, heads=1, depth=1, vocab=50)
    (cell,) = grid({**BASE, "arch": "admin", "tokens": 5}).cells  # profiled on what is measured
    assert cell.arch == mf.admin(width=16, heads=2, depth=1, tokens=5)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_preset_can_be_swept(name: str) -> None:
    plain = name.startswith("paper_p")
    more = {"vocab": 20} if name == "encoder_decoder" else {}
    assert grid({
        "arch": name,
        "width": 16,
        "depth": 1,
        "seeds": 1,
        **({} if plain else {"heads": 2}),
        **more,
    }).cells


def test_names_depend_on_the_configuration_alone(tmp_path: Path) -> None:
    (name,) = names(BASE)
    reordered = dict(reversed(BASE.items()))
    spelled = {
        **BASE, **{key: value for key, value in SETTINGS.items() if value is not None}, "method": "ensemble",
        "d_ff": 64, "norm_eps": 1e-5, "init": "xavier_uniform", "kv_heads": 2, "causal": False,
        "dropout": 0.0, "skip_scale": 1, "window": "none",
    }  # fmt: skip
    tied = {**BASE, "d_ff": "4 * width", "heads": "width / 8"}
    assert [names(table) for table in (reordered, spelled, tied)] == [[name]] * 3
    (tmp_path / "a.toml").write_text(
        "width = 16\ndepth = 1\nseeds = 2\n[[grid]]\nheads = 2\narch = 'post_ln'\n"
    )
    assert [cell.name for cell in load(tmp_path / "a.toml").cells] == [name]


def test_every_difference_has_a_name_of_its_own() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"arch": "pre_ln"}, {"width": 32}, {"heads": 4}, {"depth": 2}, {"seeds": 3}, {"first_seed": 1},
        {"tokens": 3}, {"batch": 2}, {"loss": "mse"}, {"dtype": "float64"}, {"method": "weight_free"},
        {"minibatches": 2}, {"init": "gpt2"}, {"causal": True}, {"device": "cuda"}, {"norm_eps": 0.0},
        {"vocab": 100}, {"vocab": 100, "loss": "cross_entropy"},
        {"vocab": 100, "loss": "cross_entropy", "label_smoothing": 0.1},
    ]  # fmt: skip
    assert len({names({**BASE, **change})[0] for change in changes}) == len(changes)


def test_cells_that_are_there_twice_count_once() -> None:
    found = grid({**BASE, "grid": [{"width": [16, 32]}, {"width": [32, 64]}]})
    assert len(found.cells) == 3
    assert found.merged == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hedas": 2}, "unknown key of a grid 'hedas': accepted are .*; did you mean 'heads'"),
        ({"arch": "post_lm"}, "unknown arch 'post_lm': accepted are .* did you mean 'post_ln'"),
        ({"arch": 3}, "arch=3: give a text"),
        ({"activation": "rellu"}, "unknown activation 'rellu'.*did you mean 'relu'"),
        ({"init": "gtp2"}, "gtp2.*did you mean 'gpt2'"),
        ({"norm": "layer_norm"}, "unknown norm 'layer_norm': .* did you mean 'layernorm'"),
        ({"loss": "l2"}, "unknown loss 'l2': accepted are cross_entropy, linear, mse"),
        ({"dtype": "float16"}, "unknown dtype 'float16': .* did you mean"),
        ({"device": "gpu"}, "unknown device 'gpu': accepted are cpu, cuda, mps"),
        ({"device": "auto"}, "device='auto' depends on the machine"),
        ({"method": "ensembel"}, "unknown method 'ensembel': .* did you mean 'ensemble'"),
        ({"width": "big"}, "width='big': give a whole number"),
        ({"width": 16.5}, "width=16.5: give a whole number"),
        ({"width": True}, "width=True: give a whole number"),
        ({"width": 0}, "width=0 is too small"),
        ({"width": []}, r"width=\[\] is empty"),
        ({"causal": 1}, "causal=1: give true or false"),
        ({"heads": 3}, "width=16 is not divisible by heads=3"),
        ({"heads": "width / 3"}, "heads='width / 3' is 5.33333, not a whole number"),
        ({"seeds": [1, 2]}, r"seeds=\[1, 2\] is a list"),
        ({"seeds": 0}, "seeds=0 is too small"),
        ({"first_seed": -1}, "seed=-1 is not an integer of at least 0"),
        ({"seed_block": 0}, "seed_block=0 is too small"),
        ({"loss": "cross_entropy"}, "needs an output head and post_ln has none: give vocab"),
        ({"source_tokens": 3}, "source_tokens is for an encoder-decoder"),
        ({"positions": 8, "vocab": 100}, "positions=8 do not reach 16 tokens"),
        ({"method": "weight_free", "minibatches": 2}, "method='weight_free' takes no minibatches"),
        ({"arch": "paper_post_ln"}, "unknown option of paper_post_ln 'heads': accepted are depth, width"),
        ({"placement": "pre_ln"}, "unknown option of post_ln 'placement'"),
        ({"grid": {"width": 8}}, "grid is no list of tables"),
        ({"grid": []}, "grid is no list of tables"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        grid({**BASE, **change})
    assert "\n" not in str(error.value)


def test_missing_sizes_are_named() -> None:
    with pytest.raises(InputError, match="a grid needs arch"):
        grid({"width": 8})
    with pytest.raises(InputError, match="post_ln needs depth"):
        grid({"arch": "post_ln", "width": 8})
    with pytest.raises(InputError, match="encoder_decoder needs vocab"):
        grid({"arch": "encoder_decoder", "width": 8, "depth": 1})


def test_one_message_names_a_cell_and_counts_the_others() -> None:
    first = r"3 of 8 configurations cannot be, such as \(arch=post_ln, width=16, heads=3, depth=1\)"
    with pytest.raises(InputError, match=first + ": width=16 is not .*; 2 more reasons for others"):
        grid({**BASE, "width": [16, 20, 28, 36], "heads": [2, 3]})


def test_a_grid_of_too_many_cells_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="more than 100,000 cells"):
        grid({**BASE, "width": list(range(1000)), "depth": list(range(1, 1000))})
    with pytest.raises(InputError, match="in blocks of 1 are more than 100,000 cells"):
        grid({**BASE, "seeds": 10**9, "seed_block": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"width = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (None, "cannot be read"),
        (b"", "needs arch"),
    ],
)
def test_files_that_are_no_grid(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "grid.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(path)


def test_every_key_is_a_keyword_of_something() -> None:
    assert {"arch", "width", "d_ff", "causal", "placement", "tokens", "minibatches", "seeds", "method"} < set(
        KEYS
    )
    assert "options" not in KEYS
    assert all("seeds" in method.keywords for method in METHODS.values())
