"""A pass with real weights, for several seeds at once, that forms gradients only where that is cheap.

The forward and backward rules are those of `meanfield.weight_free`; here a matrix is drawn and multiplied by.
Every tensor is the one that `empirical.build` draws for the seed, so that automatic differentiation of the
built module is an independent check, number by number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from empirical.backend import TorchBackend
from empirical.gram import gram, halves
from empirical.matrices import Matrices, Matrix
from meanfield.ops import Draw, Embedding, Head, Linear, ParameterKey
from meanfield.random import fill_normal, stream
from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import Rows, Run, part

GRAM_PRICE, HALF_PRICE = 1.4, 0.9
"""Of an entry of a Gram matrix, in those of tokens times gradients: where all are computed, or half."""

STANDARD = Draw(1)
SHARES = Draw(Fraction(1, 12), "uniform", Fraction(1, 2))  # in [0, 1)


@dataclass(slots=True)
class Mapped:
    """What the backward pass of several maps of the same tokens needs; weights are drawn again if None."""

    maps: dict[str, Linear]
    x: Array
    weights: list[Matrix] | None


@dataclass(slots=True, kw_only=True)
class Dense(Run):
    """A pass of some seeds with the weights that `empirical.build` draws for them.

    Args:
        backend: Torch on the host or a device.
        numbers: The seeds.
        matrices: Where matrices are kept.
        keeps_weights: Whether matrices stay in memory until the pass comes back, or are drawn again.
    """

    backend: TorchBackend
    numbers: list[int]
    matrices: Matrices
    keeps_weights: bool = True
    masks_drawn: int = 0
    kept_tables: dict[ParameterKey, Matrix] = field(default_factory=dict)

    def noise(self, name: str, *shape: int) -> Array:
        """Draw inputs, or targets of the real tokens, from the seed's own stream (seeds, *shape)."""
        if self.backend.remote:
            return self.backend.tensor(self.numbers, name, STANDARD, shape)
        real = None if self.feed.real is None or name != "target" else self.feed.real.reshape(-1)
        rows = shape[0] if real is None else int(real.sum())
        drawn = np.empty((self.seeds, rows, *shape[1:]), self.backend.host_dtype)
        fill_normal([stream(seed, name) for seed in self.numbers], drawn.reshape(self.seeds, -1))
        if real is not None:
            placed = np.zeros((self.seeds, *shape), drawn.dtype)
            placed[:, real] = drawn
            drawn = placed
        return self.backend.asarray(drawn)

    def keep(self, rate: float, shape: tuple[int, ...]) -> Array:
        """Draw the mask of the next dropout, (seeds, *shape): 0 at a rate, else 1/(1 - rate)."""
        name = f"dropout{self.masks_drawn}"
        self.masks_drawn += 1
        if self.backend.remote:
            drawn = self.backend.tensor(self.numbers, name, SHARES, shape) >= rate
            return drawn.to(self.backend.dtype) / (1 - rate)
        kept = [stream(seed, name).random(shape, dtype=np.float32) >= rate for seed in self.numbers]
        return self.backend.asarray(np.stack(kept).astype(np.float64)) / (1 - rate)

    def draw(self, module: str, parameter: str, law: Draw, *shape: int) -> Array:
        """Draw a parameter of the present layer, (seeds, *shape)."""
        key = ParameterKey(self.layer, self.prefix + module, parameter)
        return self.backend.tensor(self.numbers, "/".join(map(str, key)), law, shape)

    def rows(self, op: Embedding, ids: Array) -> Array:
        """Draw a table and read it at ids (seeds or 1, N), (seeds, N, width)."""
        key = self._key(op.name)
        table = self._matrix(key, op.weight, (op.vocab, op.width))
        if self.keeps_weights:
            self.kept_tables[key] = table
        index = ids[:, :, None].expand(self.seeds, -1, op.width)
        return torch.gather(self.matrices.whole(table), 1, index)

    def span(self, x: Array) -> Array:
        """Tokens are what maps read."""
        return x

    def project(self, module: str, maps: dict[str, Linear], x: Array) -> tuple[dict[str, Array], Mapped]:
        """Draw the weights, and multiply by all at once."""
        drawn = self._weights(module, maps)
        y = self.matrices.product(x, drawn, self._biases(module, maps))
        outputs = dict(zip(maps, y.split([op.d_out for op in maps.values()], 2), strict=True))
        return outputs, Mapped(maps, x, drawn if self.keeps_weights else None)

    def _biases(self, module: str, maps: dict[str, Linear]) -> Array | None:
        """Biases side by side, (seeds, 1, sum of d_out); None where none is there, or all are zero."""
        found = [self.bias(module, name, op) for name, op in maps.items()]
        if len(found) == 1 or all(bias is None for bias in found):
            return found[0]
        zeros = [self.backend.zeros((self.seeds, 1, op.d_out)) for op in maps.values()]
        return torch.cat([z if bias is None else bias for bias, z in zip(found, zeros, strict=True)], 2)

    def project_back(self, module: str, saved: Mapped, gradients: dict[str, Array]) -> Array:
        """Multiply by the transposed weights, and note the norms of their gradients."""
        parts = {name: gradients[name] for name in saved.maps}
        joined = torch.cat(list(parts.values()), 2) if len(parts) > 1 else next(iter(parts.values()))
        squares = self._squares(saved.x, parts, joined)
        for name, op in reversed(saved.maps.items()):
            self.note_map(module, name, op, parts[name], squares[name])
        drawn = saved.weights or self._weights(module, saved.maps)
        return self.matrices.product_back(joined, drawn)

    def _weights(self, module: str, maps: dict[str, Linear]) -> list[Matrix]:
        return [
            self._matrix(self._key(part(module, name)), op.weight, (op.d_in, op.d_out))
            for name, op in maps.items()
        ]

    def _key(self, module: str) -> ParameterKey:
        return ParameterKey(self.layer, self.prefix + module, "weight")

    def _matrix(self, key: ParameterKey, law: Draw, shape: tuple[int, int]) -> Matrix:
        return self.matrices.draw(self.numbers, "/".join(map(str, key)), law, shape)

    def _squares(self, x: Array, gradients: dict[str, Array], joined: Array) -> dict[str, Array]:
        """Take ||X^T G||^2 of each map, by the product itself or by Gram matrices, whichever costs less.

        With m the mean token, K_ij = <x_i - m, x_j - m> and s the sum of gradients,

            ||X^T G||^2 = <K, G G^T> + 2 sum_i <x_i - m, m> <g_i, s> + |m|^2 |s|^2

        so that what tokens have in common, where it is much, does not cancel in rounded numbers: a key's
        gradients sum to 0.

        Args:
            x: Tokens (seeds, T, d_in).
            gradients: Name -> gradient of the mapped tokens (seeds, T, d_out).
            joined: All of them side by side.

        Returns:
            Name -> squared norm, (seeds,).
        """
        tokens, d_in = x.shape[1:]
        d_out, product = joined.shape[2], self.backend.matmul
        price = HALF_PRICE if halves(tokens, self.backend) else GRAM_PRICE
        if price * tokens * (d_in + d_out) > d_in * d_out:
            formed = product(x.transpose(1, 2), joined).split([g.shape[2] for g in gradients.values()], 2)
            return {name: self.backend.squared(part) for name, part in zip(gradients, formed, strict=True)}
        of_tokens = gram(x, self.backend)
        if self.backend.looks and bool((of_tokens.total() < 0.5 * tokens * of_tokens.trace()).all()):
            return {name: of_tokens.inner(gram(g, self.backend)) for name, g in gradients.items()}
        mean = x.mean(1, keepdim=True)  # (seeds, 1, d_in)
        centred = x - mean
        of_tokens, along = gram(centred, self.backend), product(centred, mean.transpose(1, 2))
        of_mean = self.backend.squared(mean)
        found = {}
        for name, g in gradients.items():
            total = g.sum(1, keepdim=True)  # (seeds, 1, d_out)
            with_total = product(g, total.transpose(1, 2))  # (seeds, tokens, 1)
            found[name] = (
                of_tokens.inner(gram(g, self.backend))
                + 2 * (along * with_total).sum((1, 2))
                + of_mean * self.backend.squared(total)
            )
        return found

    def logits(self, op: Head, x: Array) -> tuple[Array, Any]:
        """Apply the head's map, of a tied head the table of the embedding."""
        if not op.tied:
            outputs, read = self.project(op.name, {"": op.linear}, x)
            return outputs[""], read
        y = self.backend.empty((*x.shape[:2], op.linear.d_out))
        self.backend.matmul_back(x, self._table(), y)  # (seeds, T, vocab)
        if op.linear.bias is not None:
            y = y + self.draw(op.name, "bias", op.linear.bias, 1, op.linear.d_out)
        return y, None

    def logits_back(self, op: Head, x: Array, saved: Any, g: Array) -> Array:
        """Note the gradients of the head's map; those of a tied head's table are kept for the embedding."""
        if not op.tied:
            return self.project_back(op.name, saved, {"": g})
        words = self._words()
        if op.linear.bias is not None:
            self.add(op.name, "bias", self.backend.squared(g.sum(1)))
        # rows of ids that occur are added to the embedding's, one for each first place of an id
        places = torch.arange(words.slot.shape[1], device=g.device)
        first = (words.slot == places).to(g.dtype)  # (seeds or 1, N)
        ids = words.ids[:, None, :].expand(self.seeds, g.shape[1], -1)
        of_words = torch.gather(g, 2, ids) * first[:, None, :]  # (seeds, T, N)
        rows = self.backend.matmul(of_words.transpose(1, 2), x)  # (seeds, N, width)
        words.gradient = words.gradient + rows
        words.others = self._squares(x, {"": g}, g)[""] - self.backend.squared(rows)
        return self.backend.matmul(g, self._table())

    def _words(self) -> Rows:
        assert self.tied is not None
        return self.tied

    def _table(self) -> Array:
        """The table that the present stack's head shares with an embedding."""
        words = self._words()
        prefix = "" if words is self.common else self.prefix
        key = ParameterKey(0, prefix + words.op.name, "weight")
        table = self.kept_tables.get(key)
        if table is None:
            table = self._matrix(key, words.op.weight, (words.op.vocab, words.op.width))
        return self.matrices.whole(table)
