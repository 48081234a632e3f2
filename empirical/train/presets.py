"""The grids of runs by name.

``ci`` is for a test, ``warmup`` for two cores (under 25 minutes), ``depth`` goes with it: half and twice as
deep at its middle learning rate. ``gpu`` has the paper's model and is short enough for one call on one large
accelerator, ``paper`` has the paper's model and schedules, and takes hours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from empirical.train.data import Generated, PythonText
from empirical.train.optimizers import Optimizer
from empirical.train.run import Model, Run, options
from empirical.train.schedules import Schedule

PLACEMENTS = ("post_ln", "pre_ln")
SEEDS = range(3, 6)  # a pilot with seeds 0 to 2 set the criteria and the numbers of seeds
DECISIVE_SEEDS = range(3, 9)  # where Post-LN's seeds differ most
ADAM = Optimizer(name="adam")


def _seeds(runs: Iterable[Run], seeds: range = SEEDS) -> tuple[Run, ...]:
    """All seeds of a configuration after each other, so that equal work is together."""
    return tuple(replace(run, seed=seed) for run in runs for seed in seeds)


def _inverse_sqrt(lr_max: float, warmup: int, hold: int) -> Schedule:
    return Schedule(kind="inverse_sqrt", lr_max=lr_max, warmup=warmup, hold=hold)


def _translations(
    base: Run,
    *,
    rates: tuple[float, ...],
    middles: tuple[float, ...],
    warmups: tuple[int, int, int],
    sgd: float,
    small: float,
) -> tuple[Run, ...]:
    """List the paper's comparisons on one base.

    Both placements have Adam without and with the longest warm-up at every rate, RAdam without warm-up at the
    largest, and SGD without; Post-LN also SGD with the longest warm-up, and the middle one. At the largest
    rate and by SGD Post-LN has more seeds: without warm-up it fails there, if anywhere.

    Args:
        base: Task, data, sizes.
        rates: Values of lr_max for Adam, ascending.
        middles: Those of them at which Post-LN has the middle warm-up.
        warmups: Values of T_warmup, none first, ascending.
        sgd: Learning rate of SGD.
        small: The fixed learning rate of Post-LN.

    Returns:
        The runs.
    """
    none, _, longest = warmups
    many: list[Run] = []
    few = [_fixed(base, small)]
    for placement in PLACEMENTS:
        of = replace(base, model=replace(base.model, placement=placement))
        radam, plain = (replace(of, optimizer=Optimizer(name=name)) for name in ("radam", "sgd"))
        post_ln = placement == "post_ln"
        for lr in rates:
            lengths = warmups if post_ln and lr in middles else (none, longest)
            adam = [replace(of, schedule=_inverse_sqrt(lr, warmup, longest)) for warmup in lengths]
            (many if post_ln and lr == rates[-1] else few).extend(adam)
        few.append(replace(radam, schedule=_inverse_sqrt(rates[-1], none, longest)))
        by_sgd = [replace(plain, schedule=_inverse_sqrt(sgd, warmup, longest)) for warmup in (none, longest)]
        (many if post_ln else few).extend(by_sgd if post_ln else by_sgd[:1])
    return (*_seeds(many, DECISIVE_SEEDS), *_seeds(few))


def _fixed(base: Run, rate: float) -> Run:
    """Post-LN at a small learning rate that stays as it is."""
    post_ln = replace(base.model, placement="post_ln")
    return replace(base, model=post_ln, schedule=Schedule(kind="constant", lr_max=rate))


def _masked(base: Run, *, rate: float, warmup: int) -> list[Run]:
    """BERT's recipe, with and without its linear warm-up, before linear decay."""
    return [
        replace(
            base,
            model=replace(base.model, placement=placement),
            schedule=Schedule(kind="linear", lr_max=rate, warmup=length),
        )
        for placement in PLACEMENTS
        for length in (1, warmup)
    ]


_SMALL = Model(placement="pre_ln", width=64, depth=6, options=options(heads=4, d_ff=128, positions=32))
_TRANSLATION = Run(
    task="translation",
    corpus=Generated(valid=300, test=100, nouns=200, verbs=100, adjectives=100),
    model=_SMALL,
    optimizer=ADAM,
    schedule=_inverse_sqrt(1e-3, 1, 160),
    steps=480,
    tokens=288,
    label_smoothing=0.1,
    evaluations=8,
    translations=2,
    profile=(0, 160, 480),
    minibatches=4,
)
_BERT = options(
    heads=4, d_ff=256, positions=64, activation="gelu", tied=True, embedding_norm=True, init="xavier_normal"
)
_MASKED = Run(
    task="masked",
    corpus=PythonText(vocabulary=500),
    model=Model(placement="pre_ln", width=64, depth=12, options=_BERT),
    optimizer=Optimizer(name="adam", betas=(0.9, 0.98), weight_decay=0.01),
    schedule=Schedule(kind="linear", lr_max=1e-3),
    steps=400,
    tokens=512,
    length=32,
    evaluations=8,
    translations=0,
)
_PAPER = replace(
    _TRANSLATION,
    corpus=Generated(train=160_000, valid=2000, test=500, nouns=3000, verbs=1000, adjectives=1000),
    model=Model(
        placement="pre_ln", width=512, depth=6, options=options(heads=4, d_ff=1024, positions=64, dropout=0.1)
    ),
    schedule=_inverse_sqrt(1e-3, 1, 4000),
    steps=8000,
    tokens=4096,
    precision="bfloat16",
    profile=(0, 4000, 8000),
    minibatches=8,
)
_GPU = replace(_PAPER, steps=1200, profile=(0, 600, 1200))
_CI = replace(
    _TRANSLATION,
    corpus=Generated(train=500, valid=40, test=10, nouns=20, verbs=10, adjectives=10),
    model=replace(_SMALL, width=32, depth=2, options=options(heads=2, d_ff=64, positions=32)),
    schedule=_inverse_sqrt(3e-3, 1, 10),
    steps=60,
    tokens=200,
    evaluations=3,
    translations=1,
    profile=(0, 60),
    minibatches=2,
)

PRESETS: dict[str, tuple[Run, ...]] = {
    "ci": _seeds(
        [replace(_CI, model=replace(_CI.model, placement=placement)) for placement in PLACEMENTS],
        seeds=range(1),
    ),
    "warmup": (
        *_translations(
            _TRANSLATION, rates=(5e-4, 1e-3, 2e-3), middles=(2e-3,), warmups=(1, 20, 160), sgd=0.6, small=1e-4
        ),
        *_seeds(_masked(_MASKED, rate=2e-3, warmup=50)),
    ),
    "depth": _seeds(
        replace(
            _TRANSLATION,
            model=replace(_SMALL, placement=placement, depth=depth),
            schedule=_inverse_sqrt(1e-3, warmup, 160),
            profile=(),
        )
        for depth, placement, warmup in product((3, 12), PLACEMENTS, (1, 160))
    ),
    "gpu": _seeds([
        *(
            replace(
                _GPU,
                model=replace(_GPU.model, placement=placement),
                schedule=_inverse_sqrt(1e-3, warmup, 600),
            )
            for placement in PLACEMENTS
            for warmup in (1, 600)
        ),
        _fixed(_GPU, 1e-4),
    ]),
    "paper": _translations(
        _PAPER, rates=(5e-4, 1e-3), middles=(5e-4, 1e-3), warmups=(1, 500, 4000), sgd=5e-3, small=1e-4
    ),
}
