"""The arguments of ``python -m empirical.audit``, and the subject that they name."""

from __future__ import annotations

import argparse

from empirical.audit.audit import TOLERANCE
from empirical.audit.subjects import Subject, Tokens, from_configuration, from_function, load_batch
from empirical.device import DEVICES, DTYPES
from empirical.losses import LOSSES
from meanfield import cli
from meanfield.errors import InputError

PROG = "python -m empirical.audit"


def parser() -> cli.Parser:
    """Make the parser.

    Returns:
        The parser; what it reads goes to `subject_from`.
    """
    made = cli.Parser(
        prog=PROG,
        description="Compare the gradient norm of every parameter of a PyTorch Transformer, measured over "
        "fresh initialisations, with what theory predicts. Exit status 0: they agree; 1: they disagree; 2: "
        "bad input.",
        epilog=f"example: {PROG} --hf config.json --seeds 64 --html audit.html",
    )
    model = made.add_argument_group("the model, one of")
    model.add_argument(
        "--hf",
        metavar="FILE",
        help="config.json of a Hugging Face model, or its folder: built at random, offline",
    )
    model.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="imported and called with a seed: gives a fresh module",
    )
    model.add_argument(
        "--head", action="store_true", help="with --hf: the model with its language-model head"
    )
    data = made.add_argument_group("data and loss")
    data.add_argument("--batch", metavar="FILE", help=".npz of arrays by the names of the forward arguments")
    data.add_argument(
        "--tokens", type=int, default=32, metavar="N", help="random tokens in a sequence (default: 32)"
    )
    data.add_argument("--batch-size", type=int, default=2, metavar="N", help="random sequences (default: 2)")
    data.add_argument(
        "--vocab", type=int, metavar="N", help="random ids are below N (default: of the configuration)"
    )
    data.add_argument("--loss", default="linear", help=f"{', '.join(sorted(LOSSES))} (default: linear)")
    size = made.add_argument_group("how much, and where")
    size.add_argument(
        "--seeds", type=int, default=32, metavar="N", help="models that are measured (default: 32)"
    )
    size.add_argument(
        "--samples", type=int, default=256, metavar="N", help="random models of the prediction (default: 256)"
    )
    size.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help=f"largest |ratio - 1| (default: {TOLERANCE})",
    )
    size.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default: 0)")
    size.add_argument("--device", default="auto", help=f"{', '.join(DEVICES)} (default: auto)")
    size.add_argument("--dtype", help=f"{', '.join(DTYPES)} (default: as the model is built)")
    output = made.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON in place of the table")
    output.add_argument("--out", metavar="FILE", help="write what is printed to a file, whole or not at all")
    output.add_argument("--html", metavar="FILE", help="write a page with plots, of one file, as well")
    return made


def subject_from(args: argparse.Namespace) -> Subject:
    """Find what is to be audited.

    Args:
        args: What `parser` read.

    Returns:
        The subject.

    Raises:
        InputError: If there is none, there are two, or it cannot be had.
    """
    if (args.hf is None) == (args.model is None):
        raise InputError("give one of --hf FILE and --model PACKAGE.MODULE:FUNCTION")
    if args.head and args.hf is None:
        raise InputError("--head belongs to --hf: a function builds what it builds")
    if args.batch is not None and args.vocab is not None:
        raise InputError("--vocab is for random tokens, and --batch gives them: leave one out")
    batch = None if args.batch is None else load_batch(args.batch)
    tokens = Tokens(args.tokens, args.batch_size, args.vocab, args.seed)
    if args.hf is not None:
        return from_configuration(args.hf, args.head, batch, tokens)
    return from_function(args.model, batch, tokens)
