"""Every preset as a value: what its equation says, in ops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import meanfield as mf
from meanfield.errors import InputError, UnknownNameError
from meanfield.moments.forward import forward
from meanfield.moments.state import Exchangeable
from meanfield.ops import (
    Attention,
    DualResidual,
    EncoderDecoder,
    FeedForward,
    Fork,
    Gain,
    Linear,
    Merge,
    Norm,
    Op,
    Parallel,
    RelativeBias,
    Repeat,
    Residual,
    Scale,
    Sequential,
    walk,
)
from meanfield.presets import OPTIONS, PLACEMENTS, PRESETS
from tests.strategies import stacks

DOCS = Path(__file__).parents[2] / "docs"
PAPER = ("paper_post_ln", "paper_pre_ln")


def _shown(op: Op) -> str:
    """An op as an equation: names of leaves, N for norms, factors where they are not 1."""
    match op:
        case Sequential(ops=ops):
            return " ".join(map(_shown, ops))
        case Parallel(branches=branches):
            return " | ".join(map(_shown, branches))
        case Residual(branch=branch, skip_scale=skip, branch_scale=scale):
            factors = ["" if factor == 1 else f"{float(factor):.3g}*" for factor in (skip, scale)]
            return f"({factors[0]}x + {factors[1]}[{_shown(branch)}])"
        case DualResidual(branch=branch):
            return f"N(x + {_shown(branch)}), r + {_shown(branch)}"
    return _leaf(op)


def _leaf(op: Op) -> str:
    match op:
        case Norm(width=16):
            return "N"
        case Norm(width=width):
            return f"N{width}"
        case Gain(width=width, value=value):
            return f"g{width}={value}"
        case Scale(factor=factor):
            return f"{float(factor):.3g}*"
        case Attention():
            marks = [part for part in (op.query_norm, op.key_norm, op.value_norm) if part is not None]
            inner = "" if op.inner is None else f"<{_shown(op.inner)}>"
            return "A" + "'" * len(marks) + inner
        case FeedForward():
            return "F" if op.inner is None else f"F<{_shown(op.inner)}>"
    return type(op).__name__


BLOCKS = {
    "post_ln": "(x + [A]) N (x + [F]) N",
    "pre_ln": "(x + [N A]) (x + [N F])",
    "sandwich_ln": "(x + [N A N]) (x + [N F N])",
    "branch_norm": "(x + [A N]) (x + [F N])",
    "parallel": "(x + [N A | F])",
    "qk_norm": "(x + [N A'']) (x + [N F])",
    "hybrid_norm": "(x + [A''']) N (x + [F])",
    "residual": "N(x + A), r + A N(x + F), r + F",
    "layernorm_scaling": "(x + [N 0.5* A]) (x + [N 0.5* F])",
    "b2t": "(x + [(x + [A]) N (x + [F])]) N",
    "normformer": "(x + [N A<g2=1> N]) (x + [N F<N64>])",
    "deepnorm": "(1.68*x + [A]) N (1.68*x + [F]) N",
    "sub_ln": "(x + [N A<N>]) (x + [N F<N64>])",
    "rezero": "(x + [A g1=0]) (x + [F g1=0])",
    "skipinit": "(x + [A g1=0]) (x + [F g1=0])",
    "layer_scale": "(x + [N A g16=0.1]) (x + [N F g16=0.1])",
    "t_fixup": "(x + [A]) (x + [F])",
    "residual_multiplier": "(x + 0.7*[N A]) (x + 0.7*[N F])",
    "deepscale": "(0.935*x + 0.354*[N A]) (0.935*x + 0.354*[N F])",
    "keel": "(8*x + [N A]) N (8*x + [N F]) N",
    "mix_ln": "(x + [N A]) (x + [N F])",
}
WITHOUT_LAST_NORM = {"post_ln", "b2t", "deepnorm", "admin", "rezero", "skipinit", "t_fixup", "keel"}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_last_of_four_layers_is_the_equation(name: str) -> None:
    arch = PRESETS[name](width=16, depth=4, heads=2)
    (*_, (_, block)) = arch.blocks()
    assert _shown(block) == BLOCKS[name]
    assert (arch.final_norm is None) == (name in WITHOUT_LAST_NORM)


def test_every_preset_has_an_equation_here() -> None:
    assert set(BLOCKS) | {"admin", *PAPER} == set(PRESETS)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(("width", "depth"), [(8, 1), (16, 5), (48, 30)])
def test_every_preset_is_a_value_at_several_sizes(name: str, width: int, depth: int) -> None:
    one, two = (PRESETS[name](width=width, depth=depth) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one.name == name
    assert (one.width, one.depth) == (width, depth)
    assert repr(one).startswith("Transformer(name=")
    assert len(repr(PRESETS[name](width=8, depth=1))) < 8_000


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(PAPER)))
def test_every_preset_takes_every_option_of_a_modern_model(name: str) -> None:
    arch = PRESETS[name](
        width=16,
        depth=3,
        heads=4,
        kv_heads=2,
        head_size=6,
        d_ff=24,
        activation="swiglu",
        norm="rmsnorm",
        attention_bias="qkv",
        ffn_bias=False,
        dropout=0.1,
        vocab=50,
        tied=True,
        positions=12,
        embedding_norm=True,
        qk_norm="head",
    )
    attention = arch.attention
    assert (attention.head_size, attention.value.d_out, attention.query_norm) != (6, 12, None)
    assert attention.value.bias is not None
    assert attention.output is not None
    assert attention.output.bias is None
    assert arch.feed_forward.gate is not None
    assert arch.feed_forward.up.bias is None
    assert arch.head is not None
    assert arch.head.tied


def test_mix_ln_changes_after_a_quarter() -> None:
    blocks = [_shown(run.block) for run in mf.mix_ln(width=16, depth=12, heads=2).layers]
    assert blocks == [BLOCKS["post_ln"], BLOCKS["pre_ln"]]
    assert [run.times for run in mf.mix_ln(width=16, depth=7).layers] == [1, 6]
    assert [run.times for run in mf.mix_ln(width=16, depth=3).layers] == [3]


def test_two_streams_begin_and_end() -> None:
    arch = mf.residual(width=16, depth=2)
    assert isinstance(arch.entry, Fork)
    assert isinstance(arch.final_norm, Merge)
    whole = mf.residual(width=16, depth=2, vocab=9, embedding_norm=True, dropout=0.1)
    assert isinstance(whole.entry, Sequential)
    assert [type(op).__name__ for op in whole.entry.ops] == ["Norm", "Dropout", "Fork"]


def test_layer_scale_starts_lower_in_deeper_models() -> None:
    values = {
        depth: next(
            op.value for op in walk(mf.layer_scale(width=8, depth=depth).layers[0]) if isinstance(op, Gain)
        )
        for depth in (12, 18, 24, 36)
    }
    assert values == {12: 0.1, 18: 0.1, 24: 1e-5, 36: 1e-6}


@pytest.mark.parametrize("tokens", [1, 8])
def test_admin_scales_by_the_sum_of_what_branches_add(tokens: int) -> None:
    """Each omega against the definition, with branch variances read off the finished architecture."""
    arch = mf.admin(width=32, depth=3, tokens=tokens, heads=2, norm_eps=0.0, init="lecun_normal")
    layout = Exchangeable(tokens, 1)
    kernel, total = np.array([1.0, 0.0, 0.0]), 1.0
    for _, block in arch.blocks():
        for op in block.ops:
            if isinstance(op, Residual):
                assert float(op.skip_scale) ** 2 == pytest.approx(total, rel=1e-12)
                total += float(forward(op.branch, kernel, layout).after[0])
            kernel = forward(op, kernel, layout).after
    assert total > 2


def test_gates_parallel_norms_and_scales() -> None:
    for name, gate in (("glu", "sigmoid"), ("geglu", "gelu"), ("reglu", "relu"), ("swiglu", "silu")):
        op = mf.pre_ln(width=8, depth=1, activation=name).feed_forward
        assert (op.activation, op.gate) == (gate, op.up)
    assert mf.pre_ln(width=8, depth=1).feed_forward.gate is None
    two = mf.parallel(width=16, depth=1, heads=2, parallel="two_norms")
    assert _shown(two.layers[0].block) == "(x + [N A | N F])"
    scaled = mf.pre_ln(width=16, depth=1, heads=2, skip_scale=0.5, branch_scale=2)
    assert _shown(scaled.layers[0].block) == "(0.5*x + 2*[N A]) (0.5*x + 2*[N F])"
    assert mf.pre_ln(width=16, depth=1, heads=2, score_scale="mup").attention.score_scale == 1 / 8
    assert mf.pre_ln(width=16, depth=1, heads=2, score_scale=1).attention.score_scale == 1


def test_dropout_stands_where_vaswani_has_it() -> None:
    arch = mf.post_ln(width=16, depth=1, vocab=9, dropout=0.1)
    assert _shown(arch.layers[0].block) == "(x + [A Dropout]) N (x + [F Dropout]) N"
    assert arch.attention.dropout == 0.1
    assert type(arch.entry).__name__ == "Dropout"
    own = mf.post_ln(width=16, depth=1, dropout=0.1, attention_dropout=0, activation_dropout=0.2)
    assert own.attention.dropout == 0
    assert own.entry is None
    assert type(own.feed_forward.inner).__name__ == "Dropout"


def test_layers_may_differ_in_window_and_shared_table() -> None:
    gemma = mf.sandwich_ln(width=16, depth=6, causal=True, window=(4, None), rotary=1)
    windows = [op.window for run in gemma.layers for op in walk(run) if isinstance(op, Attention)]
    assert windows == [4, None] * 3
    table = RelativeBias("attention.relative_bias", mf.Draw(1), shared=True)
    t5 = mf.pre_ln(width=16, depth=6, relative_bias=table)
    assert [run.times for run in t5.layers] == [1, 5]
    first, later = (next(op for op in walk(run) if isinstance(op, Attention)) for run in t5.layers)
    assert first.relative_bias is not None
    assert not first.relative_bias.shared
    assert later.relative_bias == table


@pytest.mark.parametrize("placement", sorted(PLACEMENTS))
def test_every_placement_makes_an_encoder_decoder(placement: str) -> None:
    arch = mf.encoder_decoder(placement=placement, width=16, depth=3, decoder_depth=2, heads=2, vocab=20)
    assert isinstance(arch, EncoderDecoder)
    assert (arch.encoder.depth, arch.decoder.depth) == (3, 2)
    crossing = [op for op in walk(arch.decoder.layers[0]) if isinstance(op, Attention) and op.cross]
    assert len(crossing) == 1
    assert not any(op.cross for op in walk(arch.encoder.layers[0]) if isinstance(op, Attention))
    assert arch.decoder.attention.causal
    assert arch.encoder.head is None


def test_stacks_of_a_pair_have_constants_of_their_own() -> None:
    arch = mf.encoder_decoder(placement="deepnorm", width=16, depth=6, decoder_depth=27, heads=2, vocab=20)
    skips = [
        {float(op.skip_scale) for op in walk(stack.layers[0]) if isinstance(op, Residual)}
        for stack in (arch.encoder, arch.decoder)
    ]
    assert [max(found) for found in skips] == pytest.approx([0.81 * (6**4 * 27) ** (1 / 16), 3.0])
    assert [len(found) for found in skips] == [1, 1]
    alone = mf.deepnorm(width=16, depth=6, heads=2)
    assert arch.encoder.init == alone.init == "deepnorm"
    assert arch.encoder.feed_forward.up.weight != alone.feed_forward.up.weight


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: mf.deepnorm(width=8, depth=1, alpha=2), ["option 'alpha'", "accepted are activation"]),
        (lambda: mf.admin(width=8, depth=1, skip_scale=2), ["option 'skip_scale'", "accepted are"]),
        (lambda: mf.residual(width=8, depth=1, skip_scale=2), ["residual", "no residual sum", "leave out"]),
        (lambda: mf.residual(width=8, depth=1, final_norm=False), ["ends in a norm", "leave out"]),
        (lambda: mf.post_ln(width=8, depth=1, parallel="two_norms"), ["two_norms", "post_ln", "only pre_ln"]),
        (lambda: mf.post_ln(width=8, depth=1, parallel="norms"), ["unknown parallel 'norms'", "two_norms"]),
        (lambda: mf.post_ln(width=8, depth=1, qk_norm="heads"), ["unknown qk_norm", "did you mean 'head'"]),
        (lambda: mf.post_ln(width=8, depth=1, activation="swigul"), ["did you mean 'swiglu'"]),
        (lambda: mf.post_ln(width=8, depth=1, score_scale="mu"), ["unknown score_scale", "mup"]),
        (lambda: mf.post_ln(width=8, depth=1, attention_bias="kv"), ["unknown attention_bias", "qkv"]),
        (lambda: mf.post_ln(width=8, depth=1, window=()), ["window=()", "no entry"]),
        (lambda: mf.post_ln(width=8, depth=1, window=0), ["window=0", "at least 1"]),
        (lambda: mf.post_ln(width=8, depth=1, tied=True), ["tied=True", "vocab="]),
        (lambda: mf.post_ln(width=8, depth=1, positions=9), ["positions=9", "vocab="]),
        (lambda: mf.post_ln(width=8, depth=1, attention="uniform", rotary=1), ["rotary=1", "'softmax'"]),
        (lambda: mf.post_ln(width=8, depth=1, dropout=1), ["dropout=1", "outside [0, 1)"]),
        (lambda: mf.post_ln(width=8, depth=1, head_size=0), ["head_size=0", "at least 1"]),
        (lambda: mf.deepscale(width=8, depth=1, share=2), ["share=2", "outside [0, 1]"]),
        (lambda: mf.encoder_decoder(width=8, depth=1, vocab=9, causal=True), ["option 'causal'"]),
        (lambda: mf.encoder_decoder(width=8, depth=1, vocab=9, placement="admin"), ["placement 'admin'"]),
        (lambda: mf.admin(width=8, depth=1, tokens=0), ["tokens=0", "at least 1"]),
        (lambda: mf.rezero(width=8, depth=1, value=float("nan")), ["gain=nan", "real number"]),
        (lambda: mf.residual_multiplier(width=8, depth=0), ["depth=0", "at least 1"]),
        (lambda: mf.deepscale(width=8, depth=0), ["depth=0", "at least 1"]),
    ],
)
def test_bad_values_are_named_in_one_line(build: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@settings(max_examples=60)
@given(arch=stacks())
def test_any_choice_of_options_is_a_value_with_one_name_per_module(arch: mf.Transformer) -> None:
    assert hash(arch) == hash(arch)
    assert all(isinstance(run, Repeat) for run in arch.layers)
    for _, block in arch.blocks():
        parts = (op for op in walk(block) if not isinstance(op, Linear))  # named by what they are for
        names = [name for op in parts if (name := getattr(op, "name", None)) is not None]
        assert len(names) == len(set(names))


def test_the_list_names_every_preset_once() -> None:
    table = mf.presets()
    assert list(table["name"]) == list(PRESETS)
    assert table.set_index("name").loc["keel", "status"] == "unchecked"


def test_every_citation_of_the_lists_is_in_the_bibliography() -> None:
    known = (DOCS / "references.bib").read_text()
    cited = [
        key
        for table in (mf.presets(), mf.initializations())
        for row in table["source"]
        for key in row.split(", ")
    ]
    cited += [placement.source for placement in PLACEMENTS.values()]
    assert {key for key in cited if f"{{{key}," not in known} == set()


def _documented(heading: str) -> list[list[str]]:
    text = (DOCS / "presets.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_page_shows_the_lists() -> None:
    assert _documented("Presets") == mf.presets().to_numpy().tolist()
    assert _documented("Initialisations") == mf.initializations().to_numpy().tolist()


def test_the_page_explains_every_option() -> None:
    described = {row[0] for row in _documented("Options")}
    assert described == set(OPTIONS)


def test_unknown_names_have_a_type_of_their_own() -> None:
    with pytest.raises(UnknownNameError):
        mf.encoder_decoder(width=8, depth=1, vocab=9, placement="nope")
