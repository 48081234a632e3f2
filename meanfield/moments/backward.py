"""Backward rules: G_ij = E<dL/dx_i, dL/dx_j> before an op from that after it, and E||dL/dtheta||^2.

Assumes throughout: width to infinity, independent weights of mean 0 that are used once, exchangeable tokens,
and gradients independent of the forward weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch

from meanfield.errors import MissingRuleError
from meanfield.gaussian import dual_grad
from meanfield.moments.attention import mix_back, score_gradients, softmax_weights
from meanfield.moments.state import Exchangeable, Kernel, Step
from meanfield.ops import Attention, FeedForward, Linear, Norm, Op, ParameterKey, Residual, Sequential

INTERPRETER = "moments.backward"


@dataclass(slots=True)
class Record:
    """What a backward pass finds: parameter gradients, and the kernels at the points of each block."""

    layer: int = 0
    grad_sq: dict[ParameterKey, float] = field(default_factory=dict)
    points: dict[tuple[int, str], tuple[Kernel, Kernel]] = field(default_factory=dict)

    def parameter(self, module: str, parameter: str, grad_sq: float) -> None:
        """Note E||dL/dtheta||^2 of a parameter of the present layer.

        Args:
            module: Name of the module.
            parameter: ``"weight"`` or ``"bias"``.
            grad_sq: The mean square gradient norm.
        """
        self.grad_sq[ParameterKey(self.layer, module, parameter)] = grad_sq

    def point(self, module: str, kernel: Kernel, gradient: Kernel) -> None:
        """Note the kernels at the output of a named op of the present layer.

        Args:
            module: Name of the op.
            kernel: Forward kernel there.
            gradient: Backward kernel there.
        """
        self.points[self.layer, module] = (kernel, gradient)


@singledispatch
def backward(op: Op, step: Step, gradient: Kernel, layout: Exchangeable, record: Record) -> Kernel:
    """Return the gradient kernel before an op, and record the gradients of its parameters.

    Args:
        op: The op of the step; its type selects the rule.
        step: The op's step of the forward pass.
        gradient: G after the op, summed over coordinates.
        layout: How many tokens and sequences there are.
        record: Collects parameters and points.

    Raises:
        MissingRuleError: If the theory has no rule for this op.
    """
    raise MissingRuleError(op, INTERPRETER)


def _through_linear(
    module: str, step: Step, gradient: Kernel, layout: Exchangeable, record: Record
) -> Kernel:
    """E||dL/dW||^2 = d_in sum_ij Q_ij G_ij, E||dL/db||^2 = sum_ij G_ij, G -> sigma_w^2 G."""
    op = step.op
    assert isinstance(op, Linear)
    record.parameter(module, "weight", op.d_in * layout.inner(step.before, gradient))
    if op.bias is not None:
        record.parameter(module, "bias", float(layout.counts @ gradient))
    return float(op.sigma_w_sq) * gradient


@backward.register
def _linear(op: Linear, step: Step, gradient: Kernel, layout: Exchangeable, record: Record) -> Kernel:
    """G -> sigma_w^2 G. Source: schoenholz2017, Eq. (13)."""
    return _through_linear("linear", step, gradient, layout, record)


@backward.register
def _norm(op: Norm, step: Step, gradient: Kernel, layout: Exchangeable, record: Record) -> Kernel:
    """G_ij -> G_ij / (s_i s_j), s_i^2 = Q_ii + eps. Source: xiong2020, Lemma 3."""
    # The two projections of the Jacobian are O(1/d). The gain sees sum_ij Q_ij G_ij of the output.
    record.point(op.name, step.after, gradient)
    record.parameter(op.name, "weight", layout.inner(step.after, gradient))
    if op.has_shift:
        record.parameter(op.name, "bias", float(layout.counts @ gradient))
    return gradient / (layout.own(step.before) + op.eps)


@backward.register
def _attention(op: Attention, step: Step, gradient: Kernel, layout: Exchangeable, record: Record) -> Kernel:
    """G -> sigma_v^2 E[A^T (sigma_o^2 G) A], plus the way through the scores. Source: xiong2020, App. F."""
    record.point(op.name, step.after, gradient)
    inner = step.inner
    if op.output is not None:
        gradient = _through_linear(f"{op.name}.o", inner["output"], gradient, layout, record)
    if op.kind == "uniform":
        return _through_linear(f"{op.name}.v", inner["value"], layout.mix(gradient), layout, record)
    weights = softmax_weights(op, inner["query"], inner["key"], layout)
    kernels = inner["query"].after, inner["key"].after, inner["value"].after
    of_query, of_key = score_gradients(op, weights, kernels, gradient, layout)
    mixed = mix_back(weights, gradient, layout)
    through_value = _through_linear(f"{op.name}.v", inner["value"], mixed, layout, record)
    through_key = _through_linear(f"{op.name}.k", inner["key"], of_key, layout, record)
    if op.key is not None and op.key.bias is not None:
        record.parameter(f"{op.name}.k", "bias", 0.0)  # exactly: the softmax does not see what all keys share
    through_query = _through_linear(f"{op.name}.q", inner["query"], of_query, layout, record)
    return through_query + through_key + through_value


@backward.register
def _feed_forward(
    op: FeedForward, step: Step, gradient: Kernel, layout: Exchangeable, record: Record
) -> Kernel:
    """Down, then times E[phi'(u_i) phi'(u_j)], then up. Source: schoenholz2017, Eq. (13)."""
    record.point(op.name, step.after, gradient)
    up, down = step.inner["up"], step.inner["down"]
    gradient = _through_linear(f"{op.name}.down", down, gradient, layout, record)
    own = layout.own(up.after)
    gradient = gradient * dual_grad(op.activation, own, own, up.after)
    return _through_linear(f"{op.name}.up", up, gradient, layout, record)


@backward.register
def _residual(op: Residual, step: Step, gradient: Kernel, layout: Exchangeable, record: Record) -> Kernel:
    """G -> skip^2 G + branch^2 G_branch. Source: xiong2020, App. F (differs: keeps the branch)."""
    # The branch ends in fresh weights, so cross terms vanish.
    record.point(op.name, step.after, gradient)
    skip, scale = float(op.skip_scale), float(op.branch_scale)
    branch = step.inner["branch"]
    return skip**2 * gradient + backward(branch.op, branch, scale**2 * gradient, layout, record)


@backward.register
def _sequential(op: Sequential, step: Step, gradient: Kernel, layout: Exchangeable, record: Record) -> Kernel:
    """The last op first. Source: definition."""
    for inner in reversed(list(step.inner.values())):
        gradient = backward(inner.op, inner, gradient, layout, record)
    return gradient
