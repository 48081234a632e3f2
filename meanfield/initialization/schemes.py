"""The schemes, one function of the sizes each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from meanfield.errors import UnknownNameError
from meanfield.initialization.constants import deepnorm_constants, sub_ln_gain, t_fixup_gain
from meanfield.initialization.sizes import Initialization, Sizes
from meanfield.ops import ZEROS, Draw, Law


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
    return replace(_equal("lecun_normal", d), o=Draw(Fraction(1, s.q_width)), down=Draw(Fraction(1, s.d_ff)))


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


def _fairseq(s: Sizes) -> Initialization:
    # gain 1/sqrt(2) on q, k, v; their biases keep nn.Linear's law, that of the output projection is 0.
    base = _xavier("uniform")(s)

    def half(draw: Draw) -> Draw:
        return replace(draw, variance=draw.variance / 2)

    return replace(
        base,
        name="fairseq",
        q=half(base.q),
        k=half(base.k),
        v=half(base.v),
        up=_torch_linear(s.width),
        down=_torch_linear(s.d_ff),
        attention_bias=_torch_linear(s.width),
        output_bias=ZEROS,
        up_bias=_torch_linear(s.width),
        down_bias=_torch_linear(s.d_ff),
    )


def _equal(name: str, draw: Draw) -> Initialization:
    return Initialization(name, draw, draw, draw, draw, draw, draw, draw, draw)


def _normal_002(s: Sizes) -> Initialization:
    return _equal("normal_0.02", Draw(Fraction(1, 2500)))


def _bert(s: Sizes) -> Initialization:
    return _equal("bert", Draw(Fraction(1, 2500)))


def _gpt2(s: Sizes) -> Initialization:
    projection = Draw(Fraction(1, 2500 * 2 * s.depth))
    return replace(_equal("gpt2", Draw(Fraction(1, 2500))), o=projection, down=projection)


def _t5(s: Sizes) -> Initialization:
    # The query carries the factor 1/sqrt(head size) that the scores of T5 do not have.
    d = Draw(Fraction(1, s.width))
    query = Draw(Fraction(s.heads, s.width * s.q_width))
    one = Draw(1)
    return Initialization(
        "t5", query, d, d, Draw(Fraction(1, s.q_width)), d, Draw(Fraction(1, s.d_ff)), embedding=one, head=one
    )


def _small_init(s: Sizes) -> Initialization:
    return _equal("small_init", Draw(Fraction(2, 5 * s.width)))


def _gpt_neox(s: Sizes) -> Initialization:
    before_residual = Draw(Fraction(4, s.depth**2 * s.width))
    return replace(_small_init(s), name="gpt_neox", o=before_residual, down=before_residual)


def _mup(s: Sizes) -> Initialization:
    d = Draw(Fraction(1, s.width))
    return replace(
        _equal("mup", d),
        o=Draw(Fraction(1, s.q_width)),
        down=Draw(Fraction(1, s.d_ff)),
        embedding=Draw(1),
        head=Draw(Fraction(1, s.width**2)),
    )


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
    "fairseq": _fairseq,
    "normal_0.02": _normal_002,
    "bert": _bert,
    "gpt2": _gpt2,
    "t5": _t5,
    "small_init": _small_init,
    "gpt_neox": _gpt_neox,
    "mup": _mup,
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
        glorot2010, Eq. (12); of each scheme the one that `initializations` lists.

    Example:
        >>> initialization("gpt2", Sizes(width=8, kv_width=8, d_ff=32, depth=2)).o.variance
        Fraction(1, 10000)
    """
    if isinstance(init, Initialization):
        return init
    if not isinstance(init, str) or init not in SCHEMES:
        raise UnknownNameError("init", init, SCHEMES)
    return SCHEMES[init](sizes)
