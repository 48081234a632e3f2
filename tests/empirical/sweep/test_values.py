"""Values of a grid are brought to the types of keywords, and sizes may be tied to others."""

from typing import Any, Literal

import pytest

from empirical.sweep.values import convert, is_tie, tied
from meanfield.errors import InputError
from meanfield.initialization import Initialization
from meanfield.ops import Draw, Number, RelativeBias, Rotary


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        (4, int, 4),
        (4, float, 4),
        ("none", int | None, None),
        ("none", str, "none"),
        (False, bool | None, False),
        ("head", Literal["head", "all"] | None, "head"),
        ([3, "none"], int | tuple[int | None, ...] | None, (3, None)),
        ({"fraction": 0.5}, Rotary | Number | None, Rotary(0.5)),
        (0.5, Rotary | Number | None, 0.5),
        (
            {"name": "attention.relative_bias", "weight": 0.25},
            RelativeBias | None,
            RelativeBias("attention.relative_bias", Draw(0.25)),
        ),
    ],
)
def test_values_take_the_types_of_keywords(value: Any, hint: Any, wanted: Any) -> None:
    assert convert("key", value, hint) == wanted


def test_an_initialisation_is_a_table_of_laws() -> None:
    laws = dict.fromkeys(("q", "k", "v", "o", "up", "down", "embedding", "head"), 0.01)
    made = convert(
        "init", {"name": "mine", **laws, "q": {"variance": 1, "law": "uniform"}}, str | Initialization
    )
    assert made.q == Draw(1, "uniform")
    assert made.k == Draw(0.01)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "key=True: give a whole number"),
        (4.0, int, "key=4.0: give a whole number"),
        ("4", int | None, "key='4': give a whole number or \"none\""),
        (1, bool, "key=1: give true or false"),
        (float("nan"), float, "key=nan: give a number"),
        (float("inf"), Number, "key=inf: give a number"),
        (
            "heads",
            Literal["head", "all"],
            "unknown key 'heads': accepted are all, head; did you mean 'head'?",
        ),
        ([1, "x"], tuple[int | None, ...], "key='x': give a whole number or \"none\""),
        ({"fractoin": 1}, Rotary | None, "unknown field of key 'fractoin': .* did you mean 'fraction'"),
        ({"name": "b"}, RelativeBias | None, "key has no weight"),
        ({"name": "b", "weight": -1}, RelativeBias | None, "variance=-1 is negative"),
        ([1], int, r"key=\[1\]: give a whole number"),
        ({"a": 1}, str, "key={'a': 1}: give a text"),
    ],
)
def test_values_of_other_types_are_refused(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert("key", value, hint)


def test_sizes_are_tied_from_left_to_right() -> None:
    assert is_tie("width / 64")
    assert not any(map(is_tie, ("post_ln", "4", "two_norms", "normal_0.02", 4, None)))
    assert tied("heads", "width / 64", {"width": 128}) == 2
    assert tied("d_ff", "2.5 * width", {"width": 128}) == 320
    assert tied("d_ff", "2*width*heads/3", {"width": 9, "heads": 2}) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width / 3", "is 2.66667, not a whole number"),
        ("width / depth", "needs depth: give depth"),
        ("8 / zero", "divides by 0"),
        ("2 * arch", "arch='post_ln' is no whole number"),
        ("2 * causal", "causal=True is no whole number"),
        ("2 * d_ff", "d_ff='2 \\* width' is no whole number"),
    ],
)
def test_ties_that_cannot_be_are_refused(text: str, message: str) -> None:
    others = {"width": 8, "arch": "post_ln", "zero": 0, "causal": True, "d_ff": "2 * width"}
    with pytest.raises(InputError, match=message):
        tied("heads", text, others)
