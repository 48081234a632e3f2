"""Points of models that others wrote, and which dimension is which in their hidden states."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from empirical.recording import Recorder, record
from meanfield.errors import InputError

WIDTH = 16
IDS = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


def run(model: nn.Module, *args: Tensor, **options: Any) -> Recorder:
    """Record one backward pass; a point has forward and backward moments, or it is none."""
    with record(model.train(), parameters=False, **options) as recorder:
        y: Any = model(*args)
        y = y if isinstance(y, Tensor) else y[0]
        y.square().sum().backward()
    assert recorder.df.module.tolist() == list(recorder.points)
    assert recorder.df[["q_hat", "cov_hat", "q_grad_hat", "cov_grad_hat"]].notna().all(axis=None)
    return recorder


# --- The rule -----------------------------------------------------------------------------------------------


def test_points_of_gpt2_and_bert() -> None:
    transformers = pytest.importorskip("transformers")
    ends = {"vocab_size": 11, "bos_token_id": None, "eos_token_id": None}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, **ends))
    blocks = [[f"h.{k}", f"h.{k}.ln_1", f"h.{k}.attn", f"h.{k}.ln_2", f"h.{k}.mlp"] for k in (0, 1)]
    wanted = ["wte", *blocks[0], *blocks[1], "ln_f"]  # neither positions, which have no batch, nor the head
    assert list(run(gpt2, IDS).points) == [f"transformer.{path}" for path in wanted]
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=11, **sizes))
    blocks = [[f"encoder.layer.{k}{part}" for part in ("", ".attention", ".output")] for k in (0, 1)]
    assert list(run(bert, IDS).points) == ["embeddings", *blocks[0], *blocks[1]]


def test_points_of_t5_have_a_name_for_each_sub_layer() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 11}
    t5 = transformers.T5Model(transformers.T5Config(**sizes))
    with record(t5) as recorder:
        t5(input_ids=IDS, decoder_input_ids=IDS[:, :3])
    wanted = {"encoder.block.0.layer.1", "decoder.block.0.layer.2", "encoder.final_layer_norm"}
    assert wanted < set(recorder.points)


def test_points_of_lists_that_are_not_called_are_their_entries() -> None:
    x_transformers = pytest.importorskip("x_transformers")
    layers = x_transformers.Decoder(dim=WIDTH, depth=1, heads=2, attn_dim_head=8)
    model = x_transformers.TransformerWrapper(num_tokens=11, max_seq_len=8, attn_layers=layers)
    recorder = run(model, IDS)
    kinds = [type(model.get_submodule(path)).__name__ for path in recorder.points]
    assert kinds == [
        "TokenEmbedding", "LayerNorm", "Attention", "Residual", "LayerNorm", "FeedForward", "Residual",
        "LayerNorm",
    ]  # fmt: skip


class Block(nn.Module):
    """A residual block whose parts are not all points."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 24)  # another width
        self.narrow = nn.Linear(24, WIDTH)
        self.act = nn.GELU()  # no parameters
        self.gate = nn.Linear(WIDTH, WIDTH)  # one vector for a sequence
        self.unused = nn.Linear(WIDTH, WIDTH)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, WIDTH)) for _ in range(2)])

    def forward(self, x: Tensor) -> dict[str, Tensor] | Tensor:
        y = self.narrow(self.act(self.wide(self.norm(x))))
        mixture = torch.stack([expert(y.flatten(0, 1)) for expert in self.experts]).sum(0).view_as(y)
        return x + mixture * self.gate(x.mean(1))[:, None]


def test_points_are_what_gives_as_many_tokens_of_the_same_width() -> None:
    model = nn.Sequential(nn.Embedding(11, WIDTH), nn.Sequential(Block(), Block()), nn.Linear(WIDTH, 11))
    assert run(model, IDS).points == ("0", "1.0", "1.0.norm", "1.0.narrow", "1.1", "1.1.norm", "1.1.narrow")
    alone = nn.ModuleDict({"blocks": nn.ModuleList([Block()]), "norm": nn.LayerNorm(WIDTH)})
    with record(alone) as recorder:
        alone["norm"](alone["blocks"][0](torch.randn(2, 3, WIDTH)))  # type: ignore[index]
    assert recorder.points == ("blocks.0", "blocks.0.norm", "blocks.0.narrow", "norm")


def test_blocks_that_give_no_hidden_states_are_refused() -> None:
    class Wrapped(Block):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": self.norm(x)}

    model = nn.ModuleList([Wrapped(), Wrapped()])
    with record(model) as recorder:
        model[0](torch.randn(2, 3, WIDTH))
        with pytest.raises(InputError, match=r"no block gives \(batch, tokens, width\)"):
            recorder.step()


# --- The order of dimensions --------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """Ids to hidden states through an encoder of either order, which is turned into the other or not."""

    def __init__(self, batch_first: bool, turns: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turns = turns
        self.embedding = nn.Embedding(11, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, 0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = self.encoder(x.transpose(0, 1)).transpose(0, 1) if self.turns else self.encoder(x)
        return self.norm(x)


def moments(recorder: Recorder) -> Tensor:
    return torch.from_numpy(recorder.df[["q_hat", "cov_hat", "q_grad_hat", "cov_grad_hat"]].to_numpy())


def test_sequences_are_found_in_every_order_of_dimensions() -> None:
    truth = moments(run(Wrapper(batch_first=True, turns=False), IDS))
    for model, ids, options in [
        (Wrapper(batch_first=False, turns=True), IDS, {}),
        (Wrapper(batch_first=False, turns=False), IDS.T, {}),
        (Wrapper(batch_first=True, turns=True), IDS.T, {}),
        (Wrapper(batch_first=False, turns=False), IDS.T, {"batch_first": False}),
    ]:
        assert torch.allclose(moments(run(model, ids, **options)), truth, rtol=1e-5, atol=1e-9)
    # the control: the other order of dimensions is another number
    wrong = moments(run(Wrapper(batch_first=True, turns=False), IDS.T))
    assert not torch.allclose(wrong, truth, rtol=0.05)


def test_as_many_sequences_as_tokens_are_ambiguous_beside_blocks_alone() -> None:
    square = IDS[:, :2]
    truth = moments(run(Wrapper(batch_first=True, turns=False), square))
    turning = Wrapper(batch_first=False, turns=True)
    with record(turning) as recorder:
        turning(square)
        with pytest.raises(InputError, match=r"embedding gives \(2, 2, 16\), as many sequences as tokens"):
            recorder.step()
    given = moments(run(turning, square, batch_first=True))  # of the points that do not say it themselves
    assert torch.allclose(given, truth, rtol=1e-5, atol=1e-9)
    encoder = turning.encoder
    assert run(encoder, torch.randn(3, 3, WIDTH)).points[0] == "layers.0"  # these say it themselves
    with pytest.raises(InputError, match=r"batch_first=True contradicts every point: layers\.0 has"):
        record(encoder, batch_first=True)


class Turned(nn.Module):
    """Own blocks around torch's attention, which keep the order of dimensions to themselves."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2) if attention else None
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        y = y if self.attention is None else self.attention(y, y, y)[0]
        return self.linear(x + y.transpose(0, 1))


def test_own_blocks_around_attention_that_is_not_batch_first_must_say_their_order() -> None:
    model = nn.Sequential(Turned(attention=True), Turned(attention=True))
    with pytest.raises(InputError, match=r"0 may give .* give which|say which with batch_first="):
        record(model)
    recorder = run(model, torch.randn(2, 5, WIDTH), batch_first=True)
    assert recorder.points == ("0", "0.attention", "0.linear", "1", "1.attention", "1.linear")


class SequenceFirst(nn.Module):
    """Ids (batch, tokens) to hidden states (tokens, batch, width), with nothing that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList([Turned(attention=False), Turned(attention=False)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return x


def test_hidden_states_that_are_transposed_beside_the_ids_are_refused() -> None:
    model = SequenceFirst()
    with record(model) as recorder:
        model(IDS)
        with pytest.raises(
            InputError, match=r"blocks\.0 gives \(5, 2, \.\.\.\) for ids \(2, 5\): give batch_first"
        ):
            recorder.step()
    assert run(model, IDS, batch_first=False).points == (
        "blocks.0",
        "blocks.0.linear",
        "blocks.1",
        "blocks.1.linear",
    )
    with record(model) as recorder:
        recorder.padding(torch.ones(2, 5, dtype=torch.bool))
        with pytest.raises(InputError, match=r"blocks\.0 gives \(5, 2, 16\) and the padding is \(2, 5\)"):
            model.blocks[0](torch.randn(5, 2, WIDTH))


def test_one_sequence_without_a_batch() -> None:
    encoder = Wrapper(batch_first=False, turns=False).encoder
    x = torch.randn(5, WIDTH)
    single = moments(run(encoder, x))
    assert torch.allclose(moments(run(encoder, x[:, None])), single, rtol=1e-5, atol=1e-9)
