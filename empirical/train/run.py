"""A training run as a value: data, model, optimiser, schedule and seed decide it to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import meanfield as mf
from empirical.build import Architecture
from empirical.store import digest, plain
from empirical.train.data import Corpus
from empirical.train.optimizers import Optimizer
from empirical.train.schedules import Schedule
from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.presets import PRESETS

TASKS = ("translation", "masked", "causal")
KEYS = ("task", "placement", "optimizer", "schedule", "lr_max", "warmup", "width", "depth", "seed")
"""The key columns of runs in tables."""
PRECISIONS = ("float32", "bfloat16")
FORMAT = 2  # of checkpoints and logs
Options: TypeAlias = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An architecture whose vocabulary the data decide.

    Args:
        placement: A name of a placement (translation), or of any preset of one stack (language models).
        width: Size of a token.
        depth: Number of layers; the decoder of a translation model has as many as the encoder.
        options: Further options of the preset, as sorted pairs of name and value; see `options`.
    """

    placement: str
    width: int
    depth: int
    options: Options = ()

    def architecture(self, task: str, vocab: int) -> Architecture:
        """The architecture of a task.

        Translation has the model of the paper's experiments (`meanfield.paper_encoder_decoder`), a masked
        language model an encoder of the preset, a causal one the same with a causal mask.

        Args:
            task: One of `TASKS`.
            vocab: Number of classes.

        Returns:
            The architecture.

        Raises:
            UnknownNameError: If the placement or an option is unknown.
            InputError: If an option cannot be.

        Example:
            >>> model = Model(placement="pre_ln", width=8, depth=2, options=(("heads", 2), ("positions", 16)))
            >>> model.architecture("causal", vocab=10).attention.causal
            True
        """
        sizes = {"width": self.width, "depth": self.depth, "vocab": vocab, **dict(self.options)}
        if task == "translation":
            return mf.paper_encoder_decoder(placement=self.placement, **sizes)
        if self.placement not in PRESETS:
            raise UnknownNameError("preset", self.placement, PRESETS)
        return PRESETS[self.placement](causal=task == "causal", **sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that decides a training run.

    Args:
        task: One of `TASKS`.
        corpus: The data.
        model: The architecture.
        optimizer: The optimiser.
        schedule: Its learning rate.
        steps: Updates.
        tokens: Tokens in a mini-batch; for translation target tokens, padding counted.
        seed: Of the weights, the order of the data and dropout.
        length: Tokens in a row of text; of no consequence for translation.
        label_smoothing: Weight of the uniform distribution in the training loss.
        precision: ``"float32"``, or ``"bfloat16"`` for mixed precision (autocast).
        evaluations: How many times, evenly spaced, the validation loss is taken.
        translations: How many of these, counted from the last, also translate the test sentences.
        profile: Steps after which the gradient of every tensor is measured on ``minibatches``; 0 is before
            training.
        minibatches: How many.

    Raises:
        UnknownNameError: If the task or the precision has no such name.
        InputError: If a number is out of its range.
    """

    task: str
    corpus: Corpus
    model: Model
    optimizer: Optimizer
    schedule: Schedule
    steps: int
    tokens: int
    seed: int = 0
    length: int = 64
    label_smoothing: float = 0.0
    precision: str = "float32"
    evaluations: int = 10
    translations: int = 1
    profile: tuple[int, ...] = ()
    minibatches: int = 8

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UnknownNameError("task", self.task, TASKS)
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        for what in ("steps", "tokens", "length", "evaluations", "minibatches"):
            positive_integer(what, getattr(self, what))
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing={self.label_smoothing} is not in [0, 1): give such a number")
        if any(not 0 <= step <= self.steps for step in self.profile):
            raise InputError(f"profile={self.profile} has a step outside of 0 to {self.steps}")

    @property
    def configuration(self) -> dict[str, Any]:
        """The run in JSON's types."""
        return {"format": FORMAT, **plain(self)}

    @property
    def name(self) -> str:
        """A name for people that ends in the digest of the configuration."""
        rate = f"{self.schedule.lr_max:g}"
        parts = (
            self.task,
            self.model.placement,
            self.optimizer.name,
            rate,
            f"w{self.schedule.warmup}",
            f"s{self.seed}",
        )
        return "-".join((*parts, digest(self.configuration)))

    @property
    def evaluated(self) -> tuple[int, ...]:
        """Steps after which the validation loss is taken."""
        return steps_evenly(self.steps, self.evaluations)

    @property
    def translated(self) -> tuple[int, ...]:
        """Steps after which the test sentences are translated."""
        return self.evaluated[len(self.evaluated) - min(self.translations, len(self.evaluated)) :]

    @property
    def keys(self) -> dict[str, Any]:
        """The key columns of this run in tables."""
        return {
            "task": self.task,
            "placement": self.model.placement,
            "optimizer": self.optimizer.name,
            "schedule": self.schedule.kind,
            "lr_max": self.schedule.lr_max,
            "warmup": self.schedule.warmup,
            "width": self.model.width,
            "depth": self.model.depth,
            "seed": self.seed,
        }


def options(**values: Any) -> Options:
    """Options of a preset as `Model` holds them.

    Args:
        values: By name.

    Returns:
        Pairs, sorted by name.

    Example:
        >>> options(heads=4, d_ff=128)
        (('d_ff', 128), ('heads', 4))
    """
    return tuple(sorted(values.items()))


def steps_evenly(steps: int, times: int) -> tuple[int, ...]:
    """Steps that cut a run into equal parts, its last step included.

    Args:
        steps: Steps of the run.
        times: How many parts.

    Returns:
        The steps, ascending; fewer where the run is short.

    Example:
        >>> steps_evenly(100, 3)
        (33, 67, 100)
    """
    return tuple(sorted({max(1, round(steps * k / times)) for k in range(1, times + 1)}))
