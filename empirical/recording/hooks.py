"""Hooks that leave a model as it is: out of compiled graphs, out of copies, out of saved models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Run: TypeAlias = Callable[[nn.Module, Any, Any], None]


def hook(run: Run) -> Run:
    """Make a hook of a function: `torch.compile` breaks its graph for it, and copies do not keep it.

    Copied or pickled with its module it turns into a function of the standard library that does nothing: a
    copy is another model, and a saved model loads without this package.

    Args:
        run: Called with the module and two more arguments.

    Returns:
        The hook.

    Example:
        >>> import copy
        >>> speak = hook(lambda module, args, output: print(output))
        >>> speak(nn.Identity(), (), 3)
        3
        >>> copy.copy(speak)(nn.Identity(), (), 3)
    """
    return _hook_type()(run)


@cache
def _hook_type() -> type[Any]:
    """Make the type on first use: `torch.compiler` takes a second to import."""

    class Hook:
        def __init__(self, run: Run) -> None:
            self.run = run

        @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's annotations leave it out
        def __call__(self, module: nn.Module, args: Any, last: Any) -> None:
            self.run(module, args, last)

        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
            return getattr, (nullcontext(), "__exit__")

    return Hook


def on_gradient(x: Tensor, run: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Have a function called with the gradient of a hidden state, once for each backward pass.

    An output of a linear map is a view, which a later ``x += ...`` takes out of the graph together with its
    hook. The gradient of what it is a view of then holds its own.

    Args:
        x: The hidden state, which requires a gradient; it may be changed in place later.
        run: Called with the gradient of x as it is now.

    Returns:
        Hooks that outlive the pass, because x does: a parameter, or an input.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = (3 * x).view(1, 2)
        >>> _ = on_gradient(y, print)
        >>> y *= 2
        >>> y.sum().backward()
        tensor([[2., 2.]])
    """
    came = False

    def arrived(gradient: Tensor) -> None:
        nonlocal came
        came = True
        run(gradient)

    handle = x.register_hook(arrived)  # type: ignore[no-untyped-call]  # torch's annotations leave it out
    base = x._base
    if base is not None and base.grad_fn is not None and base.is_contiguous():
        shape, stride = x.shape, x.stride()
        offset = int(x.storage_offset() - base.storage_offset())

        def below(gradient: Tensor) -> None:
            nonlocal came
            if not came:
                run(gradient.contiguous().as_strided(shape, stride, offset))
            came = False

        base.register_hook(below)  # type: ignore[no-untyped-call]  # as above
    return [handle] if x.is_leaf else []
