"""A plain copy of a module that `fully_shard` has sharded, for the reader: on the CPU of one process."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from empirical.audit.sites import is_sharded


def gathered(module: nn.Module, kind: type, keep: bool) -> nn.Module:
    """Gather a sharded module, tensor by tensor; all processes take part.

    Args:
        module: The module, of a class that `fully_shard` has made.
        kind: `torch.distributed.fsdp.FSDPModule`.
        keep: Whether this process keeps what is gathered.

    Returns:
        A plain copy on the CPU; the module itself in a process that keeps nothing.
    """
    memo: dict[int, Any] = {}
    for tensor in module.parameters():
        if is_sharded(tensor):
            spread: Any = tensor.detach()
            full = spread.full_tensor()
            if keep:
                memo[id(tensor)] = nn.Parameter(full.cpu(), requires_grad=tensor.requires_grad)
    if not keep:
        return module
    sharded = [(part, type(part)) for part in module.modules() if isinstance(part, kind)]
    try:
        for part, _ in sharded:
            memo |= _without_hooks(part)
            part.__class__ = original(part)  # the class on top refuses to be copied
        return copy.deepcopy(module, memo).to("cpu")
    finally:
        for part, made in sharded:
            part.__class__ = made


def original(module: nn.Module) -> type[nn.Module]:
    """Find the class under that of `fully_shard`, which derives from FSDPModule and then from the class.

    Args:
        module: The sharded module.

    Returns:
        The class that it had.
    """
    return type(module).__mro__[2]


def _without_hooks(module: nn.Module) -> dict[int, Any]:
    """What a plain copy of a sharded module has in place of FSDP's hooks and state."""
    hooks = [module._forward_pre_hooks, module._forward_hooks]
    plain: dict[int, Any] = {
        id(registered): type(registered)(
            (key, hook)
            for key, hook in registered.items()
            if not str(getattr(hook, "__module__", "")).startswith("torch.distributed")
        )
        for registered in hooks
    }
    states = [value for key, value in vars(module).items() if key.startswith("__composable_api_state_key")]
    return plain | {id(state): {} for state in states}
