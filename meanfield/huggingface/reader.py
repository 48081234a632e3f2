"""Reading a configuration so that no key goes unseen: each is used, refused, or known not to matter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from meanfield.errors import InputError, UnknownNameError
from meanfield.ops import Draw, Number, Rotary

# Their names to ours.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "linear": "identity",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# Keys that say nothing about the mathematics of the random model: bookkeeping, special tokens, what a call
# returns, memory, heads of other tasks, defaults of text generation.
# fmt: off
IRRELEVANT = frozenset((
    "_attn_implementation", "_name_or_path", "add_bos_token", "architectures", "auto_map",
    "attn_implementation", "cache_implementation", "dtype", "finetuning_task", "id2label", "label2id",
    "license", "model_type", "name_or_path", "num_labels", "problem_type", "task_specific_params",
    "tokenizer_class", "torch_dtype", "transformers_version", "bos_token_id",
    "decoder_start_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "mask_token_id", "pad_token_id", "prefix", "sep_token_id", "suppress_tokens",
    "begin_suppress_tokens", "unk_token_id", "chunk_size_feed_forward", "gradient_checkpointing",
    "output_attentions", "output_hidden_states", "output_past", "return_dict",
    "return_dict_in_generate", "output_scores", "torchscript", "use_bfloat16", "use_cache",
    "use_return_dict", "directionality", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "classifier_dropout",
    "bad_words_ids", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "length_penalty",
    "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "remove_invalid_values", "repetition_penalty", "temperature", "top_k",
    "top_p", "typical_p",
))
# fmt: on

REQUIRED: Any = object()


class Reader:
    """A configuration that remembers which of its keys have been read.

    Args:
        config: The configuration.
        training: Whether dropout acts.
    """

    def __init__(self, config: Mapping[str, Any], training: bool) -> None:
        self._config = config
        self.training = training
        self._read: set[str] = set(IRRELEVANT)

    def __call__(self, key: str, default: Any = REQUIRED) -> Any:
        """Read a key; null counts as absent where there is a default.

        Args:
            key: Its name.
            default: What `transformers` takes where it is absent.

        Returns:
            The value.

        Raises:
            InputError: If it is absent and has no default.
        """
        self._read.add(key)
        value = self._config.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise InputError(f"{key} is missing in the configuration: give it")
        return default

    def given(self, key: str) -> bool:
        """Whether a key is there, null or not."""
        return key in self._config

    def irrelevant(self, *keys: str) -> None:
        """Note keys that do not matter for this family."""
        self._read.update(keys)

    def only(self, key: str, *accepted: Any, because: str = "there is no op for it") -> None:
        """Refuse a key unless it is absent, null or has one of the accepted values.

        Args:
            key: Its name.
            accepted: Values without consequence.
            because: Why others are refused.

        Raises:
            InputError: If it has another value.
        """
        value = self(key, accepted[0])
        if value not in accepted:
            usual = " or ".join(json.dumps(each) for each in accepted)
            raise InputError(f"{key}={json.dumps(value)} is not supported, {because}: only {usual} is")

    def activation(self, key: str, default: str) -> str:
        """Read the name of a non-linearity.

        Args:
            key: Its key.
            default: Their name of it where the key is absent.

        Returns:
            Our name.

        Raises:
            UnknownNameError: If we have no such function.
        """
        name = self(key, default)
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise UnknownNameError(key, name, ACTIVATIONS)
        return ACTIVATIONS[name]

    def rate(self, key: str, default: Number) -> Number:
        """Read a dropout rate; 0 where the model is not in training mode."""
        rate: Number = self(key, default)
        return rate if self.training else 0

    def normal(self, key: str, default: float = 0.02) -> Draw:
        """Read a standard deviation; `transformers` takes 0 for absent."""
        std = self(key, default) or default
        if isinstance(std, bool) or not isinstance(std, int | float):
            raise InputError(f"{key}={std!r} is no standard deviation: give a number such as {default}")
        return Draw(Fraction(str(std)) ** 2)

    def rotary(self, fraction: float | None = None) -> Rotary:
        """Read rotary positions in the present form, ``rope_parameters``, or in the former one.

        Args:
            fraction: Default of the share of coordinates that turn; None where it is always 1.

        Returns:
            The op.

        Raises:
            InputError: If positions are rescaled, or a part of the coordinates turns that never does here.
        """
        inside = {**self("rope_scaling", {}), **self("rope_parameters", {})}
        kind = inside.pop("rope_type", inside.pop("type", "default"))
        inside.pop("type", None)
        base = inside.pop("rope_theta", self("rope_theta", self("rotary_emb_base", 10_000)))
        share = inside.pop(
            "partial_rotary_factor", self("partial_rotary_factor", self("rotary_pct", fraction))
        )
        if kind != "default" or inside:
            found = ", ".join([f"type {kind!r}", *sorted(inside)])
            raise InputError(f"rope_scaling is not supported, {found}: remove it; only the default is")
        if fraction is None and share not in (None, 1):
            raise InputError(
                f"partial_rotary_factor={share} is not supported: this family turns every coordinate"
            )
        return Rotary(1 if share is None else share, base)

    def done(self) -> None:
        """Refuse what is left.

        Raises:
            UnknownNameError: If a key was never read.
        """
        for key in self._config:
            if key not in self._read:
                raise UnknownNameError("key of the configuration", key, self._read - IRRELEVANT)


def load(config: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """Take a configuration as it is, or read it from a file.

    Args:
        config: The configuration, or the path of a JSON file.

    Returns:
        The configuration.

    Raises:
        InputError: If there is no such file, or it holds no JSON object.
    """
    if isinstance(config, Mapping):
        return config
    try:
        found = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"cannot read {str(config)!r}, {reason}: give the path of a config.json") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{str(config)!r} is no JSON, line {error.lineno}: {error.msg}; give a config.json"
        ) from None
    if not isinstance(found, dict):
        raise InputError(
            f"{str(config)!r} holds a {type(found).__name__}: give a config.json, which is an object"
        )
    return found
