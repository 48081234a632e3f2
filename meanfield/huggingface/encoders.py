"""BERT, RoBERTa and ViT: encoders without mask."""

from __future__ import annotations

from meanfield.errors import InputError
from meanfield.huggingface.reader import Reader
from meanfield.initialization import Initialization
from meanfield.ops import Draw, Transformer
from meanfield.presets.builder import stack
from meanfield.presets.options import Options
from meanfield.presets.placements import PLACEMENTS


def one_law(draw: Draw) -> Initialization:
    """Every matrix and table by the same law, biases 0."""
    return Initialization(f"normal_{float(draw.variance) ** 0.5:g}", *[draw] * 8)


def bert(config: Reader, head: bool) -> Transformer:
    """Read BERT or RoBERTa: Post-LN behind an embedding of tokens, positions and segments."""
    if head:
        raise InputError(
            "head=True: the head of this family has a hidden layer and a norm, for which there is no op; "
            "give head=False"
        )
    config.only("position_embedding_type", "absolute")
    config.only("add_cross_attention", False)
    config.irrelevant("tie_word_embeddings", "is_encoder_decoder")
    hidden = config.rate("hidden_dropout_prob", 0.1)
    options = Options(
        heads=config("num_attention_heads"),
        d_ff=config("intermediate_size"),
        activation=config.activation("hidden_act", "gelu"),
        norm_eps=config("layer_norm_eps", 1e-12),
        causal=config("is_decoder", False),
        init=one_law(config.normal("initializer_range")),
        dropout=hidden,
        attention_dropout=config.rate("attention_probs_dropout_prob", 0.1),
        embedding_dropout=hidden,
        vocab=config("vocab_size"),
        positions=config("max_position_embeddings", 512),
        segments=config("type_vocab_size", 2),
        embedding_norm=True,
    )
    width, depth = config("hidden_size"), config("num_hidden_layers")
    return stack(
        PLACEMENTS["post_ln"],
        name=config("model_type"),
        width=width,
        depth=depth,
        options=options,
        head=False,
    )


def vit(config: Reader, head: bool) -> Transformer:
    """Read ViT's layers, on vectors: Pre-LN."""
    if head:
        raise InputError("head=True: ViT's head reads one token, for which there is no op; give head=False")
    config.irrelevant("image_size", "patch_size", "num_channels", "encoder_stride", "interpolate_mode")
    config.irrelevant("pooler_output_size", "pooler_act", "is_encoder_decoder", "tie_word_embeddings")
    config.only("is_decoder", False)
    hidden = config.rate("hidden_dropout_prob", 0.0)
    options = Options(
        heads=config("num_attention_heads"),
        d_ff=config("intermediate_size"),
        activation=config.activation("hidden_act", "gelu"),
        norm_eps=config("layer_norm_eps", 1e-12),
        init=one_law(config.normal("initializer_range")),
        dropout=hidden,
        attention_dropout=config.rate("attention_probs_dropout_prob", 0.0),
        embedding_dropout=hidden,
    )
    if config("qkv_bias", True) is not True:
        raise InputError(
            "qkv_bias=false is not supported, the output projection keeps its bias: only true is"
        )
    width, depth = config("hidden_size"), config("num_hidden_layers")
    return stack(PLACEMENTS["pre_ln"], name="vit", width=width, depth=depth, options=options)
