import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.train import Schedule
from empirical.train.schedules import KINDS
from meanfield.errors import InputError


def schedule(kind: str, **values: object) -> Schedule:
    more = {"milestones": (0.5, 0.75)} if kind == "step" else {}
    return Schedule(kind=kind, **{"lr_max": 1e-3, **more, **values})  # type: ignore[arg-type]  # as a user would


@given(
    kind=st.sampled_from(KINDS),
    warmup=st.integers(1, 500),
    steps=st.integers(1, 1000),
    rate=st.floats(1e-6, 10),
)
@settings(deadline=None)
def test_warm_up_rises_linearly_and_nothing_exceeds_the_largest_rate(
    kind: str, warmup: int, steps: int, rate: float
) -> None:
    made = schedule(kind, warmup=warmup, lr_max=rate)
    rates = [made.rate(t, steps=steps) for t in range(1, steps + 1)]
    assert all(0 <= value <= rate * (1 + 1e-12) for value in rates)
    for t in range(1, min(warmup, steps + 1)):
        assert math.isclose(rates[t - 1], rate * t / warmup)
    later = rates[warmup - 1 :]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(later))


def test_the_published_schedule_by_hand() -> None:
    made = schedule("inverse_sqrt", warmup=4000, lr_max=1e-3)
    assert made.rate(1000, steps=10**5) == pytest.approx(2.5e-4)
    assert made.rate(16000, steps=10**5) == pytest.approx(5e-4)  # sqrt(4000/16000) = 1/2


def test_schedules_that_share_hold_differ_in_their_warm_up_alone() -> None:
    none, long = (schedule("inverse_sqrt", warmup=warmup, hold=50) for warmup in (1, 50))
    assert all(none.rate(t, steps=200) == long.rate(t, steps=200) for t in range(50, 201))
    assert none.rate(1, steps=200) == 50 * long.rate(1, steps=200)


def test_linear_decay_ends_at_zero_and_steps_fall_to_tenths() -> None:
    linear = schedule("linear", warmup=10)
    assert linear.rate(100, steps=100) == 0
    assert linear.rate(55, steps=100) == pytest.approx(0.5e-3)
    step = schedule("step")
    assert [step.rate(t, steps=100) for t in (50, 51, 75, 76)] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "cosine"}, "accepted are constant, inverse_sqrt, linear, step"),
        ({"lr_max": 0.0}, "finite number above 0"),
        ({"lr_max": math.nan}, "finite number above 0"),
        ({"lr_max": "1e-3"}, "finite number above 0"),
        ({"warmup": 0}, "at least 1"),
        ({"warmup": 10, "hold": 5}, "give at least 10"),
        ({"kind": "constant", "hold": 5}, "belongs to 'inverse_sqrt'"),
        ({"kind": "constant", "milestones": (0.5,)}, "no other schedule"),
        ({"kind": "step", "milestones": ()}, "needs shares"),
        ({"kind": "step", "milestones": (0.7, 0.5)}, "ascending shares"),
        ({"kind": "step", "milestones": (0.5, 1.0)}, "ascending shares"),
    ],
)
def test_bad_schedules_say_what_is_accepted(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Schedule(**{"kind": "inverse_sqrt", "lr_max": 1e-3, **values})  # type: ignore[arg-type]  # on purpose
