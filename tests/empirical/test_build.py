"""The built modules against torch's own attention and encoder layer, and against direct formulas."""

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

import meanfield as mf
from empirical import build
from empirical.build import build_op
from empirical.layers import Attention, Context, EncoderDecoder, Transformer
from empirical.names import named_parameters, points
from meanfield import ops
from meanfield.errors import InputError, MissingRuleError

D, HEADS, TOKENS, BATCH = 24, 4, 7, 3


def closeness(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)  # float64: rounding of sums of at most 100 terms


def inputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(BATCH, TOKENS, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def transformer(arch: ops.Transformer) -> Transformer:
    model = build(arch, dtype="float64")
    assert isinstance(model, Transformer)
    return model


def attention_of(model: Transformer, layer: int = 1, name: str = "attention") -> Attention:
    found = [m for m in model.layers[layer - 1].modules() if isinstance(m, Attention) and m.name == name]
    return found[0]


def heads_first(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_scaled_dot_product_attention(kv_heads: int, causal: bool) -> None:
    arch = mf.post_ln(width=D, depth=1, heads=HEADS, kv_heads=kv_heads, causal=causal, init="torch")
    attention, x = attention_of(transformer(arch)), inputs()
    assert attention.q is not None
    assert attention.k is not None
    assert attention.o is not None
    q, k, v = (heads_first(p(x), h) for p, h in
               [(attention.q, HEADS), (attention.k, kv_heads), (attention.v, kv_heads)])  # fmt: skip
    k, v = (t.repeat_interleave(HEADS // kv_heads, dim=1) for t in (k, v))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(x.shape)
    assert closeness(attention(x), attention.o(expected))
    wrong = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.05 * (D // HEADS) ** -0.5)
    assert not closeness(attention(x), attention.o(wrong.transpose(1, 2).reshape(x.shape)))


def test_uniform_attention_is_the_mean_and_causally_the_running_mean() -> None:
    value = ops.Linear(D, D, ops.Draw(Fraction(1, D)))
    x = inputs()
    for causal in (False, True):
        attention = build_op(ops.Attention("attention", "uniform", 1, 1, value, causal=causal)).double()
        assert isinstance(attention, Attention)
        nn.init.normal_(attention.v.weight)
        v = x @ attention.v.weight
        expected = torch.stack([v[:, : i + 1].mean(1) for i in range(TOKENS)], 1)
        assert closeness(attention(x), expected if causal else v.mean(1, keepdim=True).expand_as(v))


def copy_to_torch(model: Transformer, reference: nn.TransformerEncoderLayer) -> None:
    ours = {(p.key.module, p.key.parameter): p.tensor.detach() for p in named_parameters(model)}
    theirs = dict(reference.named_parameters())
    pairs = {"self_attn.out_proj": "attention.o", "linear1": "ffn.up", "linear2": "ffn.down",
             "norm1": "norm1", "norm2": "norm2"}  # fmt: skip
    with torch.no_grad():
        for kind in ("weight", "bias"):
            packed = [ours[f"attention.{part}", kind].t() for part in "qkv"]
            theirs[f"self_attn.in_proj_{kind}"].copy_(torch.cat(packed))
            for name, module in pairs.items():
                theirs[f"{name}.{kind}"].copy_(ours[module, kind].t())


@pytest.mark.parametrize("placement", ["post_ln", "pre_ln"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_layer_is_torch_transformer_encoder_layer(placement: str, activation: str) -> None:
    preset = {"post_ln": mf.post_ln, "pre_ln": mf.pre_ln}
    options: dict[str, Any] = {
        "width": D,
        "depth": 1,
        "heads": HEADS,
        "d_ff": 40,
        "activation": activation,
        "init": "torch",
    }
    model = transformer(preset[placement](**options))
    reference = nn.TransformerEncoderLayer(
        D, HEADS, 40, dropout=0.0, activation=activation, batch_first=True, norm_first=placement == "pre_ln"
    ).double()
    copy_to_torch(model, reference)
    x = inputs()
    assert closeness(model.layers[0](x), reference(x))
    other = {"post_ln": mf.pre_ln, "pre_ln": mf.post_ln}[placement]
    assert not closeness(transformer(other(**options)).layers[0](x), reference(x))


def test_cross_attention_reads_the_memory() -> None:
    arch = mf.paper_encoder_decoder(width=D, depth=1, heads=HEADS, d_ff=40, vocab=11)
    model = build(arch, dtype="float64")
    assert isinstance(model, EncoderDecoder)
    source, target = torch.randint(11, (2, BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    memory = model.encoder.hidden(source)
    cross = attention_of(model.decoder, name="cross_attention")
    y = inputs()
    reference = nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    weights = {path: p.t() for path, p in cross.named_parameters() if path.endswith("weight")}
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([weights[f"{part}.weight"] for part in "qkv"]))
        reference.out_proj.weight.copy_(weights["o.weight"])
        reference.in_proj_bias.zero_()
        reference.out_proj.bias.zero_()
    assert closeness(cross(y, Context(memory=memory)), reference(y, memory, memory)[0])
    assert not closeness(cross(y, Context(memory=memory)), reference(y, y, y)[0])
    assert model(source, target).shape == (BATCH, TOKENS, 11)
    assert not closeness(model(source, target), model((source + 1) % 11, target))
    with pytest.raises(InputError, match="got no memory"):
        cross(y)


def test_decoder_is_causal_and_encoder_is_not() -> None:
    model = build(mf.paper_encoder_decoder(width=D, depth=1, heads=HEADS, d_ff=40, vocab=11), dtype="float64")
    assert isinstance(model, EncoderDecoder)
    source, target = torch.randint(11, (2, 1, TOKENS), generator=torch.Generator().manual_seed(0))
    changed = target.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 11
    before, after = model(source, target), model(source, changed)
    assert closeness(before[:, :-1], after[:, :-1])
    assert not closeness(before[:, -1], after[:, -1])
    hidden = model.encoder.hidden
    assert not closeness(hidden(target)[:, 0], hidden(changed)[:, 0])


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_rmsnorm_is_x_over_its_root_mean_square(eps: float) -> None:
    norm = build_op(ops.Norm("norm1", D, "rmsnorm", eps)).double()
    x = inputs()
    assert closeness(norm(x), x / (x.square().mean(-1, keepdim=True) + eps).sqrt())
    layernorm = build_op(ops.Norm("norm1", D, "layernorm", eps)).double()
    centred = x - x.mean(-1, keepdim=True)
    assert closeness(layernorm(x), centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt())
    assert not closeness(norm(x), layernorm(x))


def test_residual_scales_and_embedding_scale() -> None:
    up = ops.Linear(D, D, ops.Draw(1))
    residual = build_op(ops.Residual("residual1", up, skip_scale=Fraction(1, 2), branch_scale=3)).double()
    (weight,) = residual.parameters()
    nn.init.normal_(weight)
    x = inputs()
    assert closeness(residual(x), x / 2 + 3 * (x @ weight))
    embedding = build_op(ops.Embedding("embedding", 5, D, ops.Draw(1), scale=2)).double()
    (table,) = embedding.parameters()
    nn.init.normal_(table)
    ids = torch.tensor([[0, 4, 4]])
    assert closeness(embedding(ids), 2 * table[ids])


ARCHITECTURES = [
    mf.paper_post_ln(width=8, depth=2),
    mf.pre_ln(width=8, depth=3, heads=2, kv_heads=1, norm="rmsnorm", vocab=5),
    mf.paper_encoder_decoder(width=8, depth=2, heads=2, d_ff=16, vocab=5, placement="pre_ln"),
]


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_every_parameter_has_one_key(arch: ops.Transformer | ops.EncoderDecoder) -> None:
    model = build(arch)
    named = named_parameters(model)
    assert {id(p.tensor) for p in named} == {id(p) for p in model.parameters()}
    assert len({p.key for p in named}) == len(named)


def test_names_follow_the_notation() -> None:
    model = build(mf.pre_ln(width=8, depth=2, heads=2, vocab=5))
    keys = [(p.key.layer, p.key.module) for p in named_parameters(model) if p.key.parameter == "weight"]
    layer = [
        "norm1",
        "attention.q",
        "attention.k",
        "attention.v",
        "attention.o",
        "norm2",
        "ffn.up",
        "ffn.down",
    ]
    expected = [(0, "embedding"), *[(i, m) for i in (1, 2) for m in layer], (3, "final_norm"), (3, "head")]
    assert sorted(keys) == sorted(expected)
    names = {(key.layer, key.module) for key, _ in points(model)}
    block = {"norm1", "attention", "residual1", "norm2", "ffn", "residual2"}
    assert names == {(0, "input"), *[(i, m) for i in (1, 2) for m in block], (3, "final_norm")}


@pytest.mark.parametrize("seed", [None, -1, 1.5, True, "0"])
def test_a_seed_is_an_integer_of_at_least_0(seed: Any) -> None:
    with pytest.raises(InputError, match=r"is not an integer of at least 0"):
        build(mf.paper_post_ln(width=4, depth=1), seed=seed)


def test_unknown_op_has_no_rule() -> None:
    class Convolution(ops.Op):
        pass

    with pytest.raises(MissingRuleError, match=r"empirical\.build has no rule for Convolution"):
        build_op(Convolution())


def test_every_op_type_has_a_handler() -> None:
    concrete = {op for op in vars(ops).values() if isinstance(op, type) and issubclass(op, ops.Op)} - {ops.Op}
    assert concrete <= set(build_op.registry)
