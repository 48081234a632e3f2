from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from empirical import build
from empirical.corpus import Vocabulary
from empirical.layers import Context
from empirical.train.tasks import Batch, Loss
from empirical.train.training import task_of
from meanfield.errors import InputError
from tests.empirical.train.small import MODEL, TEXT, TRANSLATION

TASKS = [TRANSLATION, TEXT, replace(TEXT, task="causal")]


@pytest.mark.parametrize("run", TASKS, ids=lambda run: run.task)
def test_equal_steps_have_equal_batches_and_others_do_not(run) -> None:  # type: ignore[no-untyped-def]
    first, again = task_of(run), task_of(run)
    for step in (3, 1):
        ours, theirs = first.batch(step), again.batch(step)
        assert all(torch.equal(x, y) for x, y in zip(ours.inputs, theirs.inputs, strict=True))
        assert torch.equal(ours.targets, theirs.targets)
    other = task_of(replace(run, seed=1)).batch(1)
    assert other.targets.shape != theirs.targets.shape or not torch.equal(other.targets, theirs.targets)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("run", TASKS, ids=lambda run: run.task)
def test_the_shares_of_processes_add_up_to_the_batch(run, world: int) -> None:  # type: ignore[no-untyped-def]
    task = task_of(run)
    whole = task.batch(0)
    model = build(run.model.architecture(run.task, task.vocab), dtype="float64")
    loss = Loss(model, 0.1)

    def value(batch: Batch) -> float:
        return loss(batch.inputs, batch.picked, batch.targets).item()

    parts = [whole.share(rank, world) for rank in range(world)]
    assert sum(len(part.targets) for part in parts) == len(whole.targets)
    assert sum(map(value, parts)) == pytest.approx(value(whole), rel=1e-6)  # summed in single precision
    assert value(parts[0]) != pytest.approx(value(whole), rel=0.05)  # the control: one share is not the batch


def test_a_process_without_a_row_adds_nothing_and_has_gradients() -> None:
    task = task_of(TRANSLATION)
    loss = Loss(build(MODEL.architecture("translation", task.vocab)), 0.1)
    none = task.batch(0).share(999, 1000)
    value = loss(none.inputs, none.picked, none.targets)
    value.backward()
    assert value.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters())


def test_the_loss_of_a_translation_is_that_of_all_logits_with_padding_left_out() -> None:
    task = task_of(TRANSLATION)
    model = build(MODEL.architecture("translation", task.vocab))
    batch = task.batch(0)
    source, target_in = batch.inputs
    logits = model(source, target_in, context=Context(None, None, source != Vocabulary.PAD))
    target_out = torch.full(target_in.shape, Vocabulary.PAD).flatten()
    target_out[batch.picked] = batch.targets
    wanted = F.cross_entropy(
        logits.flatten(0, 1), target_out, ignore_index=Vocabulary.PAD, label_smoothing=0.1, reduction="sum"
    )
    found = Loss(model, 0.1)(batch.inputs, batch.picked, batch.targets)
    torch.testing.assert_close(found, wanted)
    assert (target_out.view(target_in.shape) == Vocabulary.EOS).sum() == len(source)


def test_padding_of_the_source_changes_nothing() -> None:
    task = task_of(TRANSLATION)
    loss = Loss(build(MODEL.architecture("translation", task.vocab)), 0.0)
    batch = task.batch(0)
    source, target = batch.inputs
    wider = torch.cat([source, torch.full((len(source), 3), Vocabulary.PAD)], 1)
    torch.testing.assert_close(
        loss((wider, target), batch.picked, batch.targets), loss(batch.inputs, batch.picked, batch.targets)
    )


def test_a_causal_model_predicts_the_next_token() -> None:
    batch = task_of(replace(TEXT, task="causal")).batch(0)
    (ids,) = batch.inputs
    labels = batch.targets.view(ids.shape)
    assert torch.equal(labels[:, :-1], ids[:, 1:])


def test_a_masked_model_is_asked_for_some_tokens_alone() -> None:
    batch = task_of(replace(TEXT, tokens=4096)).batch(0)
    share = len(batch.targets) / batch.inputs[0].numel()
    assert 0.1 < share < 0.2
    assert (batch.inputs[0].flatten()[batch.picked] == Vocabulary.MASK).float().mean() > 0.6


def test_data_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="needs plain text"):
        task_of(replace(TRANSLATION, task="causal"))
    with pytest.raises(InputError, match="needs pairs of sentences"):
        task_of(replace(TEXT, task="translation"))
