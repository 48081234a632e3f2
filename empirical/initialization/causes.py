"""Why a variance may be what it is: mistakes that are made, each with the ratio that it leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from empirical.initialization.expected import Expected
from empirical.initialization.items import Item
from empirical.initialization.sample import FoundLaw
from meanfield.initialization import SCHEMES, deepnorm_constants, initialization, sub_ln_gain, t_fixup_gain
from meanfield.ops import Draw

UNEXPLAINED = "no known cause"

_GAINS = {"deepnorm": "gain beta", "sub_ln": "gain", "t_fixup": "gain"}
_GAINED = ("v", "o", "up", "down", "gate")
_XAVIER = ("xavier_normal", "xavier_uniform", *_GAINS)
_DEPTH = {"gpt2": "1/sqrt(2L)", "gpt_neox": "sqrt(10)/L"}


@dataclass(frozen=True, slots=True)
class Context:
    """What a cause may depend on.

    Args:
        scheme: Name of the scheme.
        expected: What it says of the tensor.
        variance: Its variance, above 0.
        fan_in: Size of a token before the map.
        fan_out: Size of a token after it.
        packed: Sizes after the map of all parts of a packed tensor together; None if it is not packed.
        law: The law that was found.
    """

    scheme: str
    expected: Expected
    variance: float
    fan_in: int
    fan_out: int
    packed: int | None
    law: FoundLaw

    @property
    def gain_sq(self) -> float:
        """Square of the gain that the scheme puts on this tensor; 1 for none."""
        return self.others_gain_sq if self.expected.field in _GAINED else 1.0

    @property
    def others_gain_sq(self) -> float:
        """Square of the gain that the scheme puts on value, output and feed-forward weights; 1 for none."""
        sizes = self.expected.stack.sizes
        if self.scheme == "deepnorm":
            return deepnorm_constants(sizes)[1] ** 2
        if self.scheme == "sub_ln":
            return sub_ln_gain(sizes) ** 2
        return t_fixup_gain(sizes)[0] ** 2 if self.scheme == "t_fixup" else 1.0


def context(item: Item, expected: Expected, scheme: str, law: FoundLaw) -> Context:
    """Collect what a cause may depend on.

    Args:
        item: The tensor.
        expected: What the scheme says of it.
        scheme: Name of the scheme.
        law: The law that was found.

    Returns:
        The context.
    """
    fan_in, fan_out = item.shape if len(item.shape) == 2 else (item.shape[0], item.shape[0])
    part = item.slot is not None and item.slot.part is not None
    packed = item.source.numel() // fan_in if part and item.source.ndim == 2 else None
    return Context(scheme, expected, float(expected.draw.variance), fan_in, fan_out, packed, law)


def explain(known: Context, low: float, high: float) -> list[str]:
    """Name the causes whose ratio lies in an interval.

    Args:
        known: What is known of the tensor.
        low: Lower end of the interval of the measured variance over the expected one.
        high: Its upper end.

    Returns:
        At most two causes, the more special one first; ``"no known cause"`` if there is none.
    """
    found: dict[float, str] = {}
    for ratio, cause in _candidates(known):
        # Of several names of one ratio the first is the most special.
        if low <= ratio <= high and not any(math.isclose(ratio, other) for other in (1.0, *found)):
            found[ratio] = cause
    return list(found.values())[:2] or [UNEXPLAINED]


def _candidates(known: Context) -> Iterator[tuple[float, str]]:
    yield from _packed(known)
    yield from _gain(known)
    yield from _depth(known)
    yield from _table(known)
    yield from _fans(known)
    yield from _general(known)
    yield from _other_schemes(known)


def _packed(known: Context) -> Iterator[tuple[float, str]]:
    """Xavier over all parts of a packed matrix."""
    if known.packed is None or known.scheme not in _XAVIER:
        return
    together = 2 / (known.fan_in + known.packed) / known.variance
    what = "packed QKV" if known.expected.field in "qkv" else "packed matrix"
    share = "half the" if math.isclose(together, 0.5) else f"{together:.3g} times the"
    cause = f"{what} drawn as one matrix: {share} variance (pytorch issue 166378)"
    yield together, cause
    yield together * known.gain_sq, f"{cause}, and the gain with it"


def _gain(known: Context) -> Iterator[tuple[float, str]]:
    """Gains that are missing, inverted, applied twice, put where none belongs, or of another stack."""
    if known.scheme not in _GAINS:
        return
    word, g, others = _GAINS[known.scheme], known.gain_sq, known.others_gain_sq
    if known.expected.field in ("q", "k"):
        yield others, f"q and k have the {word} too, which belongs to v, o, up and down alone"
        yield 1 / others, f"q and k have the inverse of the {word}, and no gain belongs there"
        return
    if known.expected.field not in _GAINED:
        return
    alone = known.expected.stack.sizes.stack == "alone"
    inverse = f"the {word} is inverted: its exponent has the wrong sign"
    if known.scheme == "deepnorm" and alone:
        inverse += ", (8N)^(+1/4) where DeepNet has (8N)^(-1/4)"
    yield 1 / g**2, inverse
    yield 1 / g, f"the {word} is missing"
    yield g, f"the {word} is applied twice"
    yield 1 / math.sqrt(g), f"the {word} is put into the variance in place of the standard deviation"
    sizes = known.expected.stack.sizes
    for stack in ("alone", "encoder", "decoder"):
        other = replace(
            known.expected.stack, sizes=replace(sizes, stack=stack, other_depth=sizes.other_depth)
        )
        share = replace(known, expected=replace(known.expected, stack=other)).others_gain_sq / g
        yield (
            share,
            f"the gain is that of {'a stack alone' if stack == 'alone' else f'the {stack} of a pair'}",
        )
    for depth in (32, 2 * sizes.depth, 6, 12, 24, 48):
        other = replace(known.expected.stack, sizes=replace(sizes, depth=depth))
        share = replace(known, expected=replace(known.expected, stack=other)).others_gain_sq / g
        yield share, f"the gain is right for {depth} layers, here are {sizes.depth}"


def _depth(known: Context) -> Iterator[tuple[float, str]]:
    """The factor on what is added to the residual stream: missing, twice, elsewhere, or for another depth."""
    if known.scheme not in _DEPTH:
        return
    law, sizes = known.expected.stack.law, known.expected.stack.sizes
    factor = float(law.o.variance) / float(law.q.variance)
    word = _DEPTH[known.scheme]
    if known.expected.field in ("o", "down"):
        yield 1 / factor, f"the depth scaling {word} of o and down is missing"
        yield factor, f"the depth scaling {word} is applied twice"
        yield 1 / factor**2, f"the depth scaling {word} is inverted"
        if known.scheme == "gpt2":
            yield 2.0, "the depth scaling is 1/sqrt(L) in place of 1/sqrt(2L)"
            yield math.sqrt(2 * sizes.depth), "the depth scaling is on the variance as 1/sqrt(2L)"
            for depth in (6, 12, 24, 36, 48):
                yield sizes.depth / depth, f"the depth scaling is right for {depth} layers, not {sizes.depth}"
    elif known.expected.field in ("q", "k", "v", "up", "gate"):
        yield factor, f"the depth scaling {word} belongs to o and down alone"


def _table(known: Context) -> Iterator[tuple[float, str]]:
    """Embeddings that are drawn for another factor in the forward pass."""
    if known.expected.field not in ("embedding", "position", "segment"):
        return
    width = known.expected.stack.sizes.width
    yield 1 / known.variance, "torch.nn.Embedding's default N(0, 1)"
    yield 1 / width, "drawn with 1/sqrt(d), as for a forward pass that multiplies by sqrt(d)"
    yield float(width), "sqrt(d) too large: drawn as if nothing multiplied by sqrt(d) later"


def _fans(known: Context) -> Iterator[tuple[float, str]]:
    """Confusions of fan-in, fan-out and their mean, with and without the gain."""
    if known.expected.field not in (*_GAINED, "q", "k", "head"):
        return
    fan_in, fan_out = known.fan_in, known.fan_out
    rules = [
        (1 / (3 * fan_in), "torch.nn.Linear's default, 1/(3 fan_in)"),
        (1 / fan_in, "1/fan_in"),
        (1 / fan_out, "1/fan_out"),
        (2 / (fan_in + fan_out), "Xavier's 2/(fan_in + fan_out)"),
        (2 / fan_in, "He's 2/fan_in"),
        (2 / fan_out, "He's rule with fan_out, 2/fan_out"),
        (1 / (3 * fan_out), "torch.nn.Linear's default with fan_out for fan_in"),
    ]
    for variance, name in rules:
        yield variance / known.variance, f"drawn with {name}"
    if known.gain_sq != 1:
        for variance, name in rules[1:]:
            yield variance * known.gain_sq / known.variance, f"drawn with {name}, times the gain"


def _general(known: Context) -> Iterator[tuple[float, str]]:
    """Slips that any scheme may suffer."""
    yield known.variance, "the variance was given as standard deviation"
    yield 1 / math.sqrt(known.variance), "the standard deviation was given as variance"
    yield 1 / 3, "the standard deviation was given as the bound of a uniform law"
    yield 3.0, "the bound of the uniform law was given as standard deviation"
    if known.law == "other":
        yield 0.7737, "a normal law cut off at two standard deviations, without correction"
    for factor, word in ((2.0, "doubled"), (0.5, "halved")):
        yield factor, f"the variance is {word}"
        yield factor**2, f"the standard deviation is {word}"


def _other_schemes(known: Context) -> Iterator[tuple[float, str]]:
    """Other schemes, by name."""
    names: dict[float, list[str]] = {}
    for name in SCHEMES:
        if name != known.scheme:
            law = initialization(name, known.expected.stack.sizes)
            draw: Draw | None = getattr(law, known.expected.field, None)
            if draw is not None and draw.variance > 0:
                names.setdefault(float(draw.variance) / known.variance, []).append(name)
    for ratio, several in names.items():
        yield ratio, f"as in {', '.join(several)}"
