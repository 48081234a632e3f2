"""The command line of `python -m empirical.train` as runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from empirical.device import DEVICES
from empirical.train.data import Corpus, Generated, ParallelFiles, ParallelTable, PlainText, PythonText
from empirical.train.optimizers import OPTIMIZERS, Optimizer
from empirical.train.presets import PRESETS
from empirical.train.run import PRECISIONS, TASKS, Model, Run, options
from empirical.train.schedules import KINDS, Schedule
from meanfield.cli import Parser
from meanfield.errors import InputError, UnknownNameError

PROG = "python -m empirical.train"


def parser() -> Parser:
    """Build the parser of the command line.

    Returns:
        The parser.
    """
    made = Parser(
        prog=PROG,
        description="Train Transformers: one run, or every run of a preset. Stop it at any time, even by "
        "SIGKILL: the same command goes on. Under torchrun a run is spread over all processes.",
        epilog="Without files translation learns a generated language, and a language model the texts of "
        "this Python.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("task", nargs="?", help=f"one run of: {', '.join(TASKS)}")
    made.add_argument("--preset", help=f"instead of a task, all runs of: {', '.join(PRESETS)}")
    made.add_argument("--out", required=True, help="folder of the run, or of the folders of all runs")
    made.add_argument("--workers", type=int, help="processes for a preset; the number of cores by default")
    made.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    _data(made.add_argument_group("data").add_argument)
    _model(made.add_argument_group("model").add_argument)
    _training(made.add_argument_group("training").add_argument)
    return made


def _data(add: Callable[..., Any]) -> None:
    add("--source", help="text file, one sentence a line; with --target")
    add("--target", help="its translation, line by line")
    add("--table", help="text file of source, tab, target")
    add("--text", help="text file for a language model")
    add("--vocabulary", type=int, help="tokens that byte pairs are merged to; 8000, of Python's texts 2000")
    add("--shared", action="store_true", help="one vocabulary for both languages")
    add("--valid", type=int, default=1000, help="pairs of files or a table that are held out for validation")
    add("--test", type=int, default=1000, help="pairs that are held out for BLEU")
    add("--empty", default="error", help="what pairs with an empty side are: an 'error', or 'drop' them")


def _model(add: Callable[..., Any]) -> None:
    add("--placement", default="pre_ln", help="a placement, or for a language model any preset of one stack")
    add("--width", type=int, default=64, help="size of a token")
    add("--depth", type=int, default=6, help="layers; the decoder of a translation model has as many again")
    add("--heads", type=int, default=4, help="attention heads")
    add("--d-ff", type=int, help="inner size of the feed-forward op; twice the width by default")
    add("--activation", default="relu", help="of the feed-forward op")
    add("--dropout", type=float, default=0.0, help="rate")
    add("--positions", type=int, default=128, help="learned positions: the longest sequence")


def _training(add: Callable[..., Any]) -> None:
    add("--optimizer", default="adam", help=f"one of {', '.join(OPTIMIZERS)}")
    add("--momentum", type=float, default=0.0, help="for sgd")
    add("--weight-decay", type=float, default=0.0, help="decoupled for adam and radam")
    add("--clip", type=float, help="largest norm of the whole gradient")
    add("--schedule", default="inverse_sqrt", help=f"one of {', '.join(KINDS)}")
    add("--lr", type=float, default=1e-3, help="the largest learning rate")
    add("--warmup", type=int, default=1, help="steps of linear warm-up; 1 is none")
    add("--hold", type=int, help="step from which inverse_sqrt decays; the end of the warm-up by default")
    add(
        "--milestones",
        type=float,
        nargs="+",
        default=[],
        help="for step: shares of the run at which lr falls to a tenth",
    )
    add("--steps", type=int, default=1000, help="updates")
    add("--tokens", type=int, default=1024, help="tokens in a mini-batch")
    add("--length", type=int, default=64, help="tokens in a row of text")
    add("--label-smoothing", type=float, default=0.1, help="for translation")
    add("--precision", default="float32", help=f"one of {', '.join(PRECISIONS)}")
    add("--evaluations", type=int, default=10, help="times that the validation loss is taken")
    add("--translations", type=int, default=1, help="how many of them also translate the test sentences")
    add(
        "--profile",
        type=int,
        nargs="*",
        default=[],
        metavar="STEP",
        help="steps at which all gradients are measured",
    )
    add("--seed", type=int, default=0, help="of weights, data order and dropout")


def run_of(args: argparse.Namespace) -> Run:
    """The run that a command line asks for.

    Args:
        args: Parsed arguments without a preset.

    Returns:
        The run.

    Raises:
        UnknownNameError: If a name is none of those accepted.
        InputError: If the data do not fit the task, or a value is out of its range.
    """
    if args.task not in TASKS:
        raise UnknownNameError("task", args.task, TASKS)
    translation = args.task == "translation"
    return Run(
        task=args.task,
        corpus=_corpus(args),
        model=Model(
            placement=args.placement,
            width=args.width,
            depth=args.depth,
            options=options(
                heads=args.heads,
                d_ff=2 * args.width if args.d_ff is None else args.d_ff,
                activation=args.activation,
                dropout=args.dropout,
                positions=args.positions,
            ),
        ),
        optimizer=Optimizer(
            name=args.optimizer, momentum=args.momentum, weight_decay=args.weight_decay, clip=args.clip
        ),
        schedule=Schedule(
            kind=args.schedule,
            lr_max=args.lr,
            warmup=args.warmup,
            hold=args.hold,
            milestones=tuple(args.milestones),
        ),
        steps=args.steps,
        tokens=args.tokens,
        length=args.length,
        label_smoothing=args.label_smoothing if translation else 0.0,
        precision=args.precision,
        evaluations=args.evaluations,
        translations=args.translations if translation else 0,
        profile=tuple(args.profile),
        seed=args.seed,
    )


def _corpus(args: argparse.Namespace) -> Corpus:
    pairs = args.source is not None or args.target is not None
    given = [
        name for name, there in (("--source", pairs), ("--table", args.table), ("--text", args.text)) if there
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are two corpora: give one")
    if (args.source is None) != (args.target is None):
        raise InputError("--source and --target belong together: give both")
    size = {} if args.vocabulary is None else {"vocabulary": args.vocabulary}
    split = {name: getattr(args, name) for name in ("shared", "valid", "test", "empty")}
    if pairs:
        return ParallelFiles(source=args.source, target=args.target, **split, **size)
    if args.table is not None:
        return ParallelTable(path=args.table, **split, **size)
    if args.text is not None:
        return PlainText(path=args.text, **size)
    if args.task != "translation":
        return PythonText(**size)
    if size:
        raise InputError("--vocabulary belongs to files: the generated language has its own words")
    return Generated()
