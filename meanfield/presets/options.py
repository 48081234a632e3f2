"""The keyword options that every preset takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.initialization import Initialization
from meanfield.ops import ACTIVATIONS, AttentionKind, NormKind, Number, RelativeBias, Rotary

QkNorm: TypeAlias = Literal["head", "all"]

# Names of gated networks and the activation of their gate (shazeer2020).
GATED = {
    "bilinear": "identity",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "glu": "sigmoid",
    "reglu": "relu",
    "swiglu": "silu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be chosen beside width, depth and placement.

    Args:
        heads: Query heads.
        kv_heads: Key and value heads; None for as many as query heads.
        head_size: Coordinates of a head; None for width / heads.
        d_ff: Inner size of the feed-forward op; None for 4 width.
        activation: One of `ACTIVATIONS`, or the name of a gated network (glu, geglu, geglu_tanh, reglu,
            swiglu, bilinear).
        norm: ``"layernorm"`` or ``"rmsnorm"``.
        norm_eps: Added to the mean square before the root.
        attention: ``"softmax"`` or ``"uniform"``.
        causal: Whether a token sees only itself and earlier ones.
        window: A token sees those less than this many positions away; None for all. A tuple is repeated over
            the layers.
        rotary: The share of a head's coordinates that turn, or a `Rotary`; None for none.
        qk_norm: A norm on queries and keys of each ``"head"``, or of ``"all"`` heads together; None for none.
        relative_bias: T5's relative positions; ``shared`` means one table for all layers.
        softcap: Cap of the scores.
        score_scale: Factor on the scores: a number, ``"mup"`` for 1 / head size, None for its root.
        init: Name of a scheme or an `Initialization`; some placements have one of their own.
        bias: Whether linear maps have biases.
        attention_bias: The same for attention alone; ``"qkv"`` leaves the output projection without. None for
            the general one.
        ffn_bias: The same for the feed-forward op alone; None for the general one.
        head_bias: Whether the output head has a bias, 0 at first.
        parallel: Whether attention and feed-forward op read the same input and are added in one residual;
            ``"two_norms"`` gives each a norm of its own.
        skip_scale: Factor on every skip connection; None for that of the placement.
        branch_scale: Factor on every branch; None for that of the placement.
        final_norm: Whether a norm follows the last layer; None for what the placement has.
        dropout: Rate after each sub-layer, and where the next three say nothing.
        attention_dropout: Rate on the attention weights.
        activation_dropout: Rate behind the activation; 0 where nothing is said.
        embedding_dropout: Rate before the first layer; 0 without an embedding where nothing is said.
        vocab: Number of tokens: gives an embedding and an output head. None: the input is vectors.
        tied: Whether the head is the transposed embedding.
        positions: Number of learned positions.
        segments: Number of segments.
        embedding_norm: Whether a norm acts before the first layer.
        embedding_scale: Factor on token embeddings.
        logit_scale: Factor on the logits.
        logit_softcap: Cap of the logits.
    """

    heads: int = 8
    kv_heads: int | None = None
    head_size: int | None = None
    d_ff: int | None = None
    activation: str = "relu"
    norm: NormKind = "layernorm"
    norm_eps: float = 1e-5
    attention: AttentionKind = "softmax"
    causal: bool = False
    window: int | tuple[int | None, ...] | None = None
    rotary: Rotary | Number | None = None
    qk_norm: QkNorm | None = None
    relative_bias: RelativeBias | None = None
    softcap: Number | None = None
    score_scale: Number | Literal["mup"] | None = None
    init: str | Initialization = "xavier_uniform"
    bias: bool = True
    attention_bias: bool | Literal["qkv"] | None = None
    ffn_bias: bool | None = None
    head_bias: bool = False
    parallel: bool | Literal["two_norms"] = False
    skip_scale: Number | None = None
    branch_scale: Number | None = None
    final_norm: bool | None = None
    dropout: Number = 0
    attention_dropout: Number | None = None
    activation_dropout: Number = 0
    embedding_dropout: Number | None = None
    vocab: int | None = None
    tied: bool = False
    positions: int | None = None
    segments: int | None = None
    embedding_norm: bool = False
    embedding_scale: Number = 1
    logit_scale: Number = 1
    logit_softcap: Number | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.activation not in (*ACTIVATIONS, *GATED):
            raise UnknownNameError("activation", self.activation, (*ACTIVATIONS, *GATED))
        if self.qk_norm not in (None, "head", "all"):
            raise UnknownNameError("qk_norm", self.qk_norm, ("head", "all"))
        if isinstance(self.score_scale, str) and self.score_scale != "mup":
            raise UnknownNameError("score_scale", self.score_scale, ("mup",))
        if isinstance(self.attention_bias, str) and self.attention_bias != "qkv":
            raise UnknownNameError("attention_bias", self.attention_bias, ("qkv",))
        if isinstance(self.parallel, str) and self.parallel != "two_norms":
            raise UnknownNameError("parallel", self.parallel, ("two_norms",))
        if self.window == ():
            raise InputError("window=() has no entry: give a number, None, or one of them for each layer")
        if self.attention == "uniform":
            self._without_scores()
        if self.vocab is None:
            self._without_tokens()
        else:
            positive_integer("vocab", self.vocab)

    def _check_types(self) -> None:
        """A word such as "no" would count as true, and a number as a word."""
        for option in fields(self):
            value, kind = getattr(self, option.name), str(option.type)
            named = isinstance(value, str) and "Literal" in kind  # which words there are is checked below
            absent = value is None and "None" in kind
            if "bool" in kind and not (isinstance(value, bool) or named or absent):
                raise InputError(f"{option.name}={value!r} is neither True nor False: give one of them")
        if not isinstance(self.relative_bias, RelativeBias | None):
            raise InputError(
                f"relative_bias={self.relative_bias!r} is no RelativeBias: give one, for example "
                'RelativeBias("attention.relative_bias", Draw(1)), or None'
            )

    def _without_scores(self) -> None:
        for name in ("rotary", "qk_norm", "relative_bias", "softcap", "score_scale"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name}={getattr(self, name)!r} acts on scores, and attention='uniform' has none: leave "
                    "it out, or use 'softmax'"
                )

    def _without_tokens(self) -> None:
        for option in fields(self):
            needs = ("tied", "positions", "segments", "logit_scale", "logit_softcap", "head_bias")
            value = getattr(self, option.name)
            if option.name in needs and value != option.default:
                raise InputError(
                    f"{option.name}={value!r} needs an embedding or a head: give vocab=, or leave it out"
                )


OPTIONS = tuple(option.name for option in fields(Options))


def options_from(given: Mapping[str, Any], accepted: tuple[str, ...] = OPTIONS, **defaults: Any) -> Options:
    """Check the names of keyword options and collect them.

    Args:
        given: Options by name.
        accepted: Names that the caller takes.
        defaults: Values of options that are not given.

    Returns:
        The options.

    Raises:
        UnknownNameError: If a name is not among those accepted.

    Example:
        >>> options_from({"heads": 4}).heads
        4
    """
    for option in given:
        if option not in accepted:
            raise UnknownNameError("option", option, accepted)
    return Options(**{**defaults, **given})
