"""`python -m meanfield.derive`: every claim of the paper, derived and checked.

Exit status 0: every step of every derivation passed its check; 1: a step failed; 2: bad input.
"""

from __future__ import annotations

import argparse
import sys

from meanfield import cli
from meanfield.claims import DERIVABLE, Setting, derive
from meanfield.symbolic.render import FORMATS

PROG = "python -m meanfield.derive"


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an integer: give a whole number of at least 1"
        ) from None


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog=PROG,
        description="Derive what the paper claims; every step of every proof is checked as it runs.",
        epilog="claims: " + ", ".join(DERIVABLE),
    )
    parser.add_argument(
        "--claim", nargs="+", action="extend", metavar="ID", help="claims to derive (default: all)"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--format", choices=sorted(FORMATS), default="text", help="how to print (default: text)"
    )
    output.add_argument(
        "--json", dest="format", action="store_const", const="json", help="same as --format json"
    )
    parser.add_argument("--width", type=_integer, default=512, help="size of a token (default: 512)")
    parser.add_argument("--depth", type=_integer, default=6, help="number of layers (default: 6)")
    parser.add_argument("--tokens", type=_integer, default=16, help="tokens in the sequence (default: 16)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Derive the claims that were asked for and print them.

    Args:
        argv: Arguments; those of the process when left out.

    Returns:
        Exit status 0, or 1 if a step failed.
    """
    args = _parser().parse_args(argv)
    setting = Setting(args.width, args.depth, args.tokens)
    claims = {name: derive(name, setting) for name in args.claim or DERIVABLE}
    sys.stdout.write(FORMATS[args.format](claims) + "\n")
    failed = [name for name, derivation in claims.items() if not derivation.holds]
    if failed:
        sys.stderr.write(f"{PROG}: a step failed its check in {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(PROG, main)
