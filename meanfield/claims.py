"""The ledger: what the seed paper claims, and where the toolkit derives it.

Texts are plain words with LaTeX between dollar signs. A claim of kind ``"training"`` has no derivation: it is
about models after gradient steps, which a theory of initialisation does not decide.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from meanfield.errors import InputError, UnknownNameError, positive_integer

Kind: TypeAlias = Literal["theory", "measurement", "training"]
Verdict: TypeAlias = Literal["holds", "holds_loosely", "holds_under", "fails"]
MAX_SIZE = 10**15
MAX_DEPTH = 100_000


@dataclass(frozen=True, slots=True)
class Setting:
    """The sizes at which a derivation evaluates its numbers.

    Args:
        width: Size of a token, at least 2: on one coordinate LayerNorm returns 0.
        depth: Number of layers.
        tokens: Tokens in the sequence.

    Raises:
        InputError: If a size is too small or no integer, or too large (`MAX_SIZE`, `MAX_DEPTH`).

    Example:
        >>> Setting(width=512, depth=6, tokens=16).tokens
        16
    """

    width: int = 512
    depth: int = 6
    tokens: int = 16

    def __post_init__(self) -> None:
        for what, value in (("width", self.width), ("depth", self.depth), ("tokens", self.tokens)):
            if positive_integer(what, value) > MAX_SIZE:
                raise InputError(f"{what}={value} is too large: give at most {MAX_SIZE:.0e}")
        if self.width < 2:
            raise InputError(f"width={self.width} is too small: LayerNorm needs at least 2 coordinates")
        if self.depth > MAX_DEPTH:
            raise InputError(
                f"depth={self.depth} is too large: numbers run layer by layer, up to {MAX_DEPTH}"
            )


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a derivation: what it says, how it was checked, and whether the check passed."""

    latex: str
    check: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a claim comes to.

    Args:
        steps: The checked steps, in order.
        result: The result in LaTeX, every constant kept.
        verdict: One of ``holds``, ``holds_loosely``, ``holds_under``, ``fails``.
        condition: The factor, the condition or the counter-example that the verdict asks for.
        numbers: The result evaluated at the setting.
    """

    steps: tuple[Step, ...]
    result: str
    verdict: Verdict
    condition: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every step passed its check."""
        return all(step.holds for step in self.steps)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the paper.

    Args:
        id: The name used in code, tables and figures.
        kind: Whether theory, a measurement or a training run decides it.
        statement: The claim in our words.
        assumptions: What the statement or its derivation assumes.
        source: bibkey and place.
        module: Module of `meanfield.symbolic` that derives it; empty where theory does not decide.
    """

    id: str
    kind: Kind
    statement: str
    assumptions: tuple[str, ...]
    source: str
    module: str = ""


GAUSSIAN = (
    "weights independent, centred Gaussian, $\\mathrm{Var}(W_{pq}) = 1/d$; biases 0; norm gain 1, shift 0"
)
UNIFORM = "uniform attention ($W^Q = W^K = 0$), one head, no output projection, $d_{ff} = d$, ReLU"
LIMIT = "width to infinity: moments of one layer are those of Gaussian pre-activations"
EXCHANGEABLE = "exchangeable tokens"
PAPER = (GAUSSIAN, UNIFORM)
LINEAR = "gradients $\\partial L/\\partial x_{out}$ independent of the weights of the layers"
EXACT = f"for the exact value: {LIMIT}; {LINEAR}"
EPS0 = "LayerNorm without $\\epsilon$"

_CLAIMS = (
    Claim(
        "lemma1",
        "theory",
        "For $X \\sim N(0, \\sigma^2 I_d)$: $E\\|\\mathrm{ReLU}(X)\\|^2 = \\sigma^2 d / 2$.",
        ("$\\sigma > 0$",),
        "xiong2020, App. B, Lemma 1",
        "lemmas",
    ),
    Claim(
        "lemma2.post",
        "theory",
        "Post-LN, before the second norm of every layer: $E\\|x_5\\|^2 = \\frac{3}{2} d$.",
        (*PAPER, EPS0),
        "xiong2020, App. C, Lemma 2",
        "lemma2",
    ),
    Claim(
        "lemma2.pre",
        "theory",
        "Pre-LN: $(1 + \\frac{l}{2}) d \\le E\\|x_l\\|^2 \\le (1 + \\frac{3l}{2}) d$.",
        (*PAPER, EPS0, "$E\\|x_0\\|^2 = d$"),
        "xiong2020, App. C, Lemma 2",
        "lemma2",
    ),
    Claim(
        "lemma3",
        "theory",
        "$J_{LN}(x) = \\frac{\\sqrt{d}}{\\|y\\|} (I - \\frac{y^T y}{\\|y\\|^2}) (I - \\frac{1}{d} 1^T 1)$ "
        "with $y = x (I - \\frac{1}{d} 1^T 1)$; hence $\\|J_{LN}(x)\\|_2 = O(\\sqrt{d} / \\|x\\|)$.",
        (EPS0, "norm gain 1, shift 0", "$y \\ne 0$"),
        "xiong2020, App. D, Lemma 3",
        "lemma3",
    ),
    Claim(
        "lemma4",
        "theory",
        "For a row vector with $\\|a\\| = 1$, $I - a^T a$ has the eigenvalue 0 once and otherwise 1.",
        ("$\\|a\\| = 1$",),
        "xiong2020, App. D, Lemma 4",
        "lemmas",
    ),
    Claim(
        "lemma5",
        "theory",
        "If $Y \\le B$ then $\\Pr[Y \\le a] \\le \\frac{E[B - Y]}{B - a}$ for every $a < B$.",
        ("$E|Y|$ finite",),
        "xiong2020, App. E, Lemma 5",
        "lemmas",
    ),
    Claim(
        "definition1",
        "theory",
        "$Z \\ge 0$ is $(\\epsilon, \\delta)$-bounded if "
        "$\\Pr[(Z - EZ)/EZ \\le \\epsilon] \\ge 1 - \\delta$.",
        ("$EZ > 0$",),
        "xiong2020, Sec. 3.3, Definition 1",
        "concentration",
    ),
    Claim(
        "concentration.chi2",
        "theory",
        "$\\|Y\\|^2$ with $Y \\sim N(0, I_d)$ is $(\\epsilon, \\exp(-d \\epsilon^2/8))$-bounded for "
        "$0 < \\epsilon < 1$.",
        ("$0 < \\epsilon < 1$",),
        "xiong2020, App. G",
        "concentration",
    ),
    Claim(
        "concentration.measured",
        "measurement",
        "Squared norms of hidden states of real models are $(0.1, 0.125)$-bounded.",
        ("theory's side only: Gaussian hidden states, and the paper's Post-LN layer at initialisation",),
        "xiong2020, Sec. 3.4",
        "concentration",
    ),
    Claim(
        "theorem1.post",
        "theory",
        "Post-LN: with probability at least $0.99 - \\delta - \\frac{\\epsilon}{0.9 + \\epsilon}$, "
        "$\\|\\partial L/\\partial W^{2,L}\\|_F = O(d \\sqrt{\\ln d})$, independent of $L$.",
        (
            *PAPER,
            EPS0,
            "$\\|\\partial L/\\partial x_{out}\\| = O(1)$",
            "$\\|x_5\\|^2$ $(\\epsilon, \\delta)$-bounded",
            EXACT,
        ),
        "xiong2020, Theorem 1, App. E",
        "theorem1",
    ),
    Claim(
        "theorem1.pre",
        "theory",
        "Pre-LN: with the same probability, "
        "$\\|\\partial L/\\partial W^{2,L}\\|_F = O(d \\sqrt{\\ln d / L})$.",
        (
            *PAPER,
            EPS0,
            "$\\|\\partial L/\\partial x_{out}\\| = O(1)$",
            "$\\|x_L\\|^2$ $(\\epsilon, \\delta)$-bounded",
            "input tokens $N(0, I_d)$",
            EXACT,
        ),
        "xiong2020, Theorem 1, App. E",
        "theorem1",
    ),
    Claim(
        "extension.post",
        "theory",
        "Post-LN, deeper layers: $\\|\\partial L/\\partial W^{2,l}\\|_F$ carries a factor "
        "$O((2/3)^{(L - l)/2})$, so gradients shrink away from the output.",
        (*PAPER, EPS0, LIMIT, EXCHANGEABLE, LINEAR),
        "xiong2020, App. F",
        "extension_post",
    ),
    Claim(
        "extension.pre",
        "theory",
        "Pre-LN, deeper layers: $\\|\\partial L/\\partial W^{2,l}\\|_F$ "
        "does not depend on $l$ when $l$ is large.",
        (*PAPER, EPS0, LIMIT, EXCHANGEABLE, LINEAR),
        "xiong2020, App. F",
        "extension_pre",
    ),
    Claim(
        "fig3a/b",
        "measurement",
        "6-6 model, gradient norm by layer: grows with $l$ for Post-LN, about level for Pre-LN.",
        ("theory's side only", *PAPER, EPS0, LIMIT, EXCHANGEABLE, LINEAR),
        "xiong2020, Fig. 3(a), 3(b)",
        "figure3",
    ),
    Claim(
        "fig3c/d",
        "measurement",
        "Gradient norm of the last $W^2$ against depth: falls with $L$ for Pre-LN, stays for Post-LN.",
        ("theory's side only", *PAPER, EPS0, LIMIT, EXCHANGEABLE, LINEAR),
        "xiong2020, Fig. 3(c), 3(d)",
        "figure3",
    ),
    Claim(
        "warmup.post",
        "training",
        "Post-LN without warm-up fails (8.45 BLEU against about 34, IWSLT14 De-En, Adam), also with SGD; the "
        "length of the warm-up and the largest learning rate matter.",
        (),
        "xiong2020, Fig. 2",
    ),
    Claim(
        "warmup.pre",
        "training",
        "Pre-LN without warm-up trains to the same loss, and faster; RAdam matters less than the placement.",
        (),
        "xiong2020, Fig. 4, Fig. 5",
    ),
    Claim(
        "small_lr",
        "training",
        "Post-LN with a fixed learning rate of 1e-4 and no warm-up trains, slowly.",
        (),
        "xiong2020, App. H",
    ),
)

LEDGER: dict[str, Claim] = {claim.id: claim for claim in _CLAIMS}
DERIVABLE = tuple(claim.id for claim in _CLAIMS if claim.module)


def derive(claim_id: str, setting: Setting) -> Derivation:
    """Run the derivation of one claim and all checks in it.

    Args:
        claim_id: One of `DERIVABLE`.
        setting: Sizes for the numbers.

    Returns:
        The derivation.

    Raises:
        UnknownNameError: If the ledger has no such claim.
        InputError: If the claim is about training, which this theory does not decide.

    Source:
        xiong2020.

    Example:
        >>> derive("lemma1", Setting(width=512)).numbers["E_relu_sq"]
        256.0
    """
    if claim_id not in LEDGER:
        raise UnknownNameError("claim", claim_id, DERIVABLE)
    claim = LEDGER[claim_id]
    if not claim.module:
        raise InputError(
            f"claim {claim_id!r} is about training, which a theory of initialisation does not decide: "
            "leave it out of --claim"
        )
    # Only the module that the claim needs is imported: a single lemma stays quick.
    module = importlib.import_module(f"meanfield.symbolic.{claim.module}")
    derivation: Callable[[Setting], Derivation] = module.DERIVATIONS[claim_id]
    return derivation(setting)
