"""T5: Pre-LN with RMSNorm, relative positions in the scores, no score scaling, its own initialisation."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from meanfield.errors import InputError, positive_integer
from meanfield.huggingface.reader import ACTIVATIONS, Reader
from meanfield.initialization import Initialization
from meanfield.ops import Draw, EncoderDecoder, RelativeBias, Transformer
from meanfield.presets.builder import stack
from meanfield.presets.options import GATED, Options
from meanfield.presets.placements import PLACEMENTS


def t5(config: Reader, head: bool, encoder_only: bool) -> Transformer | EncoderDecoder:
    """Read T5: the encoder alone, or the pair."""
    if config.training and config("dropout_rate", 0.1):
        raise InputError(
            "training=True: T5 drops behind its last norm, for which there is no op; give training=False, or "
            "dropout_rate 0 in the configuration"
        )
    config.only("initializer_factor", 1, because="norm gains start at 1 here")
    config.irrelevant(
        "dropout_rate", "n_positions", "dense_act_fn", "is_gated_act"
    )  # feed_forward_proj rules
    config.only("is_decoder", False)
    width, depth = positive_integer("d_model", config("d_model")), config("num_layers")
    options = _options(config, width)
    decoder_depth = config("num_decoder_layers", depth)
    scaled = config("scale_decoder_outputs", config("tie_word_embeddings", True))
    pair = config("is_encoder_decoder", True) and not encoder_only
    if not pair:
        if head:
            raise InputError("head=True: the encoder alone has no head; give head=False")
        return stack(PLACEMENTS["pre_ln"], name="t5", width=width, depth=depth, options=options, head=False)
    target = replace(
        options,
        causal=True,
        tied=True,  # whatever the file says: `transformers` ties T5's head always
        relative_bias=_relative_bias(config, width, bidirectional=False),
        logit_scale=float(width) ** -0.5 if scaled else 1,
    )
    return EncoderDecoder(
        "t5",
        stack(
            PLACEMENTS["pre_ln"],
            name="t5_encoder",
            width=width,
            depth=depth,
            options=options,
            head=False,
            part="encoder",
            other_depth=decoder_depth,
        ),
        stack(
            PLACEMENTS["pre_ln"],
            name="t5_decoder",
            width=width,
            depth=decoder_depth,
            options=target,
            head=head,
            part="decoder",
            other_depth=depth,
        ),
        shared_embedding=True,
    )


def _options(config: Reader, width: int) -> Options:
    heads = positive_integer("num_heads", config("num_heads"))
    size = positive_integer("d_kv", config("d_kv"))
    d_ff = positive_integer("d_ff", config("d_ff"))
    to_width = Draw(Fraction(1, width))
    law = Initialization(
        "t5",
        q=Draw(Fraction(1, width * size)),
        k=to_width,
        v=to_width,
        o=Draw(Fraction(1, heads * size)),
        up=to_width,
        down=Draw(Fraction(1, d_ff)),
        embedding=Draw(1),
        head=Draw(1),
    )
    return Options(
        heads=heads,
        head_size=size,
        d_ff=d_ff,
        activation=_network(config("feed_forward_proj", "relu")),
        norm="rmsnorm",
        norm_eps=config("layer_norm_epsilon", 1e-6),
        relative_bias=_relative_bias(config, width, bidirectional=True),
        score_scale=1,
        init=law,
        bias=False,
        vocab=config("vocab_size"),
    )


def _relative_bias(config: Reader, width: int, bidirectional: bool) -> RelativeBias:
    return RelativeBias(
        "attention.relative_bias",
        Draw(Fraction(1, width)),
        config("relative_attention_num_buckets", 32),
        config("relative_attention_max_distance", 128),
        bidirectional,
        shared=True,
    )


def _network(name: object) -> str:
    """Translate relu, gated-gelu and the like; gated-gelu is the tanh form."""
    gate, dash, activation = str(name).partition("-")
    if not dash and gate in ACTIVATIONS:
        return ACTIVATIONS[gate]
    ours = "gelu_tanh" if activation == "gelu" else ACTIVATIONS.get(activation)
    found = [network for network, function in GATED.items() if function == ours]
    if gate != "gated" or not found:
        raise InputError(
            f"feed_forward_proj={name!r} is not supported: give an activation such as 'relu', or 'gated-gelu'"
        )
    return found[0]
