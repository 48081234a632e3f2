"""LaTeX formulas as plain Unicode text, for the terminal: the commands that the derivations use, no more."""

from __future__ import annotations

import re

_SYMBOLS = {
    **{name: name for name in ("Pr", "exp", "ln", "min", "max", "det", "arccos")},
    "alpha": "α", "chi": "χ", "delta": "δ", "epsilon": "ε", "kappa": "κ", "lambda": "λ", "mu": "μ", "pi": "π",
    "rho": "ρ", "sigma": "σ", "tau": "τ", "Gamma": "Γ",
    "le": "≤", "ge": "≥", "ne": "≠", "approx": "≈", "sim": "~", "in": "∈", "to": "→", "leftarrow": "←",
    "infty": "∞", "partial": "∂", "sum": "Σ", "prod": "Π", "int": "∫", "cdot": "·",
    "langle": "⟨", "rangle": "⟩", "quad": " ", "|": "‖", "{": "{", "}": "}", " ": " ",
}  # fmt: skip
_TOKEN = re.compile(r"\\[A-Za-z]+\s?|\\.|[{}^_]|[^\\{}^_]")
_SUPER = str.maketrans("0123456789+-nTl", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿᵀˡ")
_SUB = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


_LETTER = r"∂?[^\W\d_](_\w+|_\([^()]*\)|\^\([^()]*\)|[₀-₉⁰-⁹²³ᵀ])*"
_FACTOR = re.compile(rf"\d+(\.\d+)?|{_LETTER}|‖{_LETTER}‖²?|∞")


def _numerator(text: str) -> str:
    """Return the text, in brackets if it is a sum or a quotient."""
    outside = text
    while (shorter := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", outside)) != outside:
        outside = shorter
    return f"({text})" if re.search(r"[-+/=]", outside) else text


def _denominator(text: str) -> str:
    """Return the text, in brackets unless it is one factor."""
    return text if _FACTOR.fullmatch(text) else f"({text})"


def _script(text: str, mark: str) -> str:
    text = text.strip()
    table, characters = (_SUPER, "0123456789+-nTl") if mark == "^" else (_SUB, "0123456789")
    if set(text) <= set(characters):
        return text.translate(table)
    return f"{mark}{text}" if text.isalnum() or len(text) == 1 else f"{mark}({text})"


class _Reader:
    def __init__(self, latex: str) -> None:
        self.tokens = _TOKEN.findall(latex)
        self.at = 0

    def one(self) -> str:
        """Return one token with its arguments, or a braced group, as plain text.

        Raises:
            ValueError: If the command is not one of those known here.
        """
        token = self.tokens[self.at]
        self.at += 1
        if token == "{":
            parts = []
            while self.tokens[self.at] != "}":
                parts.append(self.one())
            self.at += 1
            return "".join(parts)
        if token in ("^", "_"):
            return _script(self.one(), token)
        if not token.startswith("\\"):
            return token
        command = token[1:].strip() or " "
        match command:
            case "frac":
                return f"{_numerator(self.one())}/{_denominator(self.one())}"
            case "sqrt":
                return f"√{_denominator(self.one())}"
            case "mathrm" | "text":
                return self.one()
            case _:
                if command not in _SYMBOLS:
                    raise ValueError(f"no plain form for \\{command}")
                space = " " if token.endswith(" ") and command not in ("partial", "langle") else ""
                return _SYMBOLS[command] + space

    def all(self) -> str:
        """Return everything to the end as plain text."""
        parts = []
        while self.at < len(self.tokens):
            parts.append(self.one())
        return "".join(parts)


def plain(latex: str) -> str:
    r"""Write a formula as one line of Unicode text.

    Args:
        latex: The formula, in the commands that the derivations use.

    Returns:
        The text.

    Example:
        >>> plain(r"E\|x_5\|^2 = \frac{3}{2} d")
        'E‖x₅‖² = 3/2 d'
    """
    return re.sub(r" +([,:;⟩]|$)", r"\1", re.sub(r" +", " ", _Reader(latex).all())).strip()


def plain_text(text: str) -> str:
    r"""Convert the formulas between dollar signs in a text.

    Args:
        text: Words with LaTeX between dollar signs.

    Returns:
        The text without dollar signs.

    Example:
        >>> plain_text(r"for $\sigma > 0$ only")
        'for σ > 0 only'
    """
    parts = text.split("$")
    return "".join(plain(part) if k % 2 else part for k, part in enumerate(parts))
