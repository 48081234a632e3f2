"""From a configuration to an architecture, by its ``model_type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meanfield.errors import InputError, UnknownNameError
from meanfield.huggingface.decoders import gpt2, gpt_neox, opt
from meanfield.huggingface.encoders import bert, vit
from meanfield.huggingface.gated_decoders import FAMILIES as GATED_DECODERS
from meanfield.huggingface.gated_decoders import gated_decoder
from meanfield.huggingface.reader import Reader, load
from meanfield.huggingface.t5 import t5
from meanfield.ops import EncoderDecoder, Transformer

_ONE_STACK: dict[str, Callable[[Reader, bool], Transformer]] = {
    "bert": bert,
    "roberta": bert,
    "vit": vit,
    "gpt2": gpt2,
    "opt": opt,
    "gpt_neox": gpt_neox,
    **dict.fromkeys(GATED_DECODERS, gated_decoder),
}

FAMILIES = (*_ONE_STACK, "t5")


def architecture(
    config: Mapping[str, Any] | str | Path,
    *,
    head: bool = False,
    training: bool = False,
    encoder_only: bool = False,
) -> Transformer | EncoderDecoder:
    """Read a Hugging Face configuration as an architecture: what its random model is, from the file alone.

    Every key is used, refused by name, or on a list of those without consequence. An absent key has the
    default that `transformers` gives it, except sizes, which must be there. Dropout rates are used with
    ``training`` alone: otherwise the model is in evaluation mode, where dropout does nothing.

    Args:
        config: The configuration, or the path of its JSON file; ``model_type`` is one of `FAMILIES`.
        head: Whether the language-model head belongs to it (``GPT2LMHeadModel``) or not (``GPT2Model``).
        training: Whether dropout acts.
        encoder_only: For T5, the encoder alone (``T5EncoderModel``).

    Returns:
        The architecture.

    Raises:
        InputError: If the file cannot be read, a size is missing, or a value has no counterpart here.
        UnknownNameError: If the family or a key is unknown.

    Assumes:
        No padding: the embedding row of the padding token, which is 0, is drawn like the others. No pooler.
        ViT: its layers alone, on vectors.

    Source:
        The modelling files of transformers 5.23.

    Example:
        >>> small = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000}
        >>> arch = architecture(small)
        >>> arch.placement, arch.attention.output.weight.variance
        ('pre_ln', Fraction(1, 10000))
    """
    found = load(config)
    kind = found.get("model_type")
    if kind not in FAMILIES:
        raise UnknownNameError("model_type", kind, FAMILIES)
    reader = Reader(found, training)
    if kind == "t5":
        arch: Transformer | EncoderDecoder = t5(reader, head, encoder_only)
    elif encoder_only:
        raise InputError(f"encoder_only=True with model_type={kind!r}: only t5 has two stacks")
    else:
        arch = _ONE_STACK[kind](reader, head)
    reader.done()
    return arch
