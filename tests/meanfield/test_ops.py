from dataclasses import replace
from fractions import Fraction

import pytest

import meanfield as mf
from meanfield.errors import InputError, UnknownNameError
from meanfield.ops import Attention, Draw, FeedForward, Linear, Norm, Repeat, Residual, Sequential, walk


def _linear(width: int = 4) -> Linear:
    return Linear(width, width, Draw(Fraction(1, width)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Draw(-1), ["variance=-1", "negative", "at least 0"]),
        (lambda: Draw(float("nan")), ["variance=nan", "finite"]),
        (lambda: Draw(float("inf")), ["variance=inf", "finite"]),
        (lambda: Draw(1, law="cauchy"), ["law", "'cauchy'", "normal", "uniform"]),  # type: ignore[arg-type]  # the bad value is the test
        (lambda: Norm("n", 4, eps=-1e-5), ["eps=-1e-05", "negative"]),
        (lambda: Norm("n", 4, kind="batchnorm"), ["'batchnorm'", "layernorm"]),  # type: ignore[arg-type]  # as above
        (lambda: Norm("n", 0), ["width=0", "at least 1"]),
        (lambda: Linear(4, 0, Draw(1)), ["d_out=0", "at least 1"]),
        (lambda: Repeat(Sequential(()), 0), ["depth=0", "at least 1"]),
        (lambda: FeedForward("f", _linear(4), "relu", _linear(8)), ["4", "8", "equal"]),
        (lambda: FeedForward("f", _linear(), "swish", _linear()), ["'swish'", "gelu", "relu"]),
        (lambda: Attention("a", "softmax", 1, 1, _linear()), ["query", "key"]),
        (
            lambda: Attention("a", "uniform", 1, 1, _linear(), query=_linear()),
            ["uniform", "query", "softmax"],
        ),
        (lambda: Attention("a", "uniform", 4, 3, _linear()), ["heads=4", "kv_heads=3", "divisor"]),
        (lambda: Residual("r", _linear(), skip_scale=float("inf")), ["skip_scale=inf", "finite"]),
        (lambda: mf.post_ln(width=10, depth=1, heads=4), ["width=10", "heads=4", "divisor", "2, 5"]),
        (lambda: mf.post_ln(width=8, depth=0), ["depth=0", "at least 1"]),
        (lambda: mf.pre_ln(width=8, depth=2.5), ["depth=2.5", "integer"]),  # type: ignore[arg-type]  # as above
        (lambda: mf.pre_ln(width=8, depth=True), ["depth=True", "integer"]),
        (lambda: mf.pre_ln(width=8, depth=1, init="xavier"), ["'xavier'", "xavier_normal", "did you mean"]),
        (lambda: mf.pre_ln(width=8, depth=1, activation="Relu"), ["'Relu'", "did you mean 'relu'"]),
        (lambda: mf.pre_ln(width=8, depth=1, heads=4, kv_heads=3), ["heads=4", "kv_heads=3"]),
        (lambda: mf.paper_encoder_decoder(placement="mid_ln"), ["'mid_ln'", "post_ln", "pre_ln"]),
        (lambda: mf.paper_encoder_decoder(causal=True), ["option 'causal'", "accepted are activation"]),
        (lambda: mf.paper_encoder_decoder(vocab=None), ["vocab=None", "integer"]),  # type: ignore[arg-type]  # as above
        (lambda: mf.post_ln(width=8, depth=1, head=4), ["option 'head'", "did you mean 'heads'"]),
        (lambda: mf.pre_ln(width=8, depth=1, droput=0.1), ["option 'droput'", "did you mean 'dropout'"]),
        (lambda: mf.pre_ln(width=8, depth=1, norm_eps="1e-5"), ["eps='1e-5'", "real number"]),
        (
            lambda: mf.pre_ln(width=8, depth=1, vocab=9, embedding_scale=float("nan")),
            ["embedding_scale=nan", "real number"],
        ),
    ],
)
def test_bad_values_are_named_in_one_line(build, words) -> None:  # type: ignore[no-untyped-def]  # lambdas of many types
    with pytest.raises(InputError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_names_have_a_type_of_their_own() -> None:
    with pytest.raises(UnknownNameError):
        mf.post_ln(width=8, depth=1, init="nope")


def test_an_architecture_is_a_value() -> None:
    one, two = (mf.pre_ln(width=16, depth=3) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != mf.pre_ln(width=16, depth=4)
    assert replace(one, name="other") != one


def test_ten_thousand_layers_are_one_block() -> None:
    arch = mf.paper_post_ln(width=4, depth=10_000)
    assert len(repr(arch)) < 3_000
    assert arch.depth == 10_000
    assert sum(1 for _ in arch.blocks()) == 10_000
    assert [layer for layer, _ in arch.blocks()][:2] == [1, 2]


@pytest.mark.parametrize("preset", [mf.post_ln, mf.pre_ln])
def test_a_layer_holds_every_sublayer(preset) -> None:  # type: ignore[no-untyped-def]  # presets take keywords
    arch = preset(width=16, depth=1, heads=2, kv_heads=1)
    kinds = [type(op).__name__ for op in walk(arch.layers[0])]
    assert kinds.count("Linear") == 6
    assert kinds.count("Norm") == 2
    assert kinds.count("Residual") == 2
    assert arch.attention.value.d_out == 8


def test_the_paper_setting_has_no_other_parameters() -> None:
    arch = mf.paper_pre_ln(width=16, depth=1)
    assert arch.attention.output is None
    assert arch.attention.value.bias is None
    assert arch.feed_forward.up.d_out == 16
    assert all(op.eps == 0 for op in walk(arch.layers[0]) if isinstance(op, Norm))


def test_the_decoder_attends_to_the_encoder() -> None:
    arch = mf.paper_encoder_decoder(width=16, depth=2, heads=2, d_ff=32, vocab=50)
    attentions = [op for op in walk(arch.decoder.layers[0]) if isinstance(op, Attention)]
    assert [(a.name, a.causal, a.cross) for a in attentions] == [
        ("attention", True, False),
        ("cross_attention", False, True),
    ]
    assert arch.encoder.head is None
    assert arch.decoder.head is not None
