"""Hidden states of random models of `transformers` against predictions from their configuration files.

What each attention and feed-forward branch adds has the predicted second moment: placement, norms and eps,
activation, scale of scores and embeddings, head sizes, masks and variances all have a part in it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import meanfield as mf
from meanfield.huggingface import architecture
from tests.meanfield.test_huggingface_config import CASES, Family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.statistical, pytest.mark.slow]  # nine seconds a family

WIDTH, TOKENS, SEEDS = 128, 6, 40
SIZES = {
    "hidden_size": WIDTH,
    "n_embd": WIDTH,
    "d_model": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "intermediate_size": 256,
    "ffn_dim": 256,
    "d_ff": 256,
    "head_dim": 48,
    "d_kv": 48,
    "vocab_size": 2_000,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
}
Points: TypeAlias = Mapping[tuple[int, str], npt.NDArray[np.float64]]


def _configuration(family: Family) -> Any:
    """The small configuration with greater sizes; variances at which scores and branches are of order one."""
    known = getattr(transformers, family.config)().to_dict()
    strong = {key: 0.1 for key in ("initializer_range", "init_std") if key in known}
    sizes = {key: SIZES.get(key, value) for key, value in family.sizes.items()}
    special = {key: 1 for key in ("bos_token_id", "eos_token_id") if known.get(key) is not None}
    return getattr(transformers, family.config)(**{**sizes, **special, **strong})


def _measured(family: Family, config: Any) -> Points:
    """Second moment per coordinate of every branch's output, one value per seed."""
    name = "T5EncoderModel" if config.model_type == "t5" else family.model
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = getattr(transformers, name)(config, **family.arguments).eval()
        for path, module in model.named_modules():
            match = next(
                (m.expand(ours) for p, ours in family.names.items() if (m := re.search(p, path))), ""
            )
            branch = {"attention.o": "attention", "ffn.down": "ffn"}.get(match.removeprefix("encoder."))
            if branch is None or not list(module.parameters(recurse=False)):
                continue
            layer = 1 + int(re.search(r"\.(\d+)\.", f".{path}")[1])  # type: ignore[index]  # such a path has a number

            def record(_: Any, __: Any, output: Any, key: tuple[int, str] = (layer, branch)) -> None:
                found[key].append(float(output.double().square().mean()))

            module.register_forward_hook(record)
        with torch.no_grad():
            if config.model_type == "vit":
                hidden = torch.randn(1, TOKENS, WIDTH)
                for block in model.layers:
                    hidden = block(hidden)
            else:
                model(torch.randint(5, config.vocab_size, (1, TOKENS)))
    return {key: np.array(values) for key, values in found.items()}


def agrees(sample: npt.NDArray[np.float64], predicted: float, layer: int) -> bool:
    """Within 4 standard errors and (1 + 2 layers)/d for finite width, as in docs/finite_width.md."""
    error = sample.std(ddof=1) / np.sqrt(sample.size)
    return bool(abs(sample.mean() - predicted) < 4 * error + predicted * (1 + 2 * layer) / WIDTH)


@pytest.mark.parametrize("case", CASES)
def test_branches_have_the_predicted_second_moment(case: str) -> None:
    family = CASES[case]
    config = _configuration(family)
    measured = _measured(family, config)
    arch = architecture(config.to_dict(), encoder_only=config.model_type == "t5")
    points = mf.predict(arch, tokens=TOKENS).activations.set_index(["layer", "module"]).q
    assert set(measured) == {(layer, branch) for layer in (1, 2) for branch in ("attention", "ffn")}
    for (layer, branch), sample in measured.items():
        assert sample.size == SEEDS
        predicted = float(points[layer, branch])
        assert agrees(sample, predicted, layer), (layer, branch, sample.mean(), predicted)
        assert not agrees(sample, 1.3 * predicted, layer), "control: 30 % off"
