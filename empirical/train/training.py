"""A run under way: updates, and what is logged between them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from empirical import corpus, layers
from empirical.build import build
from empirical.names import Model, dropouts, named_parameters
from empirical.ranks import Ranks
from empirical.train import checkpoint
from empirical.train.checkpoint import Place
from empirical.train.data import load
from empirical.train.decode import bleu
from empirical.train.folder import CHECKPOINT, LOG, Result, finish
from empirical.train.log import Log
from empirical.train.profile import profile
from empirical.train.run import Run
from empirical.train.tasks import Language, Loss, Task, Translation, unigram_loss
from meanfield.errors import InputError
from meanfield.random import stream

LOGGED = 100  # times that the training loss is logged in a run


def task_of(run: Run) -> Task:
    """Load the data of a run as a task.

    Args:
        run: The run.

    Returns:
        The task.

    Raises:
        InputError: If the data do not belong to the task, or cannot be loaded.
    """
    data = load(run.corpus)
    if run.task == "translation" and isinstance(data, corpus.Parallel):
        return Translation(data, run.tokens, run.seed)
    if run.task != "translation" and isinstance(data, corpus.Text):
        return Language(data, run.tokens, run.length, run.seed, run.task == "masked")
    needed = "pairs of sentences" if run.task == "translation" else "plain text"
    raise InputError(
        f"task={run.task!r} needs {needed}, and {type(run.corpus).__name__} has none: give other data"
    )


class Training:
    """A run under way: what `train` holds between its first and its last step."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        device: torch.device,
        ranks: Ranks | None,
        every: float,
        report: Callable[[int], None],
    ) -> None:
        self.run, self.folder, self.device, self.ranks = run, folder, device, ranks
        self.every, self.report = every, report
        self.task = task_of(run)
        architecture = run.model.architecture(run.task, self.task.vocab)
        self.model: Model = build(architecture, seed=run.seed, device=device.type).to(device)
        self.drops = dropouts(self.model)
        for module in self.drops:
            module.generator = None  # masks come from torch's generator, which is seeded before each step
        loss = Loss(self.model, run.label_smoothing)
        alone = ranks is None or ranks.size == 1
        self.loss: nn.Module = loss if alone else DistributedDataParallel(loss)
        self.optimizer = run.optimizer.over(self.model.parameters())
        self.interval = max(1, run.steps // LOGGED)
        self.looked_at = {0, *run.evaluated, *run.profile}
        self.log: Log | None = None  # of the first process alone

    def through(self) -> Result:
        """Train from where the folder stands to the end."""
        run, path = self.run, self.folder / CHECKPOINT
        place = checkpoint.restore(path, run.configuration, self.task.digest, self.model, self.optimizer)
        if self.ranks is not None and self.ranks.rank:
            return self._from(place)
        self.log = Log(self.folder / LOG, place.log_bytes)
        try:
            return self._from(place)
        finally:
            self.log.close()

    def _from(self, place: Place) -> Result:
        run, started, step, status = self.run, time.monotonic(), place.step, "finished"
        saved = started
        self.report(step)
        if step == 0:
            self._look(0)
        while step < run.steps and status == "finished":
            total = torch.zeros((), device=self.device)
            for _ in range(min(self.interval, run.steps - step)):
                total += self._update(step)
                step += 1
                self._look(step)
            status = self._report(step, total)
            due = step == run.steps or time.monotonic() - saved > self.every
            if status == "finished" and due:
                self._save(step, place.seconds + time.monotonic() - started)
                saved = time.monotonic()
        self.report(run.steps - step)
        return self._end(Result(status, step, place.seconds + time.monotonic() - started))

    def _save(self, step: int, seconds: float) -> None:
        if self.log is not None:
            place = Place(step, self.log.sync(), seconds)
            path, configuration = self.folder / CHECKPOINT, self.run.configuration
            checkpoint.save(path, configuration, self.task.digest, self.model, self.optimizer, place)

    def _update(self, step: int) -> Tensor:
        """Do the update after ``step`` others; return this process's part of the loss."""
        whole = self.task.batch(step)
        batch = whole.share(*self._share).to(self.device)
        if self.drops:
            torch.manual_seed(seed_of(self.run.seed, f"dropout, step {step}, rank {self._share[0]}"))
        self.loss.zero_grad()
        with self._precision():
            loss = self.loss(batch.inputs, batch.picked, batch.targets) / len(whole.targets)
        (loss * self._share[1]).backward()  # the mean over processes is the sum over their shares
        if step + 1 in self.run.evaluated:
            self._write("norms", step + 1, norms=self._norms())
        if self.run.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.run.optimizer.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.schedule.rate(step + 1, steps=self.run.steps)
        self.optimizer.step()
        return loss.detach()

    @property
    def _share(self) -> tuple[int, int]:
        return (0, 1) if self.ranks is None else (self.ranks.rank, self.ranks.size)

    def _precision(self) -> torch.autocast:
        mixed = self.run.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed)

    def _norms(self) -> dict[str, float]:
        """Norms of the gradient of the mini-batch that is about to be used, tensor by tensor."""
        named = [p for p in named_parameters(self.model) if p.tensor.grad is not None]
        norms = torch.stack([p.tensor.grad.norm() for p in named if p.tensor.grad is not None]).tolist()
        return {"/".join(map(str, p.key)): norm for p, norm in zip(named, norms, strict=True)}

    def _report(self, step: int, total: Tensor) -> str:
        """Log the mean loss of an interval and say whether the run goes on."""
        if self.ranks is not None:
            dist.all_reduce(total)
        count = step - (step - 1) // self.interval * self.interval
        loss = total.item() / count
        finite = torch.stack([p.isfinite().all() for p in self.model.parameters()]).all().item()
        rate = self.run.schedule.rate(step, steps=self.run.steps)
        self._write("step", step, train_loss=loss, lr=rate)
        self.report(count)
        return "finished" if math.isfinite(loss) and finite else "diverged"

    def _look(self, step: int) -> None:
        """Take what is to be taken after a step: validation loss, BLEU, gradients."""
        run = self.run
        if self.log is None or step not in self.looked_at:
            return
        self.model.eval()
        if step == 0:
            self._write("unigram", 0, unigram_loss=unigram_loss(self.task))
        if step in (0, *run.evaluated):
            self._write("valid", step, valid_loss=self._valid_loss())
        if step in run.translated and isinstance(self.task, Translation):
            assert isinstance(self.model, layers.EncoderDecoder)
            with self._precision():
                score = bleu(self.model, self.task.corpus, device=self.device)
            self._write("bleu", step, bleu=score)
        if step in run.profile:
            # A copy: distributed modules watch every backward pass of their own parameters.
            twin = Loss(copy.deepcopy(self.model), 0.0)
            for row in profile(twin, self.task, run.minibatches, self.device):
                self._write("gradient", step, minibatches=run.minibatches, **row)
        self.model.train()

    @torch.no_grad()
    def _valid_loss(self) -> float:
        """Mean cross entropy over all positions of the validation set, in nats."""
        plain, total, count = Loss(self.model, 0.0), torch.zeros((), device=self.device), 0
        with self._precision():
            for batch in self.task.valid():
                on = batch.to(self.device)
                total += plain(on.inputs, on.picked, on.targets)
                count += len(batch.targets)
        return total.item() / count

    def _write(self, kind: str, step: int, **values: Any) -> None:
        if self.log is not None:
            self.log.write(kind, step, **values)

    def _end(self, result: Result) -> Result:
        if self.log is not None:
            self._write("end", result.steps, status=result.status)
            self.log.sync()
            finish(self.run, self.folder, result, self.device.type)
        if self.ranks is not None:
            dist.barrier()
        return result


def seed_of(seed: int, purpose: str) -> int:
    """A seed for a generator of torch's own.

    Args:
        seed: That of the run.
        purpose: What it is for.

    Returns:
        An integer of 63 bits.
    """
    return int(stream(seed, purpose).integers(2**63 - 1))
