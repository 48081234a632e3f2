"""The measured models: encoders of torch, four of Hugging Face, and this project's own, at two widths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import empirical
import meanfield as mf
from benchmarks.accuracy import names
from empirical.names import named_parameters
from meanfield.ops import ParameterKey

DEPTH, TOKENS, BATCH, VOCAB = 6, 32, 2, 1000
WIDTHS = {512: 8, 128: 4}  # width: heads


@dataclass(frozen=True)
class Subject:
    """One model to measure.

    Args:
        config: Its configuration, from which alone it is predicted: that of Hugging Face, or a preset's name
            and options.
        build: A model with fresh parameters, from torch's global generator or a seed.
        gradients: Every parameter's gradient with its key.
        run: The last hidden states (batch, tokens, width).
        ids: The token ids it reads; None where it reads vectors N(0, I), new for each seed.
    """

    config: dict[str, Any]
    build: Callable[[int], nn.Module]
    gradients: Callable[[nn.Module], Iterator[tuple[ParameterKey, Tensor]]]
    run: Callable[[nn.Module], Tensor]
    ids: list[list[int]] | None = None


def token_ids() -> Tensor:
    """Return the ids that every measurement reads, (batch, tokens), without 0, with which BERT and T5 pad."""
    return torch.randint(1, VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(2020))


def _on_vectors(width: int) -> Callable[[nn.Module], Tensor]:
    return lambda model: model(torch.randn(BATCH, TOKENS, width))


def _torch(preset: str) -> Callable[[int], Subject]:
    def subject(width: int) -> Subject:
        pre = preset == "pre_ln"
        sizes: dict[str, Any] = {"d_model": width, "nhead": WIDTHS[width], "dim_feedforward": 4 * width}

        def layer() -> nn.TransformerEncoderLayer:
            return nn.TransformerEncoderLayer(**sizes, norm_first=pre, batch_first=True)

        def build(_: int) -> nn.Module:
            norm = nn.LayerNorm(width) if pre else None
            encoder = nn.TransformerEncoder(layer(), 1, norm=norm, enable_nested_tensor=False)
            encoder.layers = nn.ModuleList(layer() for _ in range(DEPTH))  # the constructor copies one layer
            encoder.num_layers = DEPTH
            return encoder

        options = {"heads": WIDTHS[width], "d_ff": 4 * width, "activation": "relu", "init": "torch"}
        return Subject(
            {"preset": preset, "width": width, "depth": DEPTH, **options},
            build,
            lambda model: names.keyed(model, names.TORCH, DEPTH),
            _on_vectors(width),
        )

    return subject


def _own(preset: str) -> Callable[[int], Subject]:
    def subject(width: int) -> Subject:
        options = {"heads": WIDTHS[width], "d_ff": 4 * width, "activation": "gelu", "init": "xavier_normal"}
        arch = getattr(mf, preset)(width=width, depth=DEPTH, **options)

        def gradients(model: Any) -> Iterator[tuple[ParameterKey, Tensor]]:
            for parameter in named_parameters(model):
                assert parameter.tensor.grad is not None, parameter.key
                yield parameter.key, parameter.tensor.grad

        return Subject(
            {"preset": preset, "width": width, "depth": DEPTH, **options},
            lambda seed: empirical.build(arch, seed=seed),
            gradients,
            _on_vectors(width),
        )

    return subject


def _hugging_face(kind: Any, config: Any, table: names.Names, **options: bool) -> Subject:
    model = kind(config, **options)
    ids = token_ids()

    def build(_: int) -> nn.Module:
        # What the constructor ends with, in less than half of its time; the marks say what is drawn already.
        for part in (*model.modules(), *model.parameters()):
            part._is_hf_initialized = False
        model.init_weights()
        model.zero_grad(set_to_none=True)
        return model

    return Subject(
        config.to_dict(),
        build,
        lambda module: names.keyed(module, table, DEPTH),
        lambda module: module(input_ids=ids).last_hidden_state,
        ids.tolist(),
    )


def _gpt2(width: int) -> Subject:
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=width,
        n_layer=DEPTH,
        n_head=WIDTHS[width],
        bos_token_id=None,
        eos_token_id=None,
    )
    return _hugging_face(transformers.GPT2Model, config, names.GPT2)


def _bert(width: int) -> Subject:
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_hidden_layers=DEPTH,
        num_attention_heads=WIDTHS[width],
        intermediate_size=4 * width,
    )
    return _hugging_face(transformers.BertModel, config, names.BERT, add_pooling_layer=False)


def _llama(width: int) -> Subject:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_hidden_layers=DEPTH,
        num_attention_heads=WIDTHS[width],
        intermediate_size=width * 1376 // 512,
    )
    return _hugging_face(transformers.LlamaModel, config, names.LLAMA)


def _t5(width: int) -> Subject:
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=width,
        num_layers=DEPTH,
        num_heads=WIDTHS[width],
        d_kv=width // WIDTHS[width],
        d_ff=4 * width,
    )
    return _hugging_face(transformers.T5EncoderModel, config, names.T5)


MODELS: dict[str, Callable[[int], Subject]] = {
    "torch_post_ln": _torch("post_ln"),
    "torch_pre_ln": _torch("pre_ln"),
    "gpt2": _gpt2,
    "bert": _bert,
    "llama": _llama,
    "t5": _t5,
    "own_post_ln": _own("post_ln"),
    "own_pre_ln": _own("pre_ln"),
}
