"""Families of torch.nn: encoder, decoder, Transformer, and hand-written blocks around its attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from benchmarks.audit.blocks import CrossBlocks, HandWritten, LanguageModel, SequenceFirst
from benchmarks.audit.family import Family, Model, Sizes, ids, vectors

Make = Callable[[], nn.Module]


def _layer(kind: Any, sizes: Sizes, **options: Any) -> Any:
    return kind(sizes.width, sizes.heads, sizes.d_ff, batch_first=True, **options)


def encoder(sizes: Sizes, *, cloned: bool = False, **options: Any) -> nn.Module:
    """Return a `torch.nn.TransformerEncoder`, its layers drawn one by one unless cloned.

    The constructor copies one layer, so that all layers start from equal weights.

    Args:
        sizes: Sizes.
        cloned: Whether to leave the layers as the constructor makes them.
        options: Of the layer: ``norm_first``, ``activation``, ``bias``.

    Returns:
        The encoder; with a norm at its end if ``norm_first``.
    """
    norm = nn.LayerNorm(sizes.width) if options.get("norm_first") else None
    first = _layer(nn.TransformerEncoderLayer, sizes, **options)
    stack = nn.TransformerEncoder(first, sizes.depth, norm=norm, enable_nested_tensor=False)
    if not cloned:
        _draw_layers(stack, lambda: _layer(nn.TransformerEncoderLayer, sizes, **options))
    return stack


def decoder(sizes: Sizes, **options: Any) -> nn.Module:
    """Return a `torch.nn.TransformerDecoder` whose layers are drawn one by one."""
    norm = nn.LayerNorm(sizes.width) if options.get("norm_first") else None
    first = _layer(nn.TransformerDecoderLayer, sizes, **options)
    stack = nn.TransformerDecoder(first, sizes.depth, norm=norm)
    _draw_layers(stack, lambda: _layer(nn.TransformerDecoderLayer, sizes, **options))
    return stack


def _draw_layers(stack: Any, make: Make) -> None:
    stack.layers = nn.ModuleList(make() for _ in range(stack.num_layers))


def whole(sizes: Sizes, **options: Any) -> nn.Module:
    """Return a `torch.nn.Transformer`, which draws its matrices anew after copying."""
    with warnings.catch_warnings():  # it warns that it does not use nested tensors with norm_first
        warnings.simplefilter("ignore", UserWarning)
        return nn.Transformer(
            sizes.width, sizes.heads, sizes.depth, sizes.depth, sizes.d_ff, batch_first=True, **options
        )


def _causal(
    batch: Callable[[], dict[str, Tensor]], name: str, tokens: int
) -> Callable[[], dict[str, Tensor]]:
    return lambda: batch() | {name: nn.Transformer.generate_square_subsequent_mask(tokens)}


def _with_heads(name: str, sizes: Sizes, make: Make) -> Family:
    def language_model(tied: bool) -> Model:
        return Model(lambda: LanguageModel(make(), sizes.vocab, sizes.width, tied), ids(sizes, "ids"))

    hidden = Model(make, vectors(sizes, "src" if isinstance(make(), nn.TransformerEncoder) else "x"))
    return Family(
        name, "torch", {"linear": hidden, "tied": language_model(True), "untied": language_model(False)}
    )


def families(sizes: Sizes) -> list[Family]:
    """List the families of torch at given sizes."""
    own = (sizes.width, sizes.depth, sizes.heads, sizes.d_ff)
    both = vectors(sizes, "tgt", "memory")
    target = _causal(both, "tgt_mask", sizes.tokens)
    pair = _causal(vectors(sizes, "src", "tgt"), "tgt_mask", sizes.tokens)
    hidden: dict[str, Model] = {
        "torch_encoder_cloned": Model(lambda: encoder(sizes, cloned=True), vectors(sizes, "src")),
        "torch_encoder_gelu": Model(
            lambda: encoder(sizes, norm_first=True, activation="gelu", bias=False), vectors(sizes, "src")
        ),
        "torch_encoder_causal": Model(
            lambda: encoder(sizes, norm_first=True), _causal(vectors(sizes, "src"), "mask", sizes.tokens)
        ),
        "torch_decoder_post": Model(lambda: decoder(sizes), target),
        "torch_decoder_pre": Model(lambda: decoder(sizes, norm_first=True), target),
        "torch_transformer_post": Model(lambda: whole(sizes), pair),
        "torch_transformer_pre": Model(lambda: whole(sizes, norm_first=True), pair),
        "torch_attention_cross": Model(
            lambda: CrossBlocks(sizes.width, sizes.width // 2, *own[1:]),
            lambda: vectors(sizes, "x")() | vectors(sizes, "memory", width=sizes.width // 2)(),
        ),
        "torch_attention_sequence_first": Model(lambda: SequenceFirst(*own), vectors(sizes, "x")),
    }
    return [
        _with_heads("torch_encoder_post", sizes, lambda: encoder(sizes)),
        _with_heads("torch_encoder_pre", sizes, lambda: encoder(sizes, norm_first=True)),
        _with_heads("torch_attention_packed", sizes, lambda: HandWritten(*own)),
        *(Family(name, "torch", {"linear": model}) for name, model in hidden.items()),
    ]
