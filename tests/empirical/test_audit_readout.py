"""What a loss is put upon: outputs of many kinds, hidden states below any head, real tokens alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meanfield as mf
from empirical.audit.batch import as_call
from empirical.audit.readout import pick, rows
from empirical.readers import Reading, Stream
from empirical.readers.reading import whole
from meanfield import ops
from meanfield.errors import InputError
from meanfield.ops import ParameterKey

WIDTH, VOCAB, BATCH, TOKENS = 4, 11, 2, 3
IDS, Y, LOGITS = (
    torch.arange(6).view(BATCH, TOKENS),
    torch.ones(BATCH, TOKENS, WIDTH),
    torch.zeros(1, 1, VOCAB),
)


@dataclass
class Named:
    """An output of a dataclass."""

    ids: Tensor
    y: Tensor


@pytest.mark.parametrize(
    "output",
    [
        Y,
        (IDS, Y),
        [IDS, Y, LOGITS],
        {"logits": LOGITS, "last_hidden_state": Y},
        SimpleNamespace(logits=LOGITS, last_hidden_state=Y),
        {"ids": IDS, "y": Y},
        Named(IDS, Y),
    ],
)
def test_hidden_states_are_found_in_outputs_of_many_kinds(output: Any) -> None:
    assert pick(output, "last_hidden_state") is Y


def test_logits_go_by_their_name() -> None:
    assert pick({"last_hidden_state": Y, "logits": LOGITS}, "logits") is LOGITS


@pytest.mark.parametrize("output", [None, IDS, (IDS, "text"), {"ids": IDS}, 3])
def test_outputs_without_vectors_are_refused(output: Any) -> None:
    with pytest.raises(InputError, match="give a module that returns hidden states"):
        pick(output, "last_hidden_state")


class Below(nn.Module):
    """A table and a head of some kind; hidden states are 2 * rows."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.kind = head
        self.table = nn.Embedding(VOCAB, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, VOCAB, bias=head == "bias")

    def forward(self, ids: Tensor) -> SimpleNamespace:
        y = 2 * self.table(ids)  # (batch, tokens, width)
        match self.kind:
            case "tied":
                logits = y @ self.table.weight.T
            case "functional":
                logits = nn.functional.linear(y, self.table.weight)
            case "before":
                logits = nn.functional.linear(0.5 * y, self.table.weight)
            case "after":
                logits = 0.5 * nn.functional.linear(y, self.table.weight)
            case "transform" | "normed":
                logits = self.out(torch.relu(self.first(y)))
            case "capped":
                logits = 3 * torch.tanh(0.5 * (y @ self.table.weight.T) / 3)
            case _:
                logits = self.out(y)
        return SimpleNamespace(logits=logits)


def read(kind: str, padding: np.ndarray | None = None) -> Reading:
    tied = kind not in ("plain", "bias", "transform", "normed")
    options: dict[str, Any] = {"vocab": VOCAB, "tied": tied} if kind != "none" else {}
    arch = mf.pre_ln(width=WIDTH, depth=1, heads=1, **options)
    if arch.head is not None and kind in ("before", "after", "capped"):
        head = dataclasses.replace(arch.head, scale=0.5, softcap=3 if kind == "capped" else None)
        arch = dataclasses.replace(arch, head=head)
    if arch.head is not None and kind in ("transform", "normed"):
        norm: ops.Op = ops.Norm("head_norm", WIDTH)
        square = ops.Linear(WIDTH, WIDTH, ops.Draw(0.25))
        transform = ops.Sequential((norm if kind == "normed" else square, ops.Activation("relu")))
        arch = dataclasses.replace(arch, head=dataclasses.replace(arch.head, transform=transform))
    table = whole("table.weight", ParameterKey(0, "embedding", "weight"), (VOCAB, WIDTH))
    first = whole("first.weight", ParameterKey(2, "linear", "weight"), (WIDTH, WIDTH), transposed=True)
    out = whole("out.weight", ParameterKey(2, "head", "weight"), (VOCAB, WIDTH), transposed=True)
    slots = (table,) if tied else (table, first, out)
    return Reading(arch, slots, (Stream(BATCH, TOKENS, IDS.numpy(), padding=padding),))


@pytest.mark.parametrize(
    "kind", ["plain", "bias", "tied", "functional", "before", "after", "capped", "transform"]
)
def test_hidden_states_below_a_head_are_what_it_multiplies_without_its_factor(kind: str) -> None:
    module = Below(kind)
    found = rows(module, as_call(IDS), read(kind), "linear")
    assert torch.allclose(found, 2 * module.table.weight[IDS.flatten()])
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert module.table.weight.grad is not None
    logits = rows(module, as_call(IDS), read(kind), "cross_entropy")
    assert logits.shape == (BATCH * TOKENS, VOCAB)


def test_a_head_that_multiplies_nothing_is_refused() -> None:
    module = Below("tied")
    with pytest.raises(InputError, match=r"out\.weight multiplies no hidden state that could be seen"):
        rows(module, as_call(IDS), read("plain"), "linear")


def test_a_head_that_begins_with_a_norm_is_refused() -> None:
    with pytest.raises(InputError, match="the head begins with Norm"):
        rows(Below("normed"), as_call(IDS), read("normed"), "linear")


class TokensFirst(nn.Module):
    """Gives (tokens, batch, width) and says so."""

    batch_first = False

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, WIDTH)

    def forward(self, ids: Tensor) -> Any:
        return self.table(ids.T)


def test_padding_is_left_out_in_either_order() -> None:
    padding = np.array([[True, True, False], [True, False, False]])
    module = TokensFirst()
    found = rows(module, as_call(IDS), read("none", padding), "linear")
    expected = module.table.weight[IDS[torch.from_numpy(padding)]]
    assert sorted(found[:, 0].tolist()) == sorted(expected[:, 0].tolist())
    plain = rows(module.table, as_call(IDS), read("none", padding), "linear")
    assert torch.equal(plain, expected)


def test_as_many_sequences_as_tokens_cannot_be_told_apart() -> None:
    reading = Reading(
        read("none").arch, (), (Stream(3, 3, np.zeros((3, 3), np.intp), padding=np.eye(3, dtype=bool)),)
    )
    with pytest.raises(InputError, match="3 sequences of as many tokens"):
        rows(TokensFirst(), as_call(torch.zeros(3, 3).long()), reading, "linear")


def test_another_shape_than_was_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 2, 4\) and 2 x 3 tokens of size 4 were read"):
        rows(nn.Embedding(VOCAB, WIDTH), as_call(IDS[:, :2]), read("none"), "linear")
