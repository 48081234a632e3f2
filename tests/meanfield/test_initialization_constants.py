"""The constants of named schemes against numbers computed by hand from the papers' formulas."""

from fractions import Fraction
from math import sqrt

import pytest

import meanfield as mf
from meanfield.initialization import (
    SCHEMES,
    Initialization,
    Sizes,
    deepnorm_constants,
    initialization,
    sub_ln_gain,
    t_fixup_gain,
)


def _sizes(depth: int, stack: str = "alone", other: int | None = None) -> Sizes:
    return Sizes(64, 64, 256, depth, heads=4, head_size=16, stack=stack, other_depth=other)  # type: ignore[arg-type]  # the names come from a table


ROOT = sqrt(sqrt(sqrt(sqrt(7776))))


# 36^(1/4) = sqrt 6, 144^(-1/4) = 1/sqrt 12; four square roots of 6^5 = 7776; 18^(1/4), 72^(-1/4).
@pytest.mark.parametrize(
    ("sizes", "alpha", "beta"),
    [
        (_sizes(18), 2.449489742783178, 0.2886751345948129),
        (_sizes(6, "encoder", 6), 0.81 * ROOT, 0.87 / ROOT),
        (_sizes(6, "decoder", 6), 2.0597671439, 0.3432945239),
        # the published Transformer of 100-100 layers: 10^10 to the power 1/16
        (_sizes(100, "encoder", 100), 0.81 * 4.2169650343, 0.87 / 4.2169650343),
        (_sizes(27, "decoder", 100), 3.0, 324**-0.25),
    ],
)
def test_deepnorm(sizes: Sizes, alpha: float, beta: float) -> None:
    found = deepnorm_constants(sizes)
    assert found == pytest.approx((alpha, beta), rel=1e-9)
    wrong_sign = (found[0], 1 / found[1])
    assert wrong_sign != pytest.approx((alpha, beta), rel=0.05)


def test_the_fixed_alpha_of_public_baselines_is_right_at_one_depth_only() -> None:
    right = [depth for depth in range(1, 200) if abs(deepnorm_constants(_sizes(depth))[0] - 8**0.5) < 1e-9]
    assert right == [32]


# ln 12, ln 18, ln 36
@pytest.mark.parametrize(
    ("sizes", "square"),
    [
        (_sizes(6), 2.4849066498),
        (_sizes(6, "encoder", 6), 2.8903717579 * 2.4849066498 / 3),
        (_sizes(6, "encoder", 12), 3.5835189385 * 2.4849066498 / 3),
        (_sizes(6, "decoder", 12), 2.8903717579),
    ],
)
def test_sub_ln(sizes: Sizes, square: float) -> None:
    assert sub_ln_gain(sizes) ** 2 == pytest.approx(square, rel=1e-9)


def test_t_fixup() -> None:
    assert t_fixup_gain(_sizes(16)) == pytest.approx((0.335, 144**-0.25))
    assert t_fixup_gain(_sizes(16, "encoder", 9)) == pytest.approx((0.335, 1 / 3))
    assert t_fixup_gain(_sizes(9, "decoder", 16)) == pytest.approx((1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("name", "gain_sq"), [("deepnorm", 144**-0.5), ("sub_ln", 3.5835189385), ("t_fixup", 0.4489 * 18**-0.5)]
)
def test_the_gain_acts_on_value_output_and_feed_forward(name: str, gain_sq: float) -> None:
    law, xavier = initialization(name, _sizes(18)), initialization("xavier_normal", _sizes(18))
    for part in ("v", "o", "up", "down"):
        ratio = float(getattr(law, part).variance) / float(getattr(xavier, part).variance)
        assert ratio == pytest.approx(gain_sq, rel=1e-9)
        assert ratio != pytest.approx(gain_sq**0.5, rel=0.05), "a gain multiplies standard deviations"
    assert (law.q.variance, law.k.variance) == (xavier.q.variance, xavier.k.variance)


# d = 64, d_ff = 256, 4 heads of 16, 18 layers
HAND: dict[str, dict[str, Fraction]] = {
    "t5": {"q": Fraction(1, 1024), "k": Fraction(1, 64), "v": Fraction(1, 64), "o": Fraction(1, 64)}
    | {"up": Fraction(1, 64), "down": Fraction(1, 256), "embedding": Fraction(1), "head": Fraction(1)},
    "fairseq": {"q": Fraction(1, 128), "k": Fraction(1, 128), "v": Fraction(1, 128), "o": Fraction(1, 64)}
    | {"up": Fraction(1, 192), "down": Fraction(1, 768), "embedding": Fraction(1, 64)}
    | {"attention_bias": Fraction(1, 192), "output_bias": Fraction(0), "down_bias": Fraction(1, 768)},
    "bert": dict.fromkeys(("q", "o", "up", "down", "embedding", "head"), Fraction(1, 2500)),
    "gpt2": {"q": Fraction(1, 2500), "o": Fraction(1, 90_000), "down": Fraction(1, 90_000)},
    "small_init": {"q": Fraction(1, 160), "down": Fraction(1, 160)},
    "gpt_neox": {"q": Fraction(1, 160), "o": Fraction(1, 5184), "down": Fraction(1, 5184)},
    "mup": {
        "q": Fraction(1, 64),
        "down": Fraction(1, 256),
        "head": Fraction(1, 4096),
        "embedding": Fraction(1),
    },
}


@pytest.mark.parametrize("name", HAND)
def test_variances_by_hand(name: str) -> None:
    law = initialization(name, _sizes(18))
    assert {part: getattr(law, part).variance for part in HAND[name]} == HAND[name]


def test_a_head_size_of_its_own_changes_the_fans() -> None:
    sizes = Sizes(64, kv_width=32, d_ff=256, depth=2, heads=6, head_size=32)
    xavier = initialization("xavier_normal", sizes)
    assert (xavier.q.variance, xavier.k.variance) == (Fraction(2, 64 + 192), Fraction(2, 64 + 32))
    assert initialization("t5", sizes).q.variance == Fraction(1, 64 * 32)
    assert initialization("t5", sizes).o.variance == Fraction(1, 192)
    assert initialization("lecun_normal", sizes).o.variance == Fraction(1, 192)


def test_the_list_names_every_scheme_once() -> None:
    table = mf.initializations()
    assert list(table["name"]) == list(SCHEMES)
    assert set(table["status"]) == {"checked", "unchecked"}


def test_a_gate_has_the_law_of_the_other_branch_unless_told() -> None:
    one, other = mf.Draw(Fraction(1, 64)), mf.Draw(Fraction(1, 32))
    plain = Initialization("mine", one, one, one, one, one, one, one, one)
    own = Initialization("mine", one, one, one, one, one, one, one, one, gate=other)
    laws = [mf.pre_ln(width=64, depth=1, activation="swiglu", init=init) for init in (plain, own)]
    gates = [arch.feed_forward.gate for arch in laws]
    assert [gate.weight for gate in gates if gate is not None] == [one, other]
