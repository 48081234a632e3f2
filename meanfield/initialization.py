"""Named initialisation schemes: the law of every weight and bias of a Transformer layer.

A scheme is a function of the sizes; its value is an `Initialization`, which presets also take directly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from meanfield.errors import UnknownNameError
from meanfield.ops import ZEROS, Draw, Law


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes on which a scheme may depend; ``kv_width`` is the joint size of all key or value heads."""

    width: int
    kv_width: int
    d_ff: int
    depth: int


@dataclass(frozen=True, slots=True)
class Initialization:
    """The law of each parameter of a layer; every field is the law of one entry.

    Biases default to zero. ``head`` and ``embedding`` are used only where a model has them.

    Args:
        name: Goes into the ``init`` column.
    """

    name: str
    q: Draw
    k: Draw
    v: Draw
    o: Draw
    up: Draw
    down: Draw
    embedding: Draw
    head: Draw
    attention_bias: Draw = ZEROS
    up_bias: Draw = ZEROS
    down_bias: Draw = ZEROS


def _xavier(law: Law) -> Callable[[Sizes], Initialization]:
    def scheme(s: Sizes) -> Initialization:
        def draw(fan_in: int, fan_out: int) -> Draw:
            return Draw(Fraction(2, fan_in + fan_out), law)

        kv = draw(s.width, s.kv_width)
        return Initialization(
            name=f"xavier_{law}",
            q=draw(s.width, s.width),
            k=kv,
            v=kv,
            o=draw(s.width, s.width),
            up=draw(s.width, s.d_ff),
            down=draw(s.d_ff, s.width),
            embedding=Draw(Fraction(1, s.width)),
            head=Draw(Fraction(1, s.width)),
        )

    return scheme


def _lecun_normal(s: Sizes) -> Initialization:
    d = Draw(Fraction(1, s.width))
    return Initialization("lecun_normal", d, d, d, d, d, Draw(Fraction(1, s.d_ff)), d, d)


def _torch_linear(fan_in: int) -> Draw:
    return Draw(Fraction(1, 3 * fan_in), "uniform")


def _torch(s: Sizes) -> Initialization:
    # nn.MultiheadAttention draws the packed (3 width, width) matrix by Xavier: variance 2/(4 width).
    packed = Draw(Fraction(1, 2 * s.width), "uniform")
    return Initialization(
        "torch",
        q=packed,
        k=packed,
        v=packed,
        o=_torch_linear(s.width),
        up=_torch_linear(s.width),
        down=_torch_linear(s.d_ff),
        embedding=Draw(1),
        head=_torch_linear(s.width),
        up_bias=_torch_linear(s.width),
        down_bias=_torch_linear(s.d_ff),
    )


def _torch_transformer(s: Sizes) -> Initialization:
    packed = Draw(Fraction(1, 2 * s.width), "uniform")
    ffn = Draw(Fraction(2, s.width + s.d_ff), "uniform")
    return Initialization(
        "torch_transformer",
        q=packed,
        k=packed,
        v=packed,
        o=Draw(Fraction(1, s.width), "uniform"),
        up=ffn,
        down=ffn,
        embedding=Draw(1),
        head=_torch_linear(s.width),
        up_bias=_torch_linear(s.width),
        down_bias=_torch_linear(s.d_ff),
    )


def _normal_002(s: Sizes) -> Initialization:
    d = Draw(Fraction(1, 2500))
    return Initialization("normal_0.02", d, d, d, d, d, d, d, d)


def _gpt2(s: Sizes) -> Initialization:
    d = Draw(Fraction(1, 2500))
    projection = Draw(Fraction(1, 2500 * 2 * s.depth))
    return Initialization("gpt2", d, d, d, projection, d, projection, d, d)


SCHEMES: dict[str, Callable[[Sizes], Initialization]] = {
    "xavier_normal": _xavier("normal"),
    "xavier_uniform": _xavier("uniform"),
    "lecun_normal": _lecun_normal,
    "torch": _torch,
    "torch_transformer": _torch_transformer,
    "normal_0.02": _normal_002,
    "gpt2": _gpt2,
}


def initialization(init: str | Initialization, sizes: Sizes) -> Initialization:
    """Look up a scheme by name and evaluate it for given sizes; a ready value is passed through.

    Args:
        init: Name of a scheme, or an `Initialization`.
        sizes: The sizes of the model.

    Returns:
        The law of every parameter.

    Raises:
        UnknownNameError: If no scheme has that name.

    Source:
        xiong2020, Sec. 3.1 (Xavier); glorot2010, Eq. (12); radford2019 (GPT-2: output projections divided by
        sqrt(2 depth)); torch 2.13's own ``reset_parameters`` for ``torch`` and ``torch_transformer``.

    Example:
        >>> initialization("gpt2", Sizes(width=8, kv_width=8, d_ff=32, depth=2)).o.variance
        Fraction(1, 10000)
    """
    if isinstance(init, Initialization):
        return init
    if not isinstance(init, str) or init not in SCHEMES:
        raise UnknownNameError("init", init, SCHEMES)
    return SCHEMES[init](sizes)
