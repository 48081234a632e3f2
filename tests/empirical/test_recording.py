"""Recording: moments are right, training is not changed, steps end where they end, nothing stays behind."""

import copy
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meanfield as mf
from empirical import build, measure
from empirical.inputs import Inputs
from empirical.layers import Context
from empirical.losses import LOSSES
from empirical.names import points
from empirical.recording import Record, Recorder, record
from empirical.setting import Conditions
from meanfield.errors import InputError
from meanfield.random import stream

MOMENTS = ["q_hat", "cov_hat", "q_grad_hat", "cov_grad_hat"]
WIDTH, HEADS, BATCH, TOKENS = 16, 2, 3, 5


class Kept:
    """A logger that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def log(self, records: Iterable[Record]) -> None:
        self.records.extend(records)

    @property
    def df(self) -> pd.DataFrame:
        return pd.DataFrame([r.row() for r in self.records])


class Language(nn.Module):
    """Ids to logits through torch's own layers."""

    def __init__(
        self, batch_first: bool = True, turns: bool = False, dropout: float = 0.0, checkpointing: str = ""
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turns, self.checkpointing = turns, checkpointing
        self.embedding = nn.Embedding(11, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 24, dropout, batch_first=batch_first) for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x.transpose(0, 1) if self.turns else x
        for layer in self.layers:
            if self.checkpointing:
                x = checkpoint(layer, x, use_reentrant=self.checkpointing == "reentrant")
            else:
                x = layer(x)
        x = x.transpose(0, 1) if self.turns else x
        return self.head(self.norm(x))


def batch(seed: int = 0, size: int = BATCH, tokens: int = TOKENS) -> Tensor:
    return torch.randint(0, 11, (size, tokens), generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]  # torch's annotations leave it out


def values(recorder: Recorder, point: str) -> list[float]:
    row = recorder.df[(recorder.df.module == point) & (recorder.df.parameter == "activation")]
    return row[MOMENTS].to_numpy()[0].tolist()


def by_pairs(x: Tensor, real: Tensor | None = None) -> tuple[float, float]:
    """E||x_i||² and E<x_i, x_j> of (batch, tokens, width), token by token and pair by pair."""
    squares, products = [], []
    for b, sequence in enumerate(x.detach().double()):
        kept = sequence if real is None else sequence[real[b]]
        for i, left in enumerate(kept):
            squares.append(float(left @ left))
            products += [float(left @ right) for j, right in enumerate(kept) if j != i]
    return sum(squares) / len(squares), sum(products) / len(products)


def expected(x: Tensor, gradient: Tensor, real: Tensor | None = None) -> list[float]:
    q, cov = by_pairs(x, real)
    return [q / x.shape[2], cov / x.shape[2], *by_pairs(gradient, real)]


def agree(measured: Iterable[float], wanted: Iterable[float], tolerance: float = 1e-6) -> bool:
    """Second moments agree relatively; covariances, in which most may cancel, beside their second moments."""
    m, w = list(measured), list(wanted)
    scales = [w[0], w[0], w[2], w[2]]
    return all(abs(a - b) <= tolerance * scale for a, b, scale in zip(m, w, scales, strict=True))


# --- Values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["pre_ln", "post_ln"])
@pytest.mark.parametrize("padded", [False, True])
def test_values_are_those_that_a_measurement_has(preset: str, padded: bool) -> None:
    arch = getattr(mf, preset)(width=32, depth=2, heads=4, vocab=50)
    seed, tokens, size = 3, 6, 4
    real = torch.ones(size, tokens, dtype=torch.bool)
    if padded:
        real[0, 4:] = real[2, 2:] = False
    wanted = measure(
        arch, tokens=tokens, batch=size, seeds=[seed], padding=real.numpy() if padded else None
    ).samples
    wanted = wanted[wanted.parameter == "activation"].set_index(["layer", "module"])[MOMENTS]

    model: Any = build(arch, seed=seed)
    paths = {module: path for path, module in model.named_modules()}
    named = {paths[module]: (key.layer, key.module) for key, module in points(model)}
    inputs = Inputs(arch, seed, next(model.parameters()), Conditions())
    with record(model, points=named) as recorder:
        recorder.padding(real if padded else None)
        hidden = model.hidden(*inputs.draw(size, tokens), context=Context(real if padded else None))
        hidden = hidden[real][None] if padded else hidden
        backward(LOSSES["linear"](hidden, model.head, stream(seed, "target"), 0.0))
    assert len(named) == len(wanted) >= 13
    for path, key in named.items():
        truth = wanted.loc[[key]].to_numpy()[0].tolist()
        assert agree(values(recorder, path), truth), key
        assert not agree([1.05 * x for x in values(recorder, path)], truth)  # the control


@pytest.mark.parametrize("batch_first", [True, False])
def test_values_of_an_encoder_layer_by_hand(batch_first: bool) -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, 0.0, batch_first=batch_first).double()
    x, r = torch.randn(2, BATCH, TOKENS, WIDTH, dtype=torch.float64)
    x.requires_grad_()
    qkv = (x @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, -1)
    q, k, v = (y.unflatten(2, (HEADS, -1)).transpose(1, 2) for y in qkv)
    mixed = ((q @ k.mT / (WIDTH / HEADS) ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    attention = layer.self_attn.out_proj(mixed)
    norm1 = layer.norm1(x + attention)
    linear2 = layer.linear2(layer.linear1(norm1).relu())
    norm2 = layer.norm2(norm1 + linear2)
    hand = {"self_attn": attention, "norm1": norm1, "linear2": linear2, "norm2": norm2, "": norm2}
    for y in hand.values():
        y.retain_grad()
    backward((norm2 * r).sum())

    turned = (x, r) if batch_first else (x.transpose(0, 1), r.transpose(0, 1))
    with record(layer, points=hand) as recorder:
        backward((layer(turned[0].detach()) * turned[1]).sum())
    for path, y in hand.items():
        assert y.grad is not None
        truth = expected(y, y.grad)
        measured = values(recorder, path)
        assert agree(measured, truth, 1e-12), path
        assert not agree([1.05 * value for value in measured], truth)  # the control
        transposed = expected(y.transpose(0, 1), y.grad.transpose(0, 1))
        assert not agree(measured, transposed), path  # the other order of dimensions is seen


def test_gradients_of_parameters_are_those_of_autograd() -> None:
    model = Language()
    with record(model) as recorder:
        backward(loss_of(model, batch()))
    rows = recorder.df[recorder.df.parameter != "activation"]
    measured = {f"{r.module}.{r.parameter}": r.grad_sq_hat for r in rows.itertuples()}
    truth = {name: float(p.grad.double().square().sum()) for name, p in model.named_parameters()}  # type: ignore[union-attr]
    assert measured == pytest.approx(truth, rel=1e-6)
    assert measured != pytest.approx({name: 1.05 * square for name, square in truth.items()}, rel=1e-6)
    with record(model, parameters=False) as recorder:
        backward(loss_of(model, batch()))
    assert set(recorder.df.parameter) == {"activation"}


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # any linear map at the end is told this
def test_sharded_parameters_are_whole(tmp_path: Path) -> None:
    fsdp, distributed = pytest.importorskip("torch.distributed.fsdp"), torch.distributed
    if not (hasattr(fsdp, "fully_shard") and distributed.is_gloo_available()):
        pytest.skip("needs fully_shard and gloo")
    plain, sharded = Language(), Language()
    with record(plain) as truth:
        backward(loss_of(plain, batch()))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        fsdp.fully_shard(sharded)
        with record(sharded) as recorder:
            backward(loss_of(sharded, batch()))
        pd.testing.assert_frame_equal(recorder.df, truth.df)
    finally:
        distributed.destroy_process_group()


def test_sums_of_many_numbers_are_exact_in_float32() -> None:
    x = torch.randn(4, 4096, 128, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Identity())
    with record(model, points=["0"]) as recorder:
        model(x)
    square, total = x.double().square().sum(), x.double().sum(1).square().sum()
    q, cov = float(square) / (4 * 4096 * 128), float(total - square) / (4 * 4096 * 4095 * 128)
    assert values(recorder, "0")[:2] == pytest.approx([q, cov], rel=1e-6, abs=1e-9)


def test_bfloat16_is_summed_in_float32() -> None:
    model = Language()
    seen: dict[str, Tensor] = {}
    model.get_submodule("layers.1.linear2").register_forward_hook(
        lambda module, args, output: seen.update(x=output)
    )
    with record(model) as recorder, torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, batch())
        seen["x"].retain_grad()
        backward(loss)
    x = seen["x"]
    assert x.dtype == torch.bfloat16
    assert x.grad is not None
    assert agree(values(recorder, "layers.1.linear2"), expected(x, x.grad))


def test_padded_tokens_are_left_out_whatever_they_hold() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    x = torch.randn(BATCH, TOKENS, WIDTH)
    real = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    real[0, 2:] = real[1, 1:] = 0
    kept = real.bool()
    x[~kept] = torch.nan
    with record(model, points=["0"]) as recorder:
        recorder.padding(real)
        y = model(x)
        y.retain_grad()
        backward(y[kept].square().sum())
    assert y.grad is not None
    assert agree(values(recorder, "0"), expected(y, y.grad, kept))
    with record(model, points=["0"]) as recorder:
        recorder.padding(real)
        recorder.padding(None)
        model(x)
    assert values(recorder, "0")[0] != values(recorder, "0")[0]  # NaN


def test_padding_of_encoder_and_decoder() -> None:
    model = nn.Transformer(WIDTH, HEADS, 1, 1, 24, 0.0, batch_first=True)
    source, target = torch.randn(2, 6, WIDTH), torch.randn(2, 4, WIDTH)
    masks = {"encoder": torch.arange(6) < torch.tensor([[6], [3]]), "decoder": torch.arange(4) < 2}
    masks["decoder"] = masks["decoder"].expand(2, 4)
    outputs: dict[str, Tensor] = {}
    for name in masks:
        norm = model.get_submodule(f"{name}.norm")
        norm.register_forward_hook(lambda module, args, y, name=name: outputs.update({name: y}))
    with record(model) as recorder:
        for name, mask in masks.items():
            recorder.padding(mask, name)
        model(source, target)
    for name, mask in masks.items():
        q, cov = by_pairs(outputs[name], mask)
        assert values(recorder, f"{name}.norm")[:2] == pytest.approx([q / WIDTH, cov / WIDTH], rel=1e-5)
    with record(model) as recorder:
        recorder.padding(masks["encoder"])
        with pytest.raises(InputError, match=r"gives \(2, 4, 16\) and the padding is \(2, 6\)"):
            model(source, target)


def test_no_gradient_no_pair_and_what_is_not_finite() -> None:
    model = Language()
    for parameter in model.embedding.parameters():
        parameter.requires_grad_(False)
    kept = Kept()
    with record(model, logger=kept) as recorder:
        backward(loss_of(model, batch(tokens=1)))
        recorder.step()
        with torch.no_grad():
            model.get_parameter("layers.1.norm2.weight")[0] = torch.inf
            model.head.weight[0, 0] = torch.nan
        backward(loss_of(model, batch()))
    rows = {(r.step, r.name): r.values for r in kept.records}
    assert [rows[0, "embedding"][column] is None for column in MOMENTS] == [False, True, True, True]
    assert rows[0, "layers.0"]["q_grad_hat"] is not None
    assert (0, "embedding.weight") not in rows
    assert rows[1, "layers.1"]["q_hat"] == torch.inf
    for moment in ("q_grad_hat", "cov_grad_hat"):
        assert rows[1, "layers.0"][moment] != rows[1, "layers.0"][moment]  # NaN, and there


# --- What counts --------------------------------------------------------------------------------------------


def test_accumulated_micro_batches_are_one_batch() -> None:
    model, whole = Language(), batch(size=6)
    with record(model) as recorder:
        backward(loss_of(model, whole))
    truth = recorder.df
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kept = Kept()
    with record(model, logger=kept):
        for part in torch.split(whole, 2):
            backward(loss_of(model, part) / 3)
        optimizer.step()
    measured = kept.df
    assert set(measured.step) == {0}
    for moments, scale in ((["q_hat", "cov_hat"], "q_hat"), (["q_grad_hat", "cov_grad_hat"], "q_grad_hat")):
        apart = (measured[moments] - truth[moments]).abs().div(truth[scale], axis=0)
        assert apart.max().max() < 1e-5
    assert (measured.grad_sq_hat / truth.grad_sq_hat - 1).abs().max() < 1e-4


def test_calls_of_a_shared_module_are_averaged() -> None:
    block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    model = nn.Sequential(block, block)
    outputs: list[Tensor] = []
    block.register_forward_hook(lambda module, args, y: outputs.append(y))
    with record(model) as recorder:
        backward(model(torch.randn(BATCH, TOKENS, WIDTH)).square().sum())
    assert recorder.points == ("0", "0.0")
    q = [by_pairs(y)[0] / WIDTH for y in outputs]
    assert values(recorder, "0")[0] == pytest.approx(sum(q) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["reentrant", "saved tensors"])
def test_activation_checkpointing_counts_once(kind: str) -> None:
    tables = []
    for checkpointing in ("", kind):
        model = Language(checkpointing=checkpointing)
        with record(model) as recorder:
            backward(loss_of(model, batch()))
            # A second pass of another kind: if anything counted twice, it would count too little.
            model.checkpointing = ""
            backward(loss_of(model, batch(1)))
        tables.append(recorder.df)
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-6, atol=1e-14)


def test_passes_in_evaluation_have_records_of_their_own() -> None:
    model, kept = Language(dropout=0.5), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, logger=kept):
        backward(loss_of(model, batch()))
        optimizer.step()
        model.eval()
        with torch.inference_mode():
            model(batch(1))
            model(batch(2))
        model.train()
        backward(loss_of(model, batch(3)))
        optimizer.step()
    assert kept.df.groupby("step").training.unique().map(set).tolist() == [{True}, {True, False}]
    evaluation = kept.df[~kept.df.training]
    assert evaluation.q_hat.notna().all()
    assert evaluation.q_grad_hat.isna().all()
    with record(model, logger=(alone := Kept())), torch.no_grad():
        model(batch())
    assert set(alone.df.parameter) == {"activation"}  # no gradients of an earlier step


def test_nested_tensors_of_the_fast_path_count_real_tokens() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(BATCH, TOKENS, WIDTH)
    real = torch.arange(TOKENS) < torch.tensor([[5], [2], [3]])
    with torch.no_grad(), pytest.warns(UserWarning, match="nested tensors"), record(encoder) as recorder:
        y = encoder(x, src_key_padding_mask=~real)
    q, cov = by_pairs(y, real)
    assert values(recorder, "layers.1")[:2] == pytest.approx([q / WIDTH, cov / WIDTH], rel=1e-5)


@pytest.mark.parametrize("kind", ["linear", "norm"])
@pytest.mark.parametrize("in_place", [True, False])
def test_outputs_changed_in_place_are_recorded_as_they_were(kind: str, in_place: bool) -> None:
    last = nn.Linear(WIDTH, WIDTH) if kind == "linear" else nn.LayerNorm(WIDTH)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), last)
    with record(model, points=["1"]) as recorder:
        y = model(torch.randn(BATCH, TOKENS, WIDTH))
        assert y._is_view() == (kind == "linear")  # which is taken out of the graph with its hooks
        before = y.detach().clone()
        z = y.mul_(3) if in_place else 3 * y
        for _ in range(2):  # each backward pass counts once
            z.sum().backward(retain_graph=True)
    assert agree(values(recorder, "1"), expected(before, torch.full_like(before, 3.0)))


def test_a_parameter_that_is_an_output_keeps_no_hook() -> None:
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, TOKENS, WIDTH))

        def forward(self) -> Tensor:
            return self.weight

    module = Position()
    with record(module, points=[""]) as recorder:
        for _ in range(2):
            module.eval()
            with torch.no_grad():
                module()
            module.train()
            backward(module().sum())
            recorder.step()
    assert recorder.df[~recorder.df.training].q_grad_hat.isna().all()
    assert values(recorder, "") == pytest.approx([1.0, 1.0, WIDTH, WIDTH])
    assert not module.weight._backward_hooks


# --- Training -----------------------------------------------------------------------------------------------


def trained(recorded: bool, steps: int = 4) -> list[Tensor]:
    """Losses of some steps with dropout and accumulated gradients, then all parameters."""
    model = Language(dropout=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = []
    with record(model) if recorded else nullcontext():
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(2):
                loss = loss_of(model, batch(2 * step + part)) / 2
                backward(loss)
                found.append(loss.detach())
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return found + [p.detach() for p in model.parameters()]


def test_training_is_the_same_bit_for_bit() -> None:
    plain, recorded = trained(False), trained(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, trained(True, steps=5), strict=False))


def test_nothing_is_fetched_in_forward_or_backward() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    fetching = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.add(func.overloadpacket.__name__)
            return func(*args, **kwargs or {})

    model, names, watch = Language(), set[str](), cast("Any", Watch)
    with record(model) as recorder:
        recorder.padding(torch.ones(BATCH, TOKENS, dtype=torch.bool))
        with watch():
            backward(loss_of(model, batch()))
        assert "hypot" not in names
        assert "linalg_vector_norm" in names
        assert not names & fetching
        with watch():
            bool(torch.ones(()) > 0)
        assert names & fetching  # the control: a fetch is seen


# --- When a step ends ---------------------------------------------------------------------------------------


def test_steps_end_with_an_optimizer_that_holds_the_parameters() -> None:
    model, other, kept = Language(), nn.Linear(2, 2), Kept()
    ours = [torch.optim.SGD([p], lr=0.1) for p in list(model.parameters())[:2]]
    theirs = torch.optim.SGD(other.parameters(), lr=0.1)
    with record(model, logger=kept) as recorder:
        for _ in range(3):
            backward(loss_of(model, batch()))
            theirs.step()
            for optimizer in ours:  # two of them are one step
                optimizer.step()
            recorder.step()  # and nothing is left to do
            recorder.step()
    assert sorted(set(kept.df.step)) == [0, 1, 2]


def test_steps_end_when_they_are_told_to_or_with_the_block() -> None:
    model, kept = Language(), Kept()
    with record(model, logger=kept, start=7) as recorder:
        backward(loss_of(model, batch()))
        recorder.step()
        backward(loss_of(model, batch()))
    assert sorted(set(kept.df.step)) == [7, 8]
    assert set(recorder.df.step) == {8}
    with pytest.raises(InputError, match="call it inside the with block"):
        recorder.step()


def test_steps_of_a_closure_and_of_updates_in_the_backward_pass() -> None:
    model, kept = Language(), Kept()
    optimizer: Any = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch())
        backward(loss)
        return loss

    with record(model, logger=kept):
        for _ in range(2):
            optimizer.step(closure)
    assert sorted(set(kept.df.step)) == [0, 1]

    model, kept = Language(), Kept()
    for parameter in model.parameters():
        single = torch.optim.SGD([parameter], lr=0.1)
        cast("Any", parameter).register_post_accumulate_grad_hook(lambda p, single=single: single.step())
    with record(model, logger=kept) as recorder:
        for _ in range(2):
            backward(loss_of(model, batch()))
            recorder.step()
    assert sorted(set(kept.df.step)) == [0, 1]
    assert kept.df[kept.df.parameter == "activation"].q_grad_hat.notna().all()


def test_every_so_many_steps() -> None:
    model, kept = Language(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, logger=kept, every=3, start=2):
        for _ in range(6):
            backward(loss_of(model, batch()))
            optimizer.step()
    assert sorted(set(kept.df.step)) == [3, 6]
    assert kept.df.groupby("step").q_hat.count().nunique() == 1


def test_gradients_that_come_after_the_end_of_a_step_are_left_out() -> None:
    model = Language()
    with record(model) as recorder:
        late = loss_of(model, batch(1))
        recorder.step()
        backward(loss_of(model, batch()))
        once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        backward(late)
        model.zero_grad()
        for parameter, gradient in zip(model.parameters(), once, strict=True):
            parameter.grad = gradient
    twice = recorder.df
    with record(model) as recorder:
        model.zero_grad()
        backward(loss_of(model, batch()))
    pd.testing.assert_frame_equal(twice.drop(columns="step"), recorder.df.drop(columns="step"))


# --- What stays behind --------------------------------------------------------------------------------------


def hooks(model: nn.Module) -> int:
    from torch.optim import optimizer

    own = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return own + len(optimizer._global_optimizer_pre_hooks)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, InputError])
def test_hooks_go_with_the_block(error: type[BaseException] | None) -> None:
    model, kept = Language(), Kept()
    before = hooks(model)
    with nullcontext() if error is None else pytest.raises(error), record(model, logger=kept) as recorder:
        loss = loss_of(model, batch())
        assert hooks(model) > before
        if error is not None:
            raise error
    assert hooks(model) == before
    assert bool(kept.records) is (error is None)  # half a step is no step
    count = len(kept.records)
    backward(loss)
    backward(loss_of(model, batch()))
    assert len(kept.records) == count
    with pytest.raises(InputError, match="recording already"), recorder, recorder:
        pass


def test_copies_and_saved_models_are_not_recorded() -> None:
    model = Language()
    with record(model) as recorder:
        backward(loss_of(model, batch()))
        recorder.step()
        stored = io.BytesIO()
        torch.save(model, stored)
        assert b"empirical.recording" not in stored.getvalue()
        stored.seek(0)
        average = copy.deepcopy(model)
        backward(loss_of(average, batch()))
        backward(loss_of(torch.load(stored, weights_only=False), batch()))
    assert set(recorder.df.step) == {0}


@pytest.fixture
def compiling() -> Iterator[Callable[[nn.Module], Any]]:
    torch._dynamo.reset()
    yield lambda module: torch.compile(module, backend="eager")
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch itself, where a graph breaks
def test_compiled_inside_the_block_it_works(compiling: Callable[[nn.Module], Any]) -> None:
    model = Language()
    with record(model) as recorder:
        backward(loss_of(model, batch()))
    truth = recorder.df
    model.zero_grad()
    with record(model, logger=(kept := Kept())) as recorder:
        compiled = compiling(model)
        backward(loss_of(compiled, batch()))
    pd.testing.assert_frame_equal(recorder.df, truth, rtol=1e-4, atol=1e-9)
    count = len(kept.records)
    backward(loss_of(compiled, batch()))
    assert len(kept.records) == count


def test_compiled_before_it_is_refused(compiling: Callable[[nn.Module], Any]) -> None:
    model = Language()
    compiled = compiling(model)
    with pytest.raises(InputError, match="the module is compiled"):
        record(compiled)
    loss_of(compiled, batch())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(model)
    recorder.__enter__()
    backward(loss_of(compiled, batch()))
    for end in (optimizer.step, lambda: recorder.__exit__(None, None, None)):
        with pytest.raises(InputError, match="no pass of Language was seen"):
            end()
    part = Language()
    part.layers[1].compile(backend="eager")
    with pytest.raises(InputError, match=r"layers\.1 is compiled"):
        record(part)


# --- Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logger": print}, r"logger=builtin_function_or_method has no method log\(records\)"),
        ({"every": 0}, "every=0 is too small"),
        ({"start": -1}, "start=-1 is no number of a step"),
        ({"batch_first": "no"}, "batch_first='no' is no order of dimensions"),
        ({"points": "layers.0"}, r"points='layers\.0' is one text: give a list"),
        ({"points": []}, "records nothing"),
        ({"points": ["layer.1"]}, r"Language has no module 'layer\.1'.*such as 'layers\.1'"),
        ({"points": ["norm", "norm"]}, "are one module"),
        ({"points": ["layers"]}, "'layers' is a ModuleList, which is not called"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        record(Language(), **arguments)


def test_bad_modules_masks_and_blocks_without_a_pass() -> None:
    with pytest.raises(InputError, match="function is no torch"):
        record(batch)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Linear has no list of blocks"):
        record(nn.Linear(2, 2))
    with pytest.raises(InputError, match="Language has weights on the meta device"):
        record(Language().to("meta"))
    with pytest.raises(InputError, match="no pass of Language was seen"), record(Language()):
        pass
    model = Language()
    with record(model) as recorder:
        for mask in ([[True]], torch.ones(2), torch.zeros(2, 2)):
            with pytest.raises(InputError, match="is no mask: give booleans"):
                recorder.padding(mask)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="has no module 'layer'"):
            recorder.padding(None, "layer")
        model(batch())
    with (
        pytest.raises(InputError, match=r"point 'head' gives \(2, 3, 4, 5\)"),
        record(nn.ModuleDict({"head": nn.Identity()}), points=["head"]) as recorder,
    ):
        recorder._module.get_submodule("head")(torch.ones(2, 3, 4, 5))
