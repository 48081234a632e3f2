"""What the command line audits: a model of a configuration file or of somebody's function, and its batch."""

from __future__ import annotations

import copy
import difflib
import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from empirical.audit.batch import Batch
from meanfield.errors import InputError, positive_integer


@dataclass(frozen=True)
class Tokens:
    """How many random tokens to draw where no batch is given.

    Args:
        tokens: Tokens in a sequence.
        sequences: Sequences.
        vocab: Size of the vocabulary; None for that of the configuration.
        seed: Seed of the draw.
    """

    tokens: int
    sequences: int
    vocab: int | None
    seed: int

    def draw(self, vocab: int | None, padding: int | None) -> Tensor:
        """Draw ids (sequences, tokens), never that of padding, which models treat in ways of their own.

        Args:
            vocab: Size of the vocabulary where none was asked for.
            padding: The id of padding, or None.

        Returns:
            The ids.

        Raises:
            InputError: If nobody says how large the vocabulary is.
        """
        size = self.vocab if self.vocab is not None else vocab
        if size is None:
            raise InputError("no batch: give --batch FILE, or --vocab N for random tokens")
        size = positive_integer("vocab", size)
        hole = padding if padding is not None and 0 <= padding < size else size
        shape = (positive_integer("batch-size", self.sequences), positive_integer("tokens", self.tokens))
        generator = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(max(1, size - (hole < size)), shape, generator=generator)
        return ids + (ids >= hole).long()


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Args:
        build: Gives a fresh module for a seed.
        batch: What it is run on.
    """

    build: Callable[[int], nn.Module]
    batch: Batch


def load_batch(path: str) -> Batch:
    """Read a batch from an ``.npz`` file; nothing in it is executed.

    Args:
        path: A file of arrays by the names of the forward pass's arguments; ``arr_0, arr_1, ...`` are
            arguments in order.

    Returns:
        The tensors; integers are 64 bits wide, and floating-point numbers 32.

    Raises:
        InputError: If it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"--batch {path!r} is no .npz file of arrays ({reason}): write one with numpy.savez"
        ) from error
    tensors = {name: _tensor(name, array) for name, array in arrays.items()}
    if all(name == f"arr_{k}" for k, name in enumerate(tensors)):
        return tuple(tensors.values())
    return tensors


def _tensor(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind == "b":
        return torch.from_numpy(array)
    raise InputError(
        f"array {name!r} has the type {array.dtype}: give integers, booleans or floating-point numbers"
    )


def from_function(name: str, batch: Batch | None, tokens: Tokens) -> Subject:
    """Import a function that builds modules; nothing is evaluated.

    Args:
        name: ``package.module:function``.
        batch: The batch, or None for random tokens.
        tokens: How many.

    Returns:
        The subject.

    Raises:
        InputError: If there is no such function.
    """
    path, colon, attribute = name.partition(":")
    if not (path and colon and attribute):
        raise InputError(f"--model {name!r} names no function: give package.module:function")
    try:
        module = importlib.import_module(path)
    except Exception as error:
        raise InputError(
            f"--model {name!r} cannot be imported ({type(error).__name__}: {error}): give a module that this "
            "Python finds, for example in the current folder"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(
            f"--model {name!r}: {path} has no function {attribute!r}: give one that takes a seed"
        )
    return Subject(function, tokens.draw(None, None) if batch is None else batch)


def from_configuration(path: str, head: bool, batch: Batch | None, tokens: Tokens) -> Subject:
    """Build a model of transformers from its configuration alone; nothing is downloaded or executed.

    Args:
        path: A ``config.json``, or the folder that holds it.
        head: Whether with the language-model head.
        batch: The batch, or None for random tokens or images.
        tokens: How many.

    Returns:
        The subject.

    Raises:
        InputError: If transformers is absent, or has no model for the file.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError("--hf needs transformers: pip install 'meanfield-transformers[hf]'") from error
    transformers.logging.set_verbosity(logging.ERROR)
    values = _json(path)
    kind, known = str(values.get("model_type")), transformers.CONFIG_MAPPING
    if kind not in known:
        near = difflib.get_close_matches(kind, list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{path}: model_type={kind!r} is not known to transformers {transformers.__version__}: code from "
            f"elsewhere is not run, use --model for it{hint}"
        )
    values.pop("auto_map", None)  # names code to download
    try:
        config = known[kind].from_dict(values)
        maker = _maker(transformers, config, head)
        with torch.device("meta"):
            shape = maker(config)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: transformers cannot build this ({type(error).__name__}: {reason})"
        ) from error
    data = _random(shape, config, tokens) if batch is None else batch
    return Subject(lambda seed: maker(copy.deepcopy(config)), data)


def _json(path: str) -> dict[str, Any]:
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--hf {path!r} is no configuration ({error}): give a config.json, or its folder"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"--hf {path!r} holds no JSON object: give the config.json of a model")
    return values


def _maker(transformers: Any, config: Any, head: bool) -> Callable[[Any], nn.Module]:
    """Choose the class: the bare model, or that with the head which the configuration names or has first."""
    if not head:
        auto = transformers.AutoModel
    else:
        named = " ".join(getattr(config, "architectures", None) or [])
        heads = {
            "Seq2SeqLM": transformers.AutoModelForSeq2SeqLM,
            "MaskedLM": transformers.AutoModelForMaskedLM,
            "CausalLM": transformers.AutoModelForCausalLM,
        }
        fitting = {name: auto for name, auto in heads.items() if type(config) in auto._model_mapping}
        if not fitting:
            raise InputError(f"model_type={config.model_type!r} has no language-model head: leave --head out")
        wanted = [name for name in fitting if name in named] or list(fitting)
        if not getattr(config, "is_encoder_decoder", False):
            wanted = [name for name in wanted if name != "Seq2SeqLM"] or wanted
        auto = fitting[wanted[0]]
    return lambda own: auto.from_config(own, dtype=torch.float32, trust_remote_code=False)


def _random(model: Any, config: Any, tokens: Tokens) -> Batch:
    """Random ids, of source and target where there are two stacks, or random images."""
    text = config.get_text_config()
    if model.main_input_name == "pixel_values":
        generator = torch.Generator().manual_seed(tokens.seed)
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (tokens.sequences, config.num_channels, height, width)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    if model.main_input_name != "input_ids":
        raise InputError(f"the model reads {model.main_input_name!r}: give it with --batch FILE")
    vocab, padding = getattr(text, "vocab_size", None), getattr(text, "pad_token_id", None)
    batch = {"input_ids": tokens.draw(vocab, padding)}
    if getattr(config, "is_encoder_decoder", False):
        other = Tokens(tokens.tokens, tokens.sequences, tokens.vocab, tokens.seed + 1)
        batch["decoder_input_ids"] = other.draw(vocab, padding)
    return batch
