"""What a backward pass finds, with a common exponent: thousands of layers neither over- nor underflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from meanfield.errors import once
from meanfield.moments.state import Kernel, Layout, Step
from meanfield.ops import ParameterKey

# Far from the ends of float64, so that a layer's own factors cannot reach them.
_FAR = 200


@dataclass(slots=True)
class Record:
    """What a backward pass finds: parameter gradients, and the kernels at the points of each block.

    Gradient kernels are kept as they are times 2^-exponent.

    Attributes:
        layer: The present layer.
        prefix: Goes before module names: ``"encoder."``, ``"decoder."`` or nothing.
        common: Name of a table that encoder and decoder share, which has no prefix; or nothing.
        exponent: The present power of two.
        grad_sq: E||dL/dtheta||^2; 0 or inf where float64 ends.
        log10_grad_sq: Its logarithm, which does not end; -inf for an exact 0.
        points: Forward and gradient kernel at every point.
        memory_gradient: Gradient kernel of the encoder's output so far.
    """

    layer: int = 0
    prefix: str = ""
    common: str = ""
    exponent: int = 0
    grad_sq: dict[ParameterKey, float] = field(default_factory=dict)
    log10_grad_sq: dict[ParameterKey, float] = field(default_factory=dict)
    points: dict[tuple[int, str], tuple[Kernel, Kernel]] = field(default_factory=dict)
    memory_gradient: Kernel | float = 0.0
    _tables: dict[str, float] = field(default_factory=dict)
    _pending: dict[ParameterKey, float] = field(default_factory=dict)

    def parameter(self, module: str, parameter: str, grad_sq: float) -> None:
        """Note E||dL/dtheta||^2 of a parameter of the present layer.

        Args:
            module: Name of the module.
            parameter: ``"weight"`` or ``"bias"``.
            grad_sq: The mean square gradient norm.

        Raises:
            InputError: If another op of the layer has the same name.
        """
        key = ParameterKey(self.layer, self._named(module), parameter)
        once(key, self.grad_sq)
        grad_sq += float(np.ldexp(self._pending.pop(key, 0.0), -self.exponent))
        # A sum of terms that cancel may leave a rounding error below 0.
        grad_sq = max(grad_sq, 0.0)
        self.grad_sq[key] = float(np.ldexp(grad_sq, self.exponent)) if self.exponent else grad_sq
        self.log10_grad_sq[key] = (
            math.log10(grad_sq) + self.exponent * math.log10(2) if grad_sq else -math.inf
        )

    def pend(self, key: ParameterKey, grad_sq: float) -> None:
        """Keep what a parameter will get beside its own rule, until that rule notes it.

        Args:
            key: The parameter.
            grad_sq: What will be added.
        """
        self._pending[key] = grad_sq

    def table(self, module: str, grad_sq: float, *, shared: bool) -> None:
        """Note one part of the gradient of a table that is used in several places; the parts add up.

        Args:
            module: Name of the table.
            grad_sq: The part of the present place.
            shared: Whether an earlier place owns the table; its row takes all parts.
        """
        name = self._named(module)
        total = self._tables.pop(name, 0.0) + float(np.ldexp(grad_sq, self.exponent))
        if shared or (module == self.common and self.prefix == "decoder."):
            self._tables[name] = total
        else:
            self.parameter(module, "weight", float(np.ldexp(total, -self.exponent)))

    def product(self, module: str, gradient: Kernel) -> None:
        """Note the gradient kernel behind a linear map of the present layer; nothing is kept here.

        Args:
            module: Name of the map.
            gradient: Backward kernel there, as it is kept.
        """

    def swept(self, steps: Sequence[tuple[int, Step]], start: Kernel, layout: Layout) -> None:
        """Note the forward pass of a stack, before a gradient is sent back; nothing is kept here.

        Args:
            steps: Steps with their layer.
            start: Kernel of the input.
            layout: Layout of its tokens.
        """

    def _named(self, module: str) -> str:
        return module if module == self.common else self.prefix + module

    def point(self, module: str, kernel: Kernel, gradient: Kernel) -> None:
        """Note the kernels at the output of a named op of the present layer.

        Args:
            module: Name of the op.
            kernel: Forward kernel there.
            gradient: Backward kernel there.
        """
        whole = np.ldexp(gradient, self.exponent) if self.exponent else gradient
        self.points[self.layer, self.prefix + module] = (kernel, whole)

    def rescale(self, gradient: Kernel) -> Kernel:
        """Move the size of a gradient kernel into the exponent where it is far from 1.

        Args:
            gradient: The kernel, times 2^-exponent.

        Returns:
            The kernel, times 2^-(new exponent).

        Example:
            >>> record = Record()
            >>> record.rescale(np.array([2.0**-300])).tolist(), record.exponent
            ([0.5], -299)
        """
        largest = float(np.max(np.abs(gradient)))
        if largest == 0 or not math.isfinite(largest) or 2.0**-_FAR < largest < 2.0**_FAR:
            return gradient
        shift = math.frexp(largest)[1]
        self.exponent += shift
        return np.ldexp(gradient, -shift)
