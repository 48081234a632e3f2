"""What a loss is put upon: the last hidden states of a module, or its logits, real tokens alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from empirical.audit.batch import Call, run, seeded
from empirical.losses import LOSSES, READ_THE_HEAD
from empirical.readers import Reading
from meanfield.errors import InputError
from meanfield.ops import EncoderDecoder, Head, Linear, Sequential, Transformer
from meanfield.random import stream


def target(reading: Reading) -> Transformer:
    """Return the stack on whose output the loss is: of an encoder-decoder, the decoder."""
    arch = reading.arch
    return arch.decoder if isinstance(arch, EncoderDecoder) else arch


def check_loss(reading: Reading, loss: str) -> None:
    """Check that an architecture has what a loss reads.

    Args:
        reading: What was read.
        loss: Name of the loss.

    Raises:
        InputError: If the loss is on logits and there is no head.
    """
    if loss in READ_THE_HEAD and target(reading).head is None:
        raise InputError(
            f"loss={loss!r} needs an output head and {reading.arch.name} has none: give the model with its "
            "head, or loss='linear'"
        )


def rows(module: nn.Module, call: Call, reading: Reading, loss: str) -> Tensor:
    """Run a module and take what the loss reads, one row per real token.

    The output is a tensor; or has ``logits`` (for a loss on logits) or ``last_hidden_state`` by that name; or
    is a tuple, a list, a mapping or an object of which the first tensor of floating point is taken. Hidden
    states of a model with a head are what its head multiplies.

    Args:
        module: The module.
        call: Its arguments.
        reading: What was read in it.
        loss: Name of the loss.

    Returns:
        (real tokens, width or vocabulary).

    Raises:
        InputError: If there is no such output, or it has another shape than what was read.
    """
    stack = target(reading)
    if loss in READ_THE_HEAD and stack.head is not None:
        y, width = pick(run(module, call), "logits"), int(stack.head.linear.d_out)
    elif stack.head is None:
        y, width = pick(run(module, call), "last_hidden_state"), stack.width
    else:
        y, width = _below_head(module, call, reading, stack.head), stack.width
    last = reading.streams[-1]
    if y.shape[-1] != width or y.numel() != last.batch * last.tokens * width:
        raise InputError(
            f"the output has shape {tuple(y.shape)} and {last.batch} x {last.tokens} tokens of size {width} "
            "were read: give a module whose first output is one vector for every token"
        )
    return y.reshape(-1, width)[_real(module, y, reading)]


def _real(module: nn.Module, y: Tensor, reading: Reading) -> Tensor | slice:
    """Which rows are real tokens; modules that put tokens first have their rows in the other order."""
    last = reading.streams[-1]
    if last.padding is None:
        return slice(None)
    real = torch.from_numpy(last.padding).to(y.device)  # (batch, tokens)
    tokens_first = any(getattr(part, "batch_first", True) is False for part in module.modules())
    if tokens_first and last.batch == last.tokens:
        raise InputError(
            f"with {last.batch} sequences of as many tokens, padding and output cannot be told apart: give "
            "another number of sequences"
        )
    if y.shape[:-1] == (last.tokens, last.batch) != (last.batch, last.tokens):
        real = real.T
    return real.reshape(-1)


def pick(output: Any, name: str) -> Tensor:
    """Pick a tensor from what a module gave.

    Args:
        output: A tensor, or something that holds tensors.
        name: Which one to take where they have names.

    Returns:
        The tensor of that name, or else the first one of floating point.

    Raises:
        InputError: If there is none.

    Example:
        >>> pick((torch.arange(2), torch.ones(1, 2, 3)), "logits").shape
        torch.Size([1, 2, 3])
    """
    if isinstance(output, Tensor):
        candidates: Iterable[Any] = (output,)
    elif isinstance(output, Mapping):
        candidates = (output.get(name), *output.values())
    elif isinstance(output, tuple | list):
        candidates = (getattr(output, name, None), *output)
    else:
        candidates = (getattr(output, name, None), *getattr(output, "__dict__", {}).values())
    for value in candidates:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value
    raise InputError(
        f"the module gives {type(output).__name__} without {name!r} or another tensor of vectors: give a "
        "module that returns hidden states or logits"
    )


class _Products(TorchFunctionMode):
    """Notes every product of hidden states with one matrix: (what is multiplied, product)."""

    def __init__(self, matrix: Callable[[], Tensor], shape: tuple[int, int]) -> None:
        super().__init__()
        self.matrix, self.shape = matrix, shape
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        if isinstance(result, Tensor) and any(self._is_matrix(value) for value in given):
            d_in, d_out = self.shape
            self.found += [
                (value, result)
                for value in given
                if not self._is_matrix(value)
                and value.is_floating_point()
                and value.ndim >= 2
                and (*value.shape[:-1], d_out) == (*result.shape,)
                and value.shape[-1] == d_in
            ]
        return result

    def _is_matrix(self, value: Tensor) -> bool:
        matrix = self.matrix()
        return value is matrix or value._base is matrix


def _below_head(module: nn.Module, call: Call, reading: Reading, head: Head) -> Tensor:
    """Hidden states as the head's first matrix multiplies them, without a factor that some models apply."""
    name, first = _first_map(reading, head)
    named = dict(module.named_parameters(remove_duplicate=False))
    if name not in named:
        raise InputError(
            f"the head's matrix is no parameter of {type(module).__name__}: give the model without it"
        )

    def matrix() -> Tensor:
        return module.get_parameter(name)  # while a sharded module runs, it is another tensor

    with _Products(matrix, (int(first.d_in), int(first.d_out))) as products:
        output = run(module, call)
    if not products.found:
        raise InputError(
            f"{name} multiplies no hidden state that could be seen: give the model without its head"
        )
    y, product = products.found[-1]
    if head.scale == 1 or first is not head.linear:
        return y
    # logits are cap(scale * (y W)): some models apply the factor to the product, others to y beforehand.
    logits, scale = pick(output, "logits"), float(head.scale)

    cap = None if head.softcap is None else float(head.softcap)

    def distance(z: Tensor) -> float:
        z = z if cap is None else cap * torch.tanh(z / cap)
        return float((z - logits).detach().norm())

    return y / scale if distance(product) < distance(scale * product) else y


def _first_map(reading: Reading, head: Head) -> tuple[str, Linear]:
    """The parameter that hidden states meet first in a head, by its name, and its map."""
    first, kind = head.linear, "embedding" if head.tied else head.name
    if head.transform is not None:
        op = head.transform.ops[0] if isinstance(head.transform, Sequential) else head.transform
        if not isinstance(op, Linear):
            raise InputError(
                f"the head begins with {type(op).__name__}, below which no hidden state can be seen: give "
                "the model without its head"
            )
        first, kind = op, ""
    shape = (first.d_out, first.d_in) if kind == "embedding" else (first.d_in, first.d_out)
    depth = target(reading).depth
    names = [
        slot.name
        for slot in reading.slots
        if slot.key.parameter == "weight"
        and not slot.key.module.startswith("encoder.")
        and (slot.key.module.rpartition(".")[2] == kind if kind else slot.key.layer > depth)
        and slot.index.shape == shape
    ]
    return (names[0] if names else ""), first


def loss_of(y: Tensor, loss: str, seed: int, label_smoothing: float) -> Tensor:
    """Compute a loss with targets of a seed's own.

    Args:
        y: Rows of hidden states, or of logits for cross entropy.
        loss: Name of the loss.
        seed: The seed.
        label_smoothing: For cross entropy.

    Returns:
        The loss, a scalar.
    """
    exact = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
    return LOSSES[loss](exact[None], nn.Identity(), stream(seed, "target"), label_smoothing)


def check_repeatable(output: Callable[[], Tensor], device: torch.device, name: str) -> None:
    """Check that a forward pass draws no random numbers.

    Args:
        output: Runs a module in evaluation mode, and gives what the loss reads.
        device: Where it runs.
        name: Of the module, for the message.

    Raises:
        InputError: If two passes differ by more than rounding.
    """
    outputs = []
    for seed in (0, 1):
        with torch.no_grad(), seeded(seed, device):
            outputs.append(output())
    first, second = outputs
    rounding = 100 * torch.finfo(first.dtype).eps
    same = F.mse_loss(first.float(), second.float()) <= rounding**2 * first.float().square().mean()
    if torch.isfinite(first).all() and not same:
        raise InputError(
            f"{name} draws random numbers in its forward pass, in evaluation mode too: the prediction is for "
            "a deterministic model; switch the noise off"
        )
