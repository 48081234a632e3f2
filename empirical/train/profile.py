"""The gradient of every tensor at one moment of training, in both of the paper's notions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from empirical.names import named_parameters
from empirical.train.tasks import Loss, Task

FIRST = 10**9
"""First of the steps whose batches are read: no run trains on them, and all runs of a seed read the same."""


def profile(loss: Loss, task: Task, minibatches: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure the gradient of the mean loss, without smoothing and dropout, on batches of the training data.

        mean_of_norms = (1/M) sum_b ||g_b||_F,   norm_of_mean = ||(1/M) sum_b g_b||_F

    Gradients of the parameters are None afterwards.

    Args:
        loss: The loss with its model.
        task: Gives the mini-batches.
        minibatches: M.
        device: Where the model is.

    Yields:
        For each tensor its ``layer``, ``module``, ``parameter``, ``mean_of_norms`` and ``norm_of_mean``.
    """
    named = named_parameters(loss.model)
    means = [torch.zeros_like(entry.tensor) for entry in named]
    norms = torch.zeros(len(named), device=device)
    training = loss.training
    loss.eval()
    for number in range(minibatches):
        loss.zero_grad()
        batch = task.batch(FIRST + number).to(device)
        (loss(batch.inputs, batch.picked, batch.targets) / len(batch.targets)).backward()
        for place, entry in enumerate(named):
            if entry.tensor.grad is not None:
                means[place] += entry.tensor.grad / minibatches
                norms[place] += entry.tensor.grad.norm() / minibatches
    loss.zero_grad()
    loss.train(training)
    for entry, mean, norm in zip(named, means, norms.tolist(), strict=True):
        yield {
            "layer": entry.key.layer,
            "module": entry.key.module,
            "parameter": entry.key.parameter,
            "mean_of_norms": norm,
            "norm_of_mean": mean.norm().item(),
        }
