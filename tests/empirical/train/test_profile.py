import pytest
import torch

from empirical import build
from empirical.train.profile import FIRST, profile
from empirical.train.tasks import Loss
from empirical.train.training import task_of
from tests.empirical.train.small import TRANSLATION, with_model

RUN = with_model(TRANSLATION, dropout=0.3)


def test_both_notions_are_those_of_gradients_taken_by_hand() -> None:
    task = task_of(RUN)
    model = build(RUN.model.architecture("translation", task.vocab), seed=0)
    rows = {
        (row["layer"], row["module"], row["parameter"]): row
        for row in profile(Loss(model, 0.0), task, 3, torch.device("cpu"))
    }
    (parameter,) = model.head.parameters()
    model.eval()
    gradients = []
    for number in range(3):
        batch = task.batch(FIRST + number)
        loss = Loss(model, 0.0)(batch.inputs, batch.picked, batch.targets) / len(batch.targets)
        gradients.append(torch.autograd.grad(loss, parameter)[0])
    (row,) = [row for key, row in rows.items() if key[1] == "decoder.head"]
    norms = torch.stack([gradient.norm() for gradient in gradients])
    assert row["mean_of_norms"] == pytest.approx(norms.mean().item(), rel=1e-5)
    assert row["norm_of_mean"] == pytest.approx(torch.stack(gradients).mean(0).norm().item(), rel=1e-5)
    assert row["norm_of_mean"] < 0.98 * row["mean_of_norms"]  # mini-batches differ: the notions do


def test_it_leaves_the_model_as_it_was_and_gives_the_same_again() -> None:
    task = task_of(RUN)
    model = build(RUN.model.architecture("translation", task.vocab), seed=0)
    before = [parameter.clone() for parameter in model.parameters()]
    first, second = (list(profile(Loss(model, 0.0), task, 2, torch.device("cpu"))) for _ in range(2))
    assert first == second
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
