"""Reading modules: what they are, and which of their tensors is which parameter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import empirical
from empirical.names import named_parameters
from empirical.readers import UnsupportedModuleError, read, read_module
from meanfield import ops
from tests.empirical.readers import modules
from tests.empirical.readers.modules import HEAD, HEADS, HIDDEN, VOCAB, WIDTH


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True, **options)


def encoder(depth: int = 3, **options: Any) -> nn.TransformerEncoder:
    stack = nn.TransformerEncoder(layer(**options), 1, enable_nested_tensor=False)
    stack.layers = nn.ModuleList(layer(**options) for _ in range(depth))
    stack.num_layers = depth
    return stack


def branch(arch: Any, number: int = 0, run: int = 0) -> ops.Op:
    sums = [op for op in arch.layers[run].block.ops if isinstance(op, ops.Residual)]
    return sums[number].branch


def test_a_module_written_by_hand() -> None:
    arch = read(modules.Model(), modules.ids())
    assert isinstance(arch, ops.Transformer)
    attention, network = arch.attention, arch.feed_forward
    assert (arch.placement, arch.depth, arch.width) == ("pre_ln", 2, WIDTH)
    assert (attention.heads, attention.kv_heads, attention.head_size) == (HEADS, HEADS, HEAD)
    assert attention.score_scale == pytest.approx(HEAD**-0.5, rel=1e-5)
    assert attention.causal
    assert attention.window is None
    assert attention.rotary is None
    assert attention.softcap == pytest.approx(20)
    assert attention.query is not None
    assert attention.query.bias is not None
    assert attention.output is not None
    assert attention.output.bias is None
    assert network.activation == "quick_gelu"
    assert network.gate is not None
    assert (network.gate.d_in, network.gate.d_out, network.down.d_out) == (WIDTH, HIDDEN, WIDTH)
    norm = next(op for op in ops.walk(arch.layers[0]) if isinstance(op, ops.Norm))
    assert (norm.kind, norm.eps) == ("rmsnorm", 1e-6)
    first, second = (op for op in arch.layers[0].block.ops if isinstance(op, ops.Residual))
    assert (first.skip_scale, first.branch_scale) == (1, 0.5)
    assert (second.skip_scale, second.branch_scale) == (2, 1)
    assert arch.embedding is not None
    assert arch.embedding.scale == pytest.approx(WIDTH**0.5)
    assert arch.position is not None
    assert arch.head is not None
    assert arch.head.tied
    assert isinstance(arch.final_norm, ops.Norm)
    assert arch.final_norm.eps == 1e-5


def test_parts_of_packed_tensors_have_names_and_places() -> None:
    model = modules.Model()
    reading = read_module(model, modules.ids())
    labels = [slot.label for slot in reading.slots]
    assert [f"blocks.0.attention.fused.weight[{part}]" in labels for part in "qkv"] == [True] * 3
    assert "blocks.1.network.packed.weight[gate]" in labels
    value = next(s for s in reading.slots if s.label == "blocks.0.attention.fused.weight[v]")
    fused = model.get_parameter("blocks.0.attention.fused.weight").view(HEADS, 3, HEAD, WIDTH)
    expected = fused[:, 2].reshape(WIDTH, WIDTH).T  # (d_in, heads * head size)
    assert torch.equal(value.take(model.get_parameter(value.name)), expected)
    assert [slot.offset for slot in reading.slots if slot.name == "blocks.0.norm1.weight"] == [1]


def test_slots_fit_the_architecture() -> None:
    reading = read_module(modules.Model(tied=False), modules.ids())
    own = {p.key: tuple(p.tensor.shape) for p in named_parameters(empirical.build(reading.arch))}
    assert {slot.key: tuple(slot.index.shape) for slot in reading.slots} == own


def test_variances_are_those_of_the_weights() -> None:
    arch = read(encoder())
    assert isinstance(arch, ops.Transformer)
    query = arch.attention.query
    assert query is not None
    entries = 3 * WIDTH**2  # of the three layers, which are drawn alike
    assert query.weight.variance == pytest.approx(1 / (2 * WIDTH), rel=5 * (0.8 / entries) ** 0.5)
    assert query.weight.law == "uniform"
    assert query.bias == ops.ZEROS
    assert arch.layers[0].times == 3


@pytest.mark.parametrize("pre", [False, True])
def test_torch_placements(pre: bool) -> None:
    arch = read(encoder(norm_first=pre, activation="gelu"))
    assert isinstance(arch, ops.Transformer)
    assert arch.placement == ("pre_ln" if pre else "post_ln")
    assert arch.feed_forward.activation == "gelu"
    assert arch.final_norm is None


def test_a_final_norm_belongs_to_no_layer() -> None:
    stack = encoder(norm_first=True)
    stack.norm = nn.LayerNorm(WIDTH)
    arch = read(stack)
    assert isinstance(arch, ops.Transformer)
    assert isinstance(arch.final_norm, ops.Norm)
    assert arch.depth == 3


def test_tokens_along_the_first_axis() -> None:
    stack = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN), 2, enable_nested_tensor=False
    )
    x = modules.vectors(batch=5, tokens=3)  # five tokens of three sequences, for this module
    (stream,) = read_module(stack, x).streams
    assert (stream.batch, stream.tokens) == (3, 5)
    assert stream.gram is not None
    rows = x.transpose(0, 1).reshape(15, WIDTH).double()
    assert torch.allclose(torch.from_numpy(stream.gram), rows @ rows.T / WIDTH)


def test_padding_and_masks() -> None:
    real = torch.arange(7) < torch.tensor([7, 4])[:, None]
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    batch = {"src": modules.vectors(), "mask": mask, "src_key_padding_mask": ~real}
    reading = read_module(encoder(), batch)
    assert isinstance(reading.arch, ops.Transformer)
    assert reading.arch.attention.causal
    padding = reading.streams[0].padding
    assert padding is not None
    assert torch.equal(torch.from_numpy(padding), real)


def test_a_window() -> None:
    distance = torch.arange(7)[:, None] - torch.arange(7)
    batch = {"src": modules.vectors(), "mask": (distance < 0) | (distance >= 3)}
    arch = read(encoder(), batch)
    assert isinstance(arch, ops.Transformer)
    assert (arch.attention.causal, arch.attention.window) == (True, 3)


def test_an_encoder_and_a_decoder() -> None:
    pair = nn.Transformer(WIDTH, HEADS, 2, 1, HIDDEN, batch_first=True)
    reading = read_module(pair, {"src": modules.vectors(), "tgt": modules.vectors(1, tokens=5)})
    arch = reading.arch
    assert isinstance(arch, ops.EncoderDecoder)
    assert (arch.encoder.depth, arch.decoder.depth) == (2, 1)
    assert [(s.batch, s.tokens) for s in reading.streams] == [(2, 7), (2, 5)]
    crossed = [op for op in ops.walk(arch.decoder.layers[0]) if isinstance(op, ops.Attention) and op.cross]
    assert len(crossed) == 1


def remove_norm(model: modules.Model) -> None:
    model.blocks[1].norm2 = nn.Identity()


def double_norm(model: modules.Model) -> None:
    model.blocks[1].norm2 = nn.Sequential(modules.RootMeanSquare(), modules.RootMeanSquare())


@pytest.mark.parametrize(("fault", "norms"), [(remove_norm, 1), (double_norm, 3)])
def test_a_norm_missing_or_doubled_is_read_as_it_is(fault: Any, norms: int) -> None:
    model = modules.Model()
    fault(model)
    arch = read(model, modules.ids())
    assert isinstance(arch, ops.Transformer)
    found = [sum(isinstance(op, ops.Norm) for op in ops.walk(run)) for run in arch.layers]
    assert found == [2, norms]


def test_one_layer_drawn_wider_has_a_law_of_its_own() -> None:
    stack = encoder()
    with torch.no_grad():
        stack.layers[1].linear1.weight *= 2**0.5
    arch = read(stack)
    assert isinstance(arch, ops.Transformer)
    up = [
        op.up.weight.variance
        for run in arch.layers
        for op in ops.walk(run)
        if isinstance(op, ops.FeedForward)
    ]
    assert len(up) == 3
    assert up[1] / up[0] == pytest.approx(2, rel=0.1)
    assert up[0] == up[2]


def test_copied_and_shared_layers_are_named() -> None:
    cloned = nn.TransformerEncoder(layer(), 3, enable_nested_tensor=False)
    assert [text[:18] for text in read_module(cloned).dependent] == [
        "layers 1 and 2 hav",
        "layers 2 and 3 hav",
    ]
    shared = encoder()
    shared.layers[2] = shared.layers[0]
    (first, *_) = read_module(shared).dependent
    assert "of layer 1 and" in first
    assert "of layer 3" in first
    assert not read_module(encoder()).dependent


def test_the_module_is_left_as_it_was() -> None:
    stack = encoder().train()
    before = copy.deepcopy(stack.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled()
    read(stack)
    assert stack.training
    assert all(part.training for part in stack.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in stack.state_dict().items())
    assert all(parameter.grad is None for parameter in stack.parameters())
    assert not stack._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_a_layer_in_half_precision_is_read() -> None:
    stack = encoder()
    stack.layers[1].to(torch.bfloat16)
    assert read_module(stack).arch.depth == 3  # type: ignore[union-attr]


def test_what_is_not_used_is_said() -> None:
    model = modules.Model()
    model.extra = nn.Linear(3, 3)
    assert any("extra.weight" in note for note in read_module(model, modules.ids()).notes)


def sines(x: Tensor) -> Tensor:
    return torch.sin(x)


def over_tokens(x: Tensor) -> Tensor:
    return x.flip(1)


def largest(x: Tensor) -> Tensor:
    return x / x.abs().amax(-1, keepdim=True)


def noisy(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def written(x: Tensor) -> Tensor:
    y = x + 0.0
    y[:, 0] *= 2
    return y


@pytest.mark.parametrize(
    ("branch", "why"),
    [
        (sines, "aten.sin"),
        (over_tokens, "different tokens"),
        (largest, "aten.amax|aten.div"),
        (noisy, "random numbers"),
        (written, "writes into a part"),
        (modules.LinearAttention(), "no linear function of a projection"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(branch: Any, why: str) -> None:
    with pytest.raises(UnsupportedModuleError, match=why):
        read(modules.Broken(branch), modules.vectors())


def test_two_streams_are_refused() -> None:
    with pytest.raises(UnsupportedModuleError, match="two streams"):
        read(modules.TwoStreams(), modules.vectors())


def test_attention_with_something_between_scores_and_softmax_is_refused() -> None:
    odd = modules.Model([modules.Block(modules.Heads(change=lambda s: s.relu()))])
    with pytest.raises(UnsupportedModuleError, match=r"blocks\.0\.attention"):
        read(odd, modules.ids())


def test_no_transformer() -> None:
    with pytest.raises(UnsupportedModuleError, match="no self-attention"):
        read(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)), modules.vectors())


def test_weights_without_values_or_with_nan() -> None:
    stack = encoder()
    with torch.no_grad():
        stack.layers[1].linear2.weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedModuleError, match=r"layers\.1\.linear2\.weight: it holds a NaN"):
        read(stack)
    with torch.device("meta"), pytest.raises(UnsupportedModuleError, match="meta device"):
        read(encoder())


def test_a_batch_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="give a tensor"):
        read(encoder(), "words")
    with pytest.raises(ValueError, match="give fewer"):
        read(encoder(), tuple(modules.vectors() for _ in range(9)))


def test_a_decoder_with_a_memory_that_is_given() -> None:
    def block() -> nn.TransformerDecoderLayer:
        return nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True)

    decoder = nn.TransformerDecoder(block(), 1)
    decoder.layers = nn.ModuleList(block() for _ in range(2))
    decoder.num_layers = 2
    batch = {"tgt": modules.vectors(), "memory": modules.vectors(1, tokens=5)}
    reading = read_module(decoder, batch)
    arch = reading.arch
    assert isinstance(arch, ops.EncoderDecoder)
    assert (arch.encoder.depth, arch.encoder.width, arch.decoder.depth) == (0, WIDTH, 2)
    memory = reading.streams[0].gram
    assert memory is not None
    rows = batch["memory"].reshape(10, WIDTH).double()
    assert torch.allclose(torch.from_numpy(memory), rows @ rows.T / WIDTH)
    predicted = empirical.predict(decoder, batch, samples=8)
    assert set(predicted) == {slot.label for slot in reading.slots}


def test_constant_gains_and_shifts_are_read() -> None:
    stack = encoder()
    with torch.no_grad():
        stack.layers[1].norm1.weight.fill_(0.5)
        stack.layers[1].norm1.bias.fill_(0.1)
    arch = read(stack)
    assert isinstance(arch, ops.Transformer)
    norms = [
        op for run in arch.layers for op in ops.walk(run) if isinstance(op, ops.Norm) and op.name == "norm1"
    ]
    assert [(op.gain.mean, round(float(op.shift.mean), 6)) for op in norms] == [(1, 0), (0.5, 0.1), (1, 0)]


def test_a_head_with_a_hidden_layer_and_a_bias() -> None:
    hf = pytest.importorskip("transformers")
    config = hf.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=61
    )
    arch = read(hf.BertForMaskedLM(config), {"input_ids": modules.ids()})
    assert isinstance(arch, ops.Transformer)
    assert arch.head is not None
    assert arch.head.tied
    assert arch.head.linear.bias == ops.ZEROS
    assert arch.head.transform is not None
    assert [type(op).__name__ for op in ops.walk(arch.head.transform)] == [
        "Sequential", "Linear", "Activation", "Norm",
    ]  # fmt: skip


def test_distances_in_the_scores() -> None:
    hf = pytest.importorskip("transformers")
    config = hf.BloomConfig(hidden_size=32, n_layer=1, n_head=4, vocab_size=61)
    arch = read(hf.BloomModel(config), {"input_ids": modules.ids()})
    assert isinstance(arch, ops.Transformer)
    assert arch.attention.alibi == pytest.approx((0.25, 0.0625, 0.015625, 0.00390625), rel=1e-4)


class Sines(nn.Module):
    """Vectors with constant positions whose coordinates have a mean."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.words, self.mean = nn.Embedding(VOCAB, WIDTH), mean
        self.stack = encoder(2)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.sin(torch.arange(ids.shape[1] * WIDTH).view(ids.shape[1], WIDTH).float()) + self.mean
        return self.stack(self.words(ids) + places)


def test_vectors_that_prefer_a_direction_are_read_and_not_predicted() -> None:
    assert not read_module(Sines(0.0), modules.ids()).dependent
    lopsided = Sines(0.7)
    (why,) = read_module(lopsided, modules.ids()).dependent
    assert "mean over their coordinates" in why
    with pytest.raises(ValueError, match="the theory does not hold"):
        empirical.predict(lopsided, modules.ids(), samples=2)


def test_copies_of_a_bias_count_once() -> None:
    stack = encoder(6)
    with torch.no_grad():
        for part in stack.layers:
            part.linear1.bias.copy_(
                torch.linspace(-1, 1, HIDDEN) + 0.2
            )  # 2.4 standard errors, six times over
    arch = read(stack)
    assert isinstance(arch, ops.Transformer)
    assert arch.feed_forward.up.bias is not None
    assert arch.feed_forward.up.bias.mean == 0


def test_one_factor_for_all_columns_is_a_gain_of_its_own() -> None:
    class Scaled(modules.RootMeanSquare):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

    model = modules.Model()
    model.norm = Scaled()
    arch = read(model, modules.ids())
    assert isinstance(arch, ops.Transformer)
    assert isinstance(arch.final_norm, ops.Sequential)
    norm, gain = arch.final_norm.ops
    assert isinstance(norm, ops.Norm)
    assert isinstance(gain, ops.Gain)
    assert (norm.affine, gain.width) == (False, 1)
