"""The modules of single ops against torch's own functions and direct formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

import meanfield as mf
from empirical import build
from empirical.build import build_op
from empirical.layers import ACTIVATIONS, Attention, Context, Dropout, DualResidual, Streams, Transformer
from empirical.names import dropouts, named_parameters, open_streams, points
from meanfield import ops
from meanfield.errors import InputError
from meanfield.ops import Draw, Norm, Residual, Sequential
from tests.empirical import every_op

BATCH, TOKENS, WIDTH = 3, 6, 8


def equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)  # float64: rounding of sums of at most 100 terms


def inputs(seed: int = 0, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, TOKENS, width, dtype=torch.float64, generator=generator)


def module(op: ops.Op) -> nn.Module:
    """The module of an op in float64, its parameters random."""
    built = build_op(op).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return built


def transformer(arch: ops.Transformer) -> Transformer:
    model = build(arch, seed=1, dtype="float64")
    assert isinstance(model, Transformer)
    return model


def linear(d_in: int = WIDTH, d_out: int = WIDTH) -> ops.Linear:
    return ops.Linear(d_in, d_out, Draw(1 / d_in))


def attention(heads: int = 4, kv_heads: int = 2, **options: Any) -> ops.Attention:
    kv = linear(WIDTH, WIDTH * kv_heads // heads)
    return ops.Attention(
        "attention",
        "softmax",
        heads,
        kv_heads,
        kv,
        linear(),
        kv,
        score_scale=0.6,
        **options,
    )


LENGTHS = torch.tensor([TOKENS, 2, 4])
RIGHT = torch.arange(TOKENS) < LENGTHS[:, None]
LEFT = RIGHT.flip(1)


@pytest.mark.parametrize("padding", [None, RIGHT, LEFT], ids=["whole", "right", "left"])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, 3), (True, 2), (False, None)])
def test_masks_are_those_of_scaled_dot_product_attention(
    padding: Tensor | None, causal: bool, window: int | None
) -> None:
    def ours(op: ops.Attention) -> Tensor:
        return module(op)(inputs(), Context(padding))

    built = module(attention())
    assert isinstance(built, Attention)
    assert built.q is not None
    assert built.k is not None
    x = inputs()
    q, k, v = (
        p(x).view(BATCH, TOKENS, heads, 2).transpose(1, 2)
        for p, heads in ((built.q, 4), (built.k, 2), (built.v, 2))
    )
    seen = torch.zeros(BATCH, 1, TOKENS, TOKENS, dtype=torch.bool)
    for b in range(BATCH):
        for i in range(TOKENS):
            for j in range(TOKENS):
                later, far = causal and j > i, window is not None and abs(i - j) >= window
                padded = padding is not None and not padding[b, j]
                seen[b, 0, i, j] = not (later or far or padded) or i == j
    expected = F.scaled_dot_product_attention(q, k, v, seen, scale=0.6, enable_gqa=True)
    expected = expected.transpose(1, 2).flatten(2)
    real = torch.ones(BATCH, TOKENS, dtype=torch.bool) if padding is None else padding
    y = ours(attention(causal=causal, window=window))
    assert torch.isfinite(y).all()
    assert equal(y[real], expected[real])
    assert not equal(ours(attention(causal=not causal, window=window))[real], expected[real])
    assert not equal(ours(attention(causal=causal, window=1))[real], expected[real])
    if padding is not None and not (causal and padding is RIGHT):  # padding on the right is later
        assert not equal(module(attention(causal=causal, window=window))(x)[real], expected[real])


def test_padding_of_the_memory_hides_its_tokens() -> None:
    cross = module(attention(cross=True))
    memory = inputs(1)
    y = cross(inputs(), Context(memory=memory, memory_padding=RIGHT))
    assert isinstance(cross, Attention)
    for b in range(BATCH):
        alone = cross(inputs()[b : b + 1], Context(memory=memory[b : b + 1, : LENGTHS[b]]))
        assert equal(y[b : b + 1], alone)
    assert not equal(y, cross(inputs(), Context(memory=memory)))


def test_queries_are_normed_then_turned_then_scaled_then_capped() -> None:
    op = attention(
        heads=2, kv_heads=2, query_norm=Norm("attention.q_norm", 4, "rmsnorm", 0.1),
        key_norm=Norm("attention.k_norm", WIDTH, eps=0.2),
        value_norm=Norm("attention.v_norm", 4, affine=False), rotary=ops.Rotary(0.5, 30),
        relative_bias=ops.RelativeBias("attention.relative_bias", Draw(1), 4, 9), softcap=1.5,
        inner=ops.Gain("attention.gain", 2, 1),
    )  # fmt: skip
    built, x = module(op), inputs()
    assert isinstance(built, Attention)
    tensors = dict(built.named_parameters())
    q, k, v = (x @ tensors[f"{part}.weight"] for part in "qkv")  # (batch, tokens, 8)
    k = F.layer_norm(k, (8,), tensors["k_norm.weight"], tensors["k_norm.bias"], 0.2)
    q, k, v = (t.view(BATCH, TOKENS, 2, 4) for t in (q, k, v))
    q = q / (q.square().mean(-1, keepdim=True) + 0.1).sqrt() * tensors["q_norm.weight"]
    v = F.layer_norm(v, (4,), eps=1e-5)
    table = tensors["relative_bias.weight"]  # buckets 0, 1: 0 and 1 or more before; 2, 3: after
    for b in range(BATCH):
        for h in range(2):
            rows = []
            for i in range(TOKENS):
                scores = []
                for j in range(TOKENS):
                    cos, sin = math.cos(i - j), math.sin(i - j)
                    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
                    turned = q[b, i, h, :2] @ turn @ k[b, j, h, :2] + q[b, i, h, 2:] @ k[b, j, h, 2:]
                    bucket = 0 if i == j else 1 if j < i else 3
                    scores.append(1.5 * torch.tanh((0.6 * turned + table[bucket, h]) / 1.5))
                rows.append(torch.stack(scores).softmax(0) @ v[b, :, h])
            expected = tensors["inner.weight"][h] * torch.stack(rows)  # (tokens, 4)
            y = built(x)[b, :, 4 * h : 4 * h + 4]
            assert equal(y, expected)
            assert not equal(1.0001 * y, expected)
    for field in ("query_norm", "key_norm", "value_norm", "rotary", "relative_bias", "softcap", "inner"):
        fewer: dict[str, Any] = {field: None}
        without = module(replace(op, **fewer))
        for name, tensor in without.named_parameters():
            tensor.data = tensors[name].data
        assert not equal(without(x), built(x)), field


def test_one_turning_plane_rotates_by_the_position() -> None:
    """The score of two equal vectors at distance t in one plane is |x|^2 cos t."""
    rotary = ops.Rotary(base=7)
    built = build_op(attention(heads=4, kv_heads=4, rotary=rotary))
    assert isinstance(built, Attention)
    assert built.rotary is not None
    x = torch.tensor([0.6, 0.8], dtype=torch.float64).expand(1, 1, TOKENS, 2)
    y = built.rotary(x)[0, 0]
    t = torch.arange(TOKENS).double()
    assert equal(y @ y.T, torch.cos(t[:, None] - t))


FORMULAS: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "identity": lambda x: x,
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


def test_activations_are_their_formulas() -> None:
    assert set(ACTIVATIONS) == set(ops.ACTIVATIONS) == set(FORMULAS)
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    values = {
        name: torch.tensor([f(v) for v in x.tolist()], dtype=torch.float64) for name, f in FORMULAS.items()
    }
    for name, activation in ACTIVATIONS.items():
        assert equal(activation(x), values[name])
        others = [other for key, other in values.items() if key != name]
        assert not any(torch.allclose(activation(x), other, rtol=1e-4, atol=1e-5) for other in others)


def test_feed_forward_is_gated_and_has_an_inner_op() -> None:
    up, down = linear(WIDTH, 5), linear(5, WIDTH)
    op = ops.FeedForward("ffn", up, "silu", down, gate=up, inner=ops.Gain("ffn.gain", 5, 2))
    built, x = module(op), inputs()
    w = dict(built.named_parameters())
    hidden = F.silu(x @ w["gate.weight"]) * (x @ w["up.weight"])
    assert equal(built(x), (hidden * w["inner.weight"]) @ w["down.weight"])
    swapped = F.silu(x @ w["up.weight"]) * (x @ w["gate.weight"])
    assert not equal(built(x), (swapped * w["inner.weight"]) @ w["down.weight"])


@pytest.mark.parametrize("width", [1, 2, WIDTH])
def test_gains_are_for_coordinates_heads_or_all(width: int) -> None:
    built, x = module(ops.Gain("gain1", width, 1)), inputs()
    (weight,) = built.parameters()
    share = WIDTH // width
    expected = torch.cat([x[..., i * share : (i + 1) * share] * weight[i] for i in range(width)], -1)
    assert equal(built(x), expected)
    with pytest.raises(InputError, match="gain1 has 3 factors for 8 coordinates"):
        module(ops.Gain("gain1", 3, 1))(x)


def test_norms_without_parameters() -> None:
    x = inputs()
    layer, rms = (module(Norm("norm1", WIDTH, kind, 0.1, affine=False)) for kind in ("layernorm", "rmsnorm"))
    centred = x - x.mean(-1, keepdim=True)
    assert equal(layer(x), centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt())
    assert equal(rms(x), x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt())
    assert not list(layer.parameters()) + list(rms.parameters())


def test_branches_add_up_and_a_scale_multiplies() -> None:
    x = inputs()
    assert equal(build_op(ops.Parallel((ops.Scale(0.5), ops.Scale(2), ops.Scale(-1))))(x), 1.5 * x)


def test_two_streams_follow_their_equations() -> None:
    op = Sequential((ops.Fork(), ops.DualResidual("residual1", linear(), Norm("norm1", WIDTH, eps=0.1))))
    built, x = module(op), inputs()
    dual = built.get_submodule("parts.1")
    assert isinstance(dual, DualResidual)
    (weight,), (gain, shift) = dual.branch.parameters(), dual.norm.parameters()

    def norm(y: Tensor) -> Tensor:
        return F.layer_norm(y, (WIDTH,), gain, shift, 0.1)

    y = built(x)
    assert equal(y.x, norm(x + x @ weight))
    assert equal(y.r, x + x @ weight)
    again = dual(y)
    assert equal(again.x, norm(y.x + y.x @ weight))
    assert equal(again.r, y.r + y.x @ weight)
    merge = build_op(ops.Merge(Norm("final_norm", WIDTH, eps=0.1))).double()
    assert equal(merge(Streams(x, 2 * x)), x + F.layer_norm(2 * x, (WIDTH,), eps=0.1))


def test_streams_begin_with_a_fork_and_end_with_a_merge() -> None:
    arch, x = every_op.two_streams(), inputs(width=every_op.WIDTH)
    assert transformer(arch).hidden(x).shape == x.shape
    with pytest.raises(InputError, match=r"residual1 reads two streams and got one: put Fork\(\) before it"):
        transformer(replace(arch, entry=None)).hidden(x)
    with pytest.raises(InputError, match=r"gives two streams: give final_norm=Merge"):
        transformer(replace(arch, final_norm=None)).hidden(x)


def test_dropout_drops_at_its_rate_in_train_mode_alone() -> None:
    dropout = build_op(ops.Dropout(0.25))
    assert isinstance(dropout, Dropout)
    x = torch.ones(40, 50, 10)
    y = dropout(x)
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    n, kept = x.numel(), int((y > 0).sum())
    sd = math.sqrt(n * 0.25 * 0.75)
    assert abs(kept - 0.75 * n) < 4 * sd
    assert abs(kept - 0.70 * n) > 4 * sd
    assert not torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


def test_uniform_attention_drops_weights_of_each_head_and_sequence() -> None:
    op = ops.Attention("attention", "uniform", 2, 2, linear(), dropout=0.5)
    y = module(op)(inputs()[:1].expand(BATCH, -1, -1))
    assert not equal(y[0], y[1])
    heads = y[0].unflatten(-1, (2, 4)).ne(0)
    assert y.isfinite().all()
    assert heads.any()


def test_seeds_have_dropout_streams_of_their_own() -> None:
    arch = every_op.one_stream(dropout=0.3)
    ids = torch.arange(5)[None]
    model = transformer(arch)
    first, second = model.hidden(ids), model.hidden(ids)
    assert not torch.equal(first, second)
    open_streams(dropouts(model), 1)
    assert torch.equal(model.hidden(ids), first)
    assert torch.equal(transformer(arch).hidden(ids), first)
    assert len({id(d) for d in dropouts(model)}) == 4  # entry, weights, branch, ffn
    assert torch.equal(model.eval().hidden(ids), model.hidden(ids))


def test_tied_heads_and_shared_biases_are_one_tensor_with_one_row() -> None:
    model = build(every_op.one_stream(), dtype="float64")
    names = [(p.key.layer, p.key.module) for p in named_parameters(model)]
    assert names.count((0, "embedding")) == 1
    assert "head" not in {name for _, name in names}
    assert [layer for layer, name in names if name == "attention.relative_bias"] == [1]
    assert {id(p.tensor) for p in named_parameters(model)} == {id(p) for p in model.parameters()}
    table = next(p.tensor for p in named_parameters(model) if p.key.module == "embedding")
    x = inputs(width=every_op.WIDTH)
    assert equal(model.head(x), 2 * torch.tanh(0.7 * x @ table.T / 2))


def test_positions_and_the_first_segment_are_added() -> None:
    arch = every_op.one_stream()
    model = transformer(arch)
    tensors = {p.key.module: p.tensor for p in named_parameters(model) if p.key.layer == 0}
    ids = torch.tensor([[4, 0, 4]])
    expected = 1.3 * tensors["embedding"][ids] + tensors["position"][:3] + tensors["segment"][0]
    assert equal(model.embeddings(ids), expected)
    with pytest.raises(InputError, match="tokens=8 is more than the 7 learned positions"):
        model.hidden(torch.zeros(1, 8, dtype=torch.long))


def test_points_are_the_outputs_of_named_ops() -> None:
    names = [(key.layer, key.module) for key, _ in points(build(every_op.one_stream()))]
    assert names[:3] == [(0, "input"), (0, "embedding_norm"), (1, "residual1")]
    assert {(1, "attention.q_norm"), (1, "attention.gain"), (1, "ffn.norm"), (1, "gain2")} <= set(names)
    dual = {key.module for key, _ in points(build(every_op.two_streams()))}
    assert dual == {"input", "residual1", "norm1", "attention", "residual2", "norm2", "ffn", "final_norm"}


def test_two_ops_of_one_name_are_refused() -> None:
    layer = mf.pre_ln(width=8, depth=1, heads=1).layers[0].block.ops[0]
    assert isinstance(layer, Residual)
    arch = ops.Transformer("twice", "x", "x", (ops.Repeat(Sequential((layer, layer)), 1),))
    with pytest.raises(InputError, match="layer 1 of twice has two ops named"):
        build(arch)


def test_a_shared_bias_needs_an_earlier_one() -> None:
    bias = ops.RelativeBias("attention.relative_bias", Draw(1), shared=True)
    ffn = ops.FeedForward("ffn", linear(), "relu", linear())
    block = Sequential((attention(relative_bias=bias), ffn))
    with pytest.raises(InputError, match=r"attention.relative_bias is shared and no earlier layer has it"):
        build(ops.Transformer("x", "x", "x", (ops.Repeat(block, 2),)))


@pytest.mark.parametrize(("buckets", "far"), [(2, 128), (8, 2), (1, 10)])
def test_buckets_that_cannot_be_are_refused(buckets: int, far: int) -> None:
    with pytest.raises(InputError, match=f"buckets={buckets}, max_distance={far}: give at least 4 buckets"):
        ops.RelativeBias("bias", Draw(1), buckets, far)


def test_rotary_needs_an_even_number_of_coordinates() -> None:
    with pytest.raises(InputError, match=r"turns 1 of 2 coordinates of a head: give a fraction"):
        build_op(attention(rotary=ops.Rotary(0.5)))
