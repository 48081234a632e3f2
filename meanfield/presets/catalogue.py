"""The list of presets: update equation, where it comes from, and who uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from meanfield.ops import Transformer
from meanfield.presets import norms, paper, profiled, scaled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class PresetRecord:
    """One line of the list.

    Args:
        preset: The function.
        equation: The update; N is LayerNorm or RMSNorm, A attention, F attention and feed-forward op in turn,
            l the layer, L the number of layers.
        source: bibkeys.
        status: ``"checked"`` where we read it in the authors' code, or in that of the library that uses it;
            ``"unchecked"`` where it rests on the paper's text or on a secondary source.
        hugging_face: Models of the transformers library that have it.
    """

    preset: Callable[..., Transformer]
    equation: str
    source: str
    status: Literal["checked", "unchecked"]
    hugging_face: str = ""


RECORDS = (
    PresetRecord(norms.post_ln, "x <- N(x + F(x))", "vaswani2017", "checked", "BERT, RoBERTa, BART, XLM"),
    PresetRecord(
        norms.pre_ln,
        "x <- x + F(N(x)); out = N(x)",
        "xiong2020",
        "checked",
        "GPT2, Llama, Mistral, Qwen2, OPT, T5, ViT",
    ),
    PresetRecord(
        norms.sandwich_ln,
        "x <- x + N(F(N(x))); out = N(x)",
        "ding2021, kim2025",
        "checked",
        "Gemma2, Gemma3, Glm4",
    ),
    PresetRecord(
        norms.branch_norm,
        "x <- x + N(F(x)); out = N(x)",
        "olmo2024, liu2022swin",
        "checked",
        "Olmo2, Olmo3, Exaone4, Swinv2",
    ),
    PresetRecord(
        norms.parallel,
        "x <- x + A(N(x)) + F(N(x)); out = N(x)",
        "wang2021gptj, black2022",
        "checked",
        "GPTJ, Phi, Cohere, Falcon; two norms: GPTNeoX",
    ),
    PresetRecord(
        norms.qk_norm,
        "scores N(q).N(k)/sqrt(d_k) in Pre-LN",
        "henry2020, dehghani2023",
        "checked",
        "Qwen3, Gemma3; all heads together: Olmo2",
    ),
    PresetRecord(
        norms.hybrid_norm,
        "y = x + A(x), N on q, k, v; x <- N(y) + F(N(y)); out = N(x)",
        "zhuo2025",
        "checked",
    ),
    PresetRecord(norms.residual, "x <- N(x + F(x)); r <- r + F(x); out = x + N(r)", "xie2023", "checked"),
    PresetRecord(norms.layernorm_scaling, "x <- x + F(N(x)/sqrt(l)); out = N(x)", "sun2025", "checked"),
    PresetRecord(
        norms.mix_ln,
        "x <- N(x + F(x)) for l <= L/4, x + F(N(x)) after; out = N(x)",
        "li2024",
        "unchecked",
    ),
    PresetRecord(norms.b2t, "x' = N(x + A(x)); x <- N(x + x' + F(x'))", "takase2023", "unchecked"),
    PresetRecord(
        norms.normformer,
        "x <- x + N(A(N(x))), a factor on each head; x <- x + down(N(act(up(N(x))))); out = N(x)",
        "shleifer2021",
        "unchecked",
    ),
    PresetRecord(scaled.deepnorm, "x <- N(alpha x + F(x)), alpha = (2L)^(1/4)", "wang2022deepnet", "checked"),
    PresetRecord(
        profiled.admin,
        "x <- N(omega_k x + F_k(x)), omega_k^2 = 1 + sum_{j<k} Var F_j",
        "liu2020",
        "checked",
    ),
    PresetRecord(
        scaled.sub_ln,
        "x <- x + F(N(x)), one more N before W_o and before down; out = N(x)",
        "wang2022magneto",
        "checked",
        "Kosmos2",
    ),
    PresetRecord(scaled.rezero, "x <- x + a F(x), a = 0", "bachlechner2020", "checked"),
    PresetRecord(scaled.skipinit, "x <- x + a F(x), a = 0", "de2020", "checked"),
    PresetRecord(
        scaled.layer_scale,
        "x <- x + diag(lambda) F(N(x)), lambda = .1, 1e-5, 1e-6 (L <= 18, <= 24, more); out = N(x)",
        "touvron2021",
        "checked",
        "Dinov2, BEiT",
    ),
    PresetRecord(scaled.t_fixup, "x <- x + F(x)", "huang2020", "checked"),
    PresetRecord(
        scaled.residual_multiplier,
        "x <- x + m F(N(x)), m = 1.4/sqrt(L); out = N(x)",
        "hu2024",
        "checked",
        "MiniCPM3; another m: Granite",
    ),
    PresetRecord(
        scaled.deepscale,
        "x <- lambda x + beta F(N(x)), lambda^2 + beta^2 = 1; out = N(x)",
        "kedia2024",
        "checked",
    ),
    PresetRecord(scaled.keel, "x <- N(alpha x + F(N(x))), alpha = 2L", "chen2026", "unchecked"),
    PresetRecord(
        paper.paper_post_ln,
        "x <- N(x + F(x)), uniform attention without W_o, d_ff = d, every weight 1/d",
        "xiong2020",
        "checked",
    ),
    PresetRecord(
        paper.paper_pre_ln,
        "x <- x + F(N(x)), the same setting; out = N(x)",
        "xiong2020",
        "checked",
    ),
)

PRESETS: dict[str, Callable[..., Transformer]] = {record.preset.__name__: record.preset for record in RECORDS}


def presets() -> pd.DataFrame:
    """List the presets with their update equations and citations.

    Returns:
        One row per preset: name, equation, source (keys of ``docs/references.bib``), status, hugging_face.

    Source:
        The column ``source``.

    Example:
        >>> presets().set_index("name").loc["branch_norm", "equation"]
        'x <- x + N(F(x)); out = N(x)'
    """
    import pandas as pd  # half a second: not at import

    rows = [
        (record.preset.__name__, record.equation, record.source, record.status, record.hugging_face)
        for record in RECORDS
    ]
    return pd.DataFrame(rows, columns=["name", "equation", "source", "status", "hugging_face"])
