"""Every claim derived at the usual sizes, once for all tests."""

from __future__ import annotations

import pytest

from meanfield.claims import DERIVABLE, Derivation, Setting, derive


@pytest.fixture(scope="session")
def derivations() -> dict[str, Derivation]:
    return {name: derive(name, Setting()) for name in DERIVABLE}
