"""GPT-2, OPT and GPT-NeoX: decoders with LayerNorm and plain feed-forward networks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from meanfield.errors import positive_integer
from meanfield.huggingface.encoders import one_law
from meanfield.huggingface.reader import Reader
from meanfield.ops import Draw, Transformer
from meanfield.presets.builder import stack
from meanfield.presets.options import Options
from meanfield.presets.placements import PLACEMENTS


def gpt2(config: Reader, head: bool) -> Transformer:
    """Read GPT-2: Pre-LN; both projections into the residual stream are divided by sqrt(2 depth)."""
    config.only("add_cross_attention", False)
    config.only("scale_attn_by_inverse_layer_idx", False)
    config.irrelevant("reorder_and_upcast_attn", "n_ctx", "is_encoder_decoder", "is_decoder")
    config.irrelevant("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout")
    config.irrelevant("summary_proj_to_labels")
    width, depth = config("n_embd"), positive_integer("n_layer", config("n_layer"))
    draw = config.normal("initializer_range")
    projection = Draw(Fraction(draw.variance) / (2 * depth))
    options = Options(
        heads=config("n_head"),
        d_ff=config("n_inner", None),
        activation=config.activation("activation_function", "gelu_new"),
        norm_eps=config("layer_norm_epsilon", 1e-5),
        causal=True,
        score_scale=None if config("scale_attn_weights", True) else 1,
        init=replace(one_law(draw), name="gpt2", o=projection, down=projection),
        dropout=config.rate("resid_pdrop", 0.1),
        attention_dropout=config.rate("attn_pdrop", 0.1),
        embedding_dropout=config.rate("embd_pdrop", 0.1),
        vocab=config("vocab_size"),
        positions=config("n_positions", 1024),
        tied=config("tie_word_embeddings", True),
    )
    return stack(PLACEMENTS["pre_ln"], name="gpt2", width=width, depth=depth, options=options, head=head)


def opt(config: Reader, head: bool) -> Transformer:
    """Read OPT: Pre-LN, or Post-LN where ``do_layer_norm_before`` is false; positions start at row 2."""
    width = config("hidden_size")
    config.only("word_embed_proj_dim", width)
    config.only("layer_norm_elementwise_affine", True)
    if config.training:
        config.only("layerdrop", 0.0)
    config.irrelevant(
        "layerdrop", "activation_dropout", "is_encoder_decoder", "is_decoder"
    )  # the second is unused
    before = config("do_layer_norm_before", True)
    options = Options(
        heads=config("num_attention_heads"),
        d_ff=config("ffn_dim"),
        activation=config.activation("activation_function", "relu"),
        causal=True,
        init=one_law(config.normal("init_std")),
        bias=config("enable_bias", True),
        final_norm=before and not config("_remove_final_layer_norm", False),
        dropout=config.rate("dropout", 0.1),
        attention_dropout=config.rate("attention_dropout", 0.0),
        embedding_dropout=0,
        vocab=config("vocab_size"),
        positions=2 + positive_integer("max_position_embeddings", config("max_position_embeddings", 2048)),
        tied=config("tie_word_embeddings", True),
    )
    placement = PLACEMENTS["pre_ln" if before else "post_ln"]
    return stack(
        placement, name="opt", width=width, depth=config("num_hidden_layers"), options=options, head=head
    )


def gpt_neox(config: Reader, head: bool) -> Transformer:
    """Read GPT-NeoX: parallel attention and feed-forward branches with a norm each, partly rotary."""
    config.irrelevant("max_position_embeddings", "is_encoder_decoder", "is_decoder")
    config.only("hidden_dropout_prob", 0, because="hidden_dropout rules")
    config.only("attention_probs_dropout_prob", 0, because="attention_dropout rules")
    hidden = config.rate("hidden_dropout", 0.0)
    options = Options(
        heads=config("num_attention_heads"),
        d_ff=config("intermediate_size"),
        activation=config.activation("hidden_act", "gelu"),
        norm_eps=config("layer_norm_eps", 1e-5),
        causal=True,
        rotary=config.rotary(fraction=0.25),
        init=one_law(config.normal("initializer_range")),
        attention_bias=config("attention_bias", True),
        parallel="two_norms" if config("use_parallel_residual", True) else False,
        dropout=hidden,
        attention_dropout=config.rate("attention_dropout", 0.0),
        embedding_dropout=hidden,
        vocab=config("vocab_size"),
        tied=config("tie_word_embeddings", False),
    )
    width, depth = config("hidden_size"), config("num_hidden_layers")
    return stack(PLACEMENTS["pre_ln"], name="gpt_neox", width=width, depth=depth, options=options, head=head)
