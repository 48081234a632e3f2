"""The key columns of every parameter of the measured models: their own names, translated by table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from meanfield.ops import ParameterKey

# Name of a tensor without ".weight" or ".bias", "*" for the layer -> modules of its equal parts.
Names: TypeAlias = Mapping[str, tuple[str, ...]]

QKV = ("attention.q", "attention.k", "attention.v")
BEFORE_THE_LAYERS = ("embedding", "position", "segment", "embedding_norm")

TORCH: Names = {
    "layers.*.self_attn.in_proj": QKV,
    "layers.*.self_attn.out_proj": ("attention.o",),
    "layers.*.linear1": ("ffn.up",),
    "layers.*.linear2": ("ffn.down",),
    "layers.*.norm1": ("norm1",),
    "layers.*.norm2": ("norm2",),
    "norm": ("final_norm",),
}
GPT2: Names = {
    "wte": ("embedding",),
    "wpe": ("position",),
    "h.*.ln_1": ("norm1",),
    "h.*.attn.c_attn": QKV,
    "h.*.attn.c_proj": ("attention.o",),
    "h.*.ln_2": ("norm2",),
    "h.*.mlp.c_fc": ("ffn.up",),
    "h.*.mlp.c_proj": ("ffn.down",),
    "ln_f": ("final_norm",),
}
BERT: Names = {
    "embeddings.word_embeddings": ("embedding",),
    "embeddings.position_embeddings": ("position",),
    "embeddings.token_type_embeddings": ("segment",),
    "embeddings.LayerNorm": ("embedding_norm",),
    "encoder.layer.*.attention.self.query": ("attention.q",),
    "encoder.layer.*.attention.self.key": ("attention.k",),
    "encoder.layer.*.attention.self.value": ("attention.v",),
    "encoder.layer.*.attention.output.dense": ("attention.o",),
    "encoder.layer.*.attention.output.LayerNorm": ("norm1",),
    "encoder.layer.*.intermediate.dense": ("ffn.up",),
    "encoder.layer.*.output.dense": ("ffn.down",),
    "encoder.layer.*.output.LayerNorm": ("norm2",),
}
LLAMA: Names = {
    "embed_tokens": ("embedding",),
    "layers.*.input_layernorm": ("norm1",),
    "layers.*.self_attn.q_proj": ("attention.q",),
    "layers.*.self_attn.k_proj": ("attention.k",),
    "layers.*.self_attn.v_proj": ("attention.v",),
    "layers.*.self_attn.o_proj": ("attention.o",),
    "layers.*.post_attention_layernorm": ("norm2",),
    "layers.*.mlp.gate_proj": ("ffn.gate",),
    "layers.*.mlp.up_proj": ("ffn.up",),
    "layers.*.mlp.down_proj": ("ffn.down",),
    "norm": ("final_norm",),
}
T5: Names = {
    "shared": ("embedding",),
    "encoder.block.*.layer.0.layer_norm": ("norm1",),
    "encoder.block.*.layer.0.SelfAttention.q": ("attention.q",),
    "encoder.block.*.layer.0.SelfAttention.k": ("attention.k",),
    "encoder.block.*.layer.0.SelfAttention.v": ("attention.v",),
    "encoder.block.*.layer.0.SelfAttention.o": ("attention.o",),
    "encoder.block.*.layer.0.SelfAttention.relative_attention_bias": ("attention.relative_bias",),
    "encoder.block.*.layer.1.layer_norm": ("norm2",),
    "encoder.block.*.layer.1.DenseReluDense.wi": ("ffn.up",),
    "encoder.block.*.layer.1.DenseReluDense.wo": ("ffn.down",),
    "encoder.final_layer_norm": ("final_norm",),
}


def keyed(model: nn.Module, names: Names, depth: int) -> Iterator[tuple[ParameterKey, Tensor]]:
    """Yield every parameter's gradient with its key; a packed tensor yields one part after another.

    Args:
        model: A model after its backward pass.
        names: The table of its kind; a name that is not in it is a `KeyError`, never left out.
        depth: Number of layers.
    """
    for name, tensor in model.named_parameters():
        stem, parameter = name.replace("in_proj_", "in_proj.").rsplit(".", 1)
        index = re.search(r"\.(\d+)\.", stem)  # the first number counts layers
        modules = names[re.sub(r"\.\d+\.", ".*.", stem, count=1)]
        assert tensor.grad is not None, name
        longest = max(range(tensor.ndim), key=lambda axis: tensor.shape[axis])  # where parts are packed
        for module, part in zip(modules, tensor.grad.chunk(len(modules), dim=longest), strict=True):
            outside = 0 if module in BEFORE_THE_LAYERS else depth + 1
            yield ParameterKey(int(index[1]) + 1 if index else outside, module, parameter), part
