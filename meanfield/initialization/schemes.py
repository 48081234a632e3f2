"""The schemes, one function of the sizes each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from meanfield.errors import UnknownNameError
from meanfield.initialization.constants import deepnorm_constants, sub_ln_gain, t_fixup_gain
from meanfield.initialization.sizes import Initialization, Sizes
from meanfield.ops import Draw, Law


def _xavier(law: Law) -> Callable[[Sizes], Initialization]:
    def scheme(s: Sizes) -> Initialization:
        def draw(fan_in: int, fan_out: int) -> Draw:
            return Draw(Fraction(2, fan_in + fan_out), law)

        kv = draw(s.width, s.kv_width)
        return Initialization(
            name=f"xavier_{law}",
            q=draw(s.width, s.q_width),
            k=kv,
            v=kv,
            o=draw(s.q_width, s.width),
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


def _with_gain(base: Initialization, name: str, gain: float) -> Initialization:
    """Multiply value, output and feed-forward weights by a gain."""

    def times(draw: Draw) -> Draw:
        return replace(draw, variance=gain**2 * draw.variance)

    return replace(
        base, name=name, v=times(base.v), o=times(base.o), up=times(base.up), down=times(base.down)
    )


def _deepnorm(s: Sizes) -> Initialization:
    return _with_gain(_xavier("normal")(s), "deepnorm", deepnorm_constants(s)[1])


def _sub_ln(s: Sizes) -> Initialization:
    return _with_gain(_xavier("normal")(s), "sub_ln", sub_ln_gain(s))


def _t_fixup(s: Sizes) -> Initialization:
    layers, embeddings = t_fixup_gain(s)
    law = _with_gain(_xavier("uniform")(s), "t_fixup", layers)
    return replace(law, embedding=Draw(embeddings**2 / s.width))


SCHEMES: dict[str, Callable[[Sizes], Initialization]] = {
    "xavier_normal": _xavier("normal"),
    "xavier_uniform": _xavier("uniform"),
    "lecun_normal": _lecun_normal,
    "torch": _torch,
    "torch_transformer": _torch_transformer,
    "normal_0.02": _normal_002,
    "gpt2": _gpt2,
    "deepnorm": _deepnorm,
    "sub_ln": _sub_ln,
    "t_fixup": _t_fixup,
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
