"""The optimisers of the paper's experiments, as torch.optim has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from meanfield.errors import InputError, UnknownNameError

OPTIMIZERS = ("adam", "radam", "sgd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimiser without its learning rate, which the schedule gives.

    Args:
        name: One of `OPTIMIZERS`.
        betas: Decay of the means of gradients and of their squares, for Adam and RAdam.
        eps: Added to the root of the mean square, for Adam and RAdam.
        momentum: For SGD.
        weight_decay: Times the weight, added to the gradient (SGD), or decoupled from it (Adam, RAdam).
        clip: Largest norm of the whole gradient; None for no clipping.

    Raises:
        UnknownNameError: If there is no such optimiser.
        InputError: If a number is out of its range.

    Source:
        xiong2020, Sec. 4.1 (betas); kingma2015; liu2020 for RAdam.

    Example:
        >>> Optimizer(name="adam").betas
        (0.9, 0.98)
    """

    name: str
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.name, OPTIMIZERS)
        for what, value in (
            ("betas", max(self.betas)),
            ("betas", min(self.betas)),
            ("momentum", self.momentum),
        ):
            if not 0 <= value < 1:
                raise InputError(f"{what}: {value} is not in [0, 1): give such a number")
        if self.momentum and self.name != "sgd":
            raise InputError(f"momentum={self.momentum} belongs to 'sgd': {self.name} has betas")
        if not (self.eps > 0 and self.weight_decay >= 0 and (self.clip is None or self.clip > 0)):
            raise InputError(
                f"eps={self.eps}, weight_decay={self.weight_decay}, clip={self.clip}: eps and clip are above "
                "0, weight_decay at least 0"
            )

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make torch's optimiser for parameters, at a learning rate of 0 until the schedule sets one.

        Args:
            parameters: What is trained.

        Returns:
            The optimiser.
        """
        held = list(parameters)
        match self.name:
            case "adam":
                # AdamW with weight_decay=0 is Adam to the bit.
                fused = held[0].device.type in {"cpu", "cuda"}
                return torch.optim.AdamW(
                    held, lr=0.0, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused
                )
            case "radam":
                return torch.optim.RAdam(
                    held,
                    lr=0.0,
                    betas=self.betas,
                    eps=self.eps,
                    weight_decay=self.weight_decay,
                    decoupled_weight_decay=True,
                )
            case _:
                return torch.optim.SGD(held, lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay)
