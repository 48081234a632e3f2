"""The arguments of `python -m meanfield.predict`, and the architecture that they ask for."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import re
import sys
from typing import Any

from meanfield import cli
from meanfield.errors import InputError, UnknownNameError
from meanfield.ops import EncoderDecoder, Transformer
from meanfield.presets import PRESETS, encoder_decoder, paper_encoder_decoder

PROG = "python -m meanfield.predict"
PAIRS: dict[str, Any] = {"encoder_decoder": encoder_decoder, "paper_encoder_decoder": paper_encoder_decoder}


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer: give a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: give one such as 0.1") from None


def _layers(text: str) -> tuple[int, int]:
    if text == "all":
        return (0, sys.maxsize)
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of layers: give one such as 3, 1-4 or all")
    return int(match[1]), int(match[2] or match[1])


_METAVARS: dict[Any, str] = {_integer: "N", _number: "X", str: "NAME"}

# What is not given is left to the preset.
_MODEL: tuple[tuple[str, Any, str], ...] = (
    ("width", _integer, "size of a token (default: 512)"),
    ("depth", _integer, "number of layers (default: 6)"),
    ("heads", _integer, "attention heads"),
    ("kv_heads", _integer, "key and value heads, a divisor of the heads"),
    ("d_ff", _integer, "inner size of the feed-forward network"),
    ("activation", str, "non-linearity, for example relu, gelu, swiglu"),
    ("norm", str, "layernorm or rmsnorm"),
    ("norm_eps", _number, "eps of the norms"),
    ("init", str, "initialisation (see --list)"),
    ("vocab", _integer, "size of the vocabulary: adds embedding and head"),
)


def parser() -> cli.Parser:
    """Make the parser.

    Returns:
        The parser; what it reads goes to `architecture_from`.
    """
    made = cli.Parser(
        prog=PROG,
        description="Predict the gradient norm of every parameter of a Transformer at initialisation.",
        epilog="example: python -m meanfield.predict pre_ln --width 512 --depth 6 --heads 8 --tokens 64",
    )
    made.add_argument("preset", nargs="?", metavar="PRESET", help="an architecture by name (see --list)")
    made.add_argument(
        "--list", action="store_true", help="list presets, options and initialisations, and stop"
    )
    model = made.add_argument_group("sizes and options of the preset")
    for name, kind, text in _MODEL:
        metavar = _METAVARS[kind]
        model.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    model.add_argument(
        "--causal", action="store_true", default=None, help="a token sees only itself and earlier ones"
    )
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option (see --list), for example qk_norm=head",
    )
    file = made.add_argument_group("a configuration file in place of a preset")
    file.add_argument("--config", metavar="FILE", help="config.json of a Hugging Face model")
    file.add_argument("--head", action="store_true", help="with the language-model head")
    file.add_argument("--training", action="store_true", help="with dropout")
    file.add_argument("--encoder-only", action="store_true", help="of T5, the encoder alone")
    data = made.add_argument_group("data and loss")
    for flag, kind, default, text in (
        ("tokens", _integer, 16, "tokens in a sequence"),
        ("batch", _integer, 1, "sequences"),
        ("loss", str, "linear", "linear, mse or cross_entropy"),
        ("label-smoothing", _number, 0.0, "for cross_entropy"),
        ("samples", _integer, 0, "random models to draw, for finite width with error bars"),
    ):
        metavar = _METAVARS[kind]
        data.add_argument(
            f"--{flag}", type=kind, default=default, metavar=metavar, help=f"{text} (default: {default})"
        )
    output = made.add_argument_group("output")
    output.add_argument("--layers", type=_layers, metavar="RANGE", help="parameters of these: 3, 1-4 or all")
    form = output.add_mutually_exclusive_group()
    for name, text in (("json", "JSON"), ("csv", "CSV"), ("latex", "a LaTeX tabular (booktabs)")):
        form.add_argument(
            f"--{name}",
            dest="format",
            action="store_const",
            const=name,
            default="table",
            help=f"print {text} in place of tables",
        )
    output.add_argument("--out", metavar="FILE", help="write to a file, whole or not at all")
    return made


def _value(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = (*(name for name, _, _ in _MODEL), "causal")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for item in args.set:
        name, equals, text = item.partition("=")
        name = name.replace("-", "_")
        if not (name and equals):
            raise InputError(f"--set {item!r} is no NAME=VALUE: give one such as qk_norm=head")
        if name in options:
            raise InputError(f"{name} is given twice: leave one out")
        options[name] = _value(text)
    return options


def architecture_from(args: argparse.Namespace) -> Transformer | EncoderDecoder:
    """Build the architecture that the arguments ask for.

    Args:
        args: What `parser` read.

    Returns:
        The architecture.

    Raises:
        InputError: If there is none, there are two, or something does not fit it.
    """
    options = _options(args)
    from_file = [name for name in ("head", "training", "encoder_only") if getattr(args, name)]
    if args.config is None:
        if from_file:
            flag = from_file[0].replace("_", "-")
            raise InputError(f"--{flag} belongs to --config: presets have options (see --list)")
        if args.preset is None:
            raise InputError("no architecture: give a PRESET (see --list), or --config FILE")
        return _preset(args.preset, options)
    if args.preset is not None:
        raise InputError(f"both the preset {args.preset!r} and --config: give one of them")
    if options:
        flag = next(iter(options)).replace("_", "-")
        raise InputError(
            f"--{flag} with --config: the file says it; change the file, or leave the option out"
        )
    from meanfield.huggingface import architecture

    return architecture(args.config, **dict.fromkeys(from_file, True))


def _preset(name: str, options: dict[str, Any]) -> Transformer | EncoderDecoder:
    known = {**PRESETS, **PAIRS}
    if name not in known:
        raise UnknownNameError("preset", name, known)
    preset = known[name]
    parameters = inspect.signature(preset).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in () if open_ended else options:
        if option not in parameters:
            raise UnknownNameError(f"option of {name}", option, parameters)
    given = {"width": 512, "depth": 6, **options}
    for option, parameter in parameters.items():
        if (
            parameter.default is parameter.empty
            and parameter.kind is parameter.KEYWORD_ONLY
            and option not in given
        ):
            raise InputError(f"{name} needs {option}: give --{option.replace('_', '-')}")
    return preset(**given)
