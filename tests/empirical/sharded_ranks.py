"""What the tests of sharded audits run, in one process and in several: models, and a script for a rank.

    python -m tests.empirical.sharded_ranks RANK SIZE FOLDER CASE...

A case is a model that is measured, or a fault that is refused; FOLDER/RANK.json has what each gave.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import empirical
import meanfield as mf
from empirical.audit import Audit
from empirical.audit.audit import audited
from tests.empirical.own_models import builder, ids, reader

WIDTH, VOCAB, D_FF = 30, 101, 65  # two ranks cut the keys of a packed matrix in two, and odd numbers unevenly
IDS = ids(2, 5, VOCAB)


class Model(nn.Module):
    """Layers of torch between an embedding and, where asked for, a head."""

    def __init__(self, pre: bool, head: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, D_FF, batch_first=True, norm_first=pre) for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH) if pre else nn.Identity()
        self.head = nn.Linear(WIDTH, VOCAB) if head else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        x = self.words(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Scaled(nn.Module):
    """A model of this project with tensors of no row, of one row, and of three, that no reader knows."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.factor, self.row = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(1, width))
        self.rows = nn.Parameter(torch.ones(3, width))

    def forward(self, x: Tensor) -> Any:
        y = self.model(x) * self.factor * self.row
        return torch.cat([y[:, :3] * self.rows, y[:, 3:]], dim=1)


def post(seed: int) -> nn.Module:
    return Model(pre=False, head=True)


def pre(seed: int) -> nn.Module:
    return Model(pre=True, head=True)


def by_user(seed: int) -> nn.Module:
    """Sharded by whoever built it: in several processes alone."""
    model = pre(seed)
    if dist.is_initialized():
        from torch.distributed.fsdp import fully_shard

        for layer in model.layers:  # type: ignore[union-attr]
            fully_shard(layer)
        fully_shard(model)
    return model


def frozen(seed: int) -> nn.Module:
    """A model that is trained in part."""
    model: Any = pre(seed)
    model.words.requires_grad_(False)
    model.layers[0].linear1.requires_grad_(False)
    return model


OWN = mf.pre_ln(width=16, depth=1, heads=2, vocab=VOCAB)


def scaled(seed: int) -> nn.Module:
    return Scaled(builder(OWN)(seed).model, VOCAB)  # type: ignore[arg-type]


def read_scaled(module: Any, batch: Any) -> Any:
    return reader(OWN)(module, batch)


def gpt2(seed: int) -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def gpt2_by_user(seed: int) -> nn.Module:
    model: Any = gpt2(seed)
    if dist.is_initialized():
        from torch.distributed.fsdp import fully_shard

        for layer in model.transformer.h:
            fully_shard(layer)
        fully_shard(model)
    return model


def llama(seed: int) -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=70,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config)


def t5(seed: int) -> nn.Module:
    import transformers

    config = transformers.T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=66, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


def x_transformer(seed: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, at import
        x_transformers: Any = importlib.import_module("x_transformers")
    layers = x_transformers.Decoder(dim=32, depth=2, heads=4, attn_dim_head=8)
    return x_transformers.TransformerWrapper(num_tokens=VOCAB, max_seq_len=16, attn_layers=layers)


@dataclass(frozen=True)
class Case:
    """What is audited; ``read`` where the own reader would not know the model."""

    build: Callable[[int], nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    batch: Any = field(default_factory=lambda: IDS)
    read: Any = None


CASES = {
    "post, below the head": Case(post),
    "post, cross entropy": Case(post, {"loss": "cross_entropy", "label_smoothing": 0.1}),
    "pre, mse": Case(pre, {"loss": "mse"}),
    "sharded by the user, below the head": Case(by_user),
    "sharded by the user, cross entropy": Case(by_user, {"loss": "cross_entropy"}),
    "scalar, row and rows": Case(scaled, {"loss": "cross_entropy"}, read=read_scaled),
    "gpt2": Case(gpt2, {"loss": "cross_entropy"}),
    "gpt2, below the head": Case(gpt2),
    "frozen in part": Case(frozen),
    "double": Case(pre, {"dtype": "float64"}),
    "double, sharded by the user": Case(by_user, {"dtype": "float64"}),
    "half": Case(pre, {"dtype": "bfloat16"}),
    "gpt2, sharded by the user": Case(gpt2_by_user),
    "llama": Case(llama, {"loss": "cross_entropy"}, {"input_ids": IDS}),
    "t5": Case(t5, {}, {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}),
    "x-transformers": Case(x_transformer, {"loss": "cross_entropy"}),
}


def run(case: Case, **changed: Any) -> Audit:
    """Audit a case, on however many processes there are."""
    options = {"seeds": range(3), "samples": 4, "tolerance": 0.9, **case.options, **changed}
    batch = options.pop("batch", case.batch)
    if case.read is None:
        return empirical.audit(case.build, batch, **options)
    return audited(case.build, batch, case.read, **options)


def found(audit: Audit) -> dict[str, Any]:
    """What is compared between one process and several."""
    values = dict(zip(audit.df.parameter, audit.values.T.tolist(), strict=True))
    predicted = dict(zip(audit.df.parameter, audit.df.grad_sq.tolist(), strict=True))
    return {
        "values": values,
        "predicted": predicted,
        "notes": [*audit.notes],
        "configuration": audit.configuration,
    }


def partly(seed: int) -> nn.Module:
    """Sharded in one layer, and not in the rest."""
    from torch.distributed.fsdp import fully_shard

    model: Any = pre(seed)
    fully_shard(model.layers[0])
    return model


def copies(seed: int) -> nn.Module:
    """Sharded, and then drawn on every rank from the same generator."""
    model: Any = by_user(seed)
    for k, tensor in enumerate(model.parameters()):
        with torch.no_grad():
            tensor.to_local().normal_(generator=torch.Generator().manual_seed(100 * seed + k))
    return model


def constant(seed: int) -> nn.Module:
    """The same whatever the seed."""
    torch.manual_seed(0)
    return by_user(0)


def run_already(seed: int) -> nn.Module:
    """Sharded, and run: FSDP has settled which module is the outermost."""
    model: Any = by_user(seed)
    with torch.no_grad():
        model(IDS)
    model.reshard()
    return model


def noisy(seed: int) -> nn.Module:
    """With noise in evaluation mode."""
    model: Any = pre(seed)
    model.norm.register_forward_hook(lambda module, args, y: y + torch.randn_like(y))
    return model


def infinite(seed: int) -> nn.Module:
    """With a gain that overflows."""
    model: Any = pre(seed)
    model.norm.weight.data.fill_(3e38)
    return model


def strange(seed: int) -> nn.Module:
    """With a norm that the reader does not know."""
    model: Any = pre(seed)
    model.norm = nn.BatchNorm1d(5)
    return model


def faults(rank: int) -> dict[str, Callable[[], Any]]:
    """What is refused; each has a fault on one rank, or on all."""
    from torch.nn.parallel import DistributedDataParallel

    def by_rank(seed: int) -> nn.Module:
        torch.manual_seed(seed + 1000 * rank)
        return pre(seed)

    def sometimes(seed: int) -> nn.Module:
        if rank == 1 and seed == 1:
            raise MemoryError("no memory for seed 1")
        return pre(seed)

    base = Case(pre)
    return {
        "seeds": lambda: run(base, seeds=range(3 + rank)),
        "batch": lambda: run(base, batch=(IDS + rank) % VOCAB),
        "loss": lambda: run(base, loss="linear" if rank else "mse"),
        "loss that is none on one rank": lambda: run(base, loss="hinge" if rank else "mse"),
        "weights": lambda: run(Case(by_rank)),
        "build fails on one rank": lambda: run(Case(sometimes)),
        "same weights again": lambda: run(Case(constant)),
        "ddp": lambda: run(Case(lambda seed: DistributedDataParallel(pre(seed)))),
        "partly": lambda: run(Case(partly)),
        "copies": lambda: run(Case(copies)),
        "alone": lambda: run(Case(by_user), shard=False),
        "run already": lambda: run(Case(run_already)),
        "noisy": lambda: run(Case(noisy)),
        "infinite": lambda: run(Case(infinite)),
        "not understood": lambda: run(Case(strange)),
        "shard": lambda: run(base, shard="yes"),
    }


def main(rank: int, size: int, folder: Path, names: list[str]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    told: dict[str, Any] = {}
    wrong = faults(rank) if any(name not in CASES for name in names) else {}
    for name in names:
        if name in CASES:
            told[name] = found(run(CASES[name]))
        else:
            try:
                wrong[name]()
            except Exception as error:  # noqa: BLE001  (its type is compared)
                told[name] = [type(error).__name__, str(error)]
            else:
                told[name] = None
    (folder / f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    own, all_of_them, where, *which = sys.argv[1:]
    main(int(own), int(all_of_them), Path(where), which)
