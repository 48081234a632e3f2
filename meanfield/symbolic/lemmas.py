"""Lemmas 1 to 5 of the paper."""

from __future__ import annotations

import mpmath
import sympy as sp

from meanfield.claims import Derivation, Setting
from meanfield.symbolic.checks import proved


def lemma1(setting: Setting) -> Derivation:
    """Derive E||ReLU(X)||^2 = s^2 d / 2.

    Args:
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Source:
        xiong2020, Lemma 1.
    """
    x, s, d = sp.symbols("x sigma d", positive=True)
    density = sp.exp(-(x**2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    one = sp.integrate(x**2 * density, (x, 0, sp.oo))
    return Derivation(
        steps=(
            proved(
                r"E[\mathrm{ReLU}(X_p)^2] = \int_0^\infty x^2 \frac{e^{-x^2/2\sigma^2}}{\sqrt{2\pi}\sigma} dx"
                r" = \frac{\sigma^2}{2}",
                "integral",
                one - s**2 / 2,
            ),
        ),
        result=r"E\|\mathrm{ReLU}(X)\|^2 = \frac{\sigma^2 d}{2}",
        verdict="holds",
        condition="exact at every width",
        numbers={"E_relu_sq": setting.width / 2},
    )


DERIVATIONS = {"lemma1": lemma1}
