"""The list of schemes: variances, where they come from, and who uses them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SchemeRecord:
    """One line of the list.

    Args:
        name: The name that ``init=`` takes.
        variances: Variances of the entries, in symbols: d the width, h the heads, d_k the head size, L the
            depth; biases are 0 where nothing is said.
        source: bibkeys.
        status: ``"checked"`` where we read it in the code of the authors or of the library; ``"unchecked"``
            where it rests on the paper's text or on a secondary source.
        used_by: Libraries and models.
    """

    name: str
    variances: str
    source: str
    status: Literal["checked", "unchecked"]
    used_by: str


RECORDS = (
    SchemeRecord("xavier_normal", "2/(n_in + n_out)", "glorot2010", "checked", "xiong2020"),
    SchemeRecord("xavier_uniform", "2/(n_in + n_out), uniform", "glorot2010", "checked", "tensor2tensor"),
    SchemeRecord("lecun_normal", "1/n_in", "lecun1998", "checked", "neural-tangents"),
    SchemeRecord(
        "torch",
        "q, k, v 1/(2d); o 1/(3d); up 1/(3d); down 1/(3 d_ff); FFN biases 1/(3 n_in); embedding 1; uniform",
        "paszke2019",
        "checked",
        "torch.nn.TransformerEncoderLayer",
    ),
    SchemeRecord(
        "torch_transformer",
        "q, k, v 1/(2d); o 1/d; up, down 2/(d + d_ff); FFN biases 1/(3 n_in); embedding 1; uniform",
        "paszke2019",
        "checked",
        "torch.nn.Transformer",
    ),
    SchemeRecord(
        "fairseq",
        "q, k, v 1/(2d), their biases 1/(3d); o 1/d; up 1/(3d); down 1/(3 d_ff); FFN biases 1/(3 n_in); "
        "embedding, head 1/d; uniform",
        "ott2019",
        "checked",
        "fairseq",
    ),
    SchemeRecord("normal_0.02", "0.02^2", "radford2018", "checked", "Llama, OPT, Qwen2, ViT"),
    SchemeRecord("bert", "0.02^2", "devlin2019", "checked", "BERT, RoBERTa, ELECTRA"),
    SchemeRecord("gpt2", "0.02^2; o, down 0.02^2/(2L)", "radford2019", "checked", "GPT2"),
    SchemeRecord(
        "t5",
        "q 1/(d d_k); k, v, up, gate 1/d; o 1/(h d_k); down 1/d_ff; embedding, head 1; no score scale",
        "raffel2020",
        "checked",
        "T5, UMT5, LongT5",
    ),
    SchemeRecord("small_init", "2/(5d)", "nguyen2019", "checked", "gpt-neox (small_init)"),
    SchemeRecord("gpt_neox", "2/(5d); o, down 4/(L^2 d)", "black2022", "checked", "gpt-neox"),
    SchemeRecord("mup", "1/n_in; head 1/d^2; embedding 1", "yang2022", "unchecked", "mup"),
    SchemeRecord(
        "deepnorm",
        "2/(n_in + n_out); v, o, up, down times beta^2",
        "wang2022deepnet",
        "checked",
        "torchscale",
    ),
    SchemeRecord(
        "sub_ln",
        "2/(n_in + n_out); v, o, up, down times ln 2L (a pair has other gains)",
        "wang2022magneto",
        "checked",
        "torchscale",
    ),
    SchemeRecord(
        "t_fixup",
        "2/(n_in + n_out); v, o, up, down times 0.67^2 L^(-1/2), in a decoder (9L)^(-1/2); "
        "embedding (9L)^(-1/2)/d; uniform",
        "huang2020",
        "checked",
        "T-Fixup",
    ),
)


def initializations() -> pd.DataFrame:
    """List the initialisation schemes with their variances and citations.

    Returns:
        One row per scheme: name, variances, source (keys of ``docs/references.bib``), status, used_by.

    Source:
        The column ``source``.

    Example:
        >>> initializations().set_index("name").loc["gpt2", "variances"]
        '0.02^2; o, down 0.02^2/(2L)'
    """
    import pandas as pd  # half a second: not at import

    return pd.DataFrame([asdict(record) for record in RECORDS])
