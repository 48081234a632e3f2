"""What `predict` and everything that builds a model refuse to take for an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import empirical
import meanfield as mf
from meanfield.checks import check_architecture
from meanfield.errors import InputError, UnknownNameError


class Long:
    def __repr__(self) -> str:
        return "Long(\n  more\n)"


@pytest.mark.parametrize(("arch", "shown"), [("post_ln", "'post_ln'"), (None, "None"), (Long(), r"Long\(")])
def test_what_is_no_architecture_is_refused_in_one_line(tmp_path: Path, arch: Any, shown: str) -> None:
    match = rf"^arch={shown} is no architecture: give a Transformer, for example mf.pre_ln\(.*\)$"
    with pytest.raises(InputError, match=match):
        mf.predict(arch, tokens=4)
    for measure in (empirical.build, empirical.ensemble, empirical.token_norms):
        with pytest.raises(InputError, match=match):
            measure(arch)
    with pytest.raises(InputError, match=match):
        empirical.measured(arch, folder=tmp_path)


def test_layernorm_of_one_coordinate_is_refused() -> None:
    for preset in (mf.paper_post_ln, mf.paper_pre_ln):
        with pytest.raises(InputError, match="width=1 is too small: LayerNorm needs at least 2 coordinates"):
            mf.predict(preset(width=1, depth=1), tokens=2)
        assert check_architecture(preset(width=2, depth=1)).name == preset.__name__
    with pytest.raises(InputError, match="width=1"):
        check_architecture(mf.paper_encoder_decoder(width=1, depth=1, heads=1, d_ff=4, vocab=5))
    assert len(
        mf.predict(mf.pre_ln(width=1, depth=1, heads=1, norm="rmsnorm", attention="uniform"), tokens=2).df
    )


@pytest.mark.parametrize("init", [[], "xavier", None])
def test_what_names_no_scheme_is_refused(init: Any) -> None:
    with pytest.raises(UnknownNameError, match="unknown init"):
        mf.pre_ln(width=8, depth=1, init=init)
