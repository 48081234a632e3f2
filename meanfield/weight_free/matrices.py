"""A pass without weights: how maps, tables and a tied head act when no matrix is formed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meanfield.ops import Draw, Embedding, Head, Linear
from meanfield.weight_free import linear
from meanfield.weight_free.backend import Array, Streams
from meanfield.weight_free.run import Run


@dataclass(slots=True, kw_only=True)
class WeightFree(Run):
    """A pass that draws what its matrices do, each seed from its own stream.

    Args:
        streams: One stream for each seed.
        looks: Whether the host looks at factors, and helps those that are inaccurate; where it must not wait
            for them they are marked.
        doubtful: For which seeds a factor was inaccurate, (seeds,); their numbers are void.
    """

    streams: Streams
    looks: bool = True
    doubtful: Array | None = None

    def doubt(self, sound: Array) -> None:
        """Mark the seeds whose factors (seeds, 1, 1) are not sound."""
        unsound = ~sound[:, 0, 0]
        self.doubtful = unsound if self.doubtful is None else self.doubtful | unsound

    def normal(self, *shape: int) -> Array:
        """Draw standard normals (seeds, *shape)."""
        return self.streams.normal(shape)

    def noise(self, name: str, *shape: int) -> Array:
        """Draw standard normals (seeds, *shape); whatever they are for, the stream is one."""
        return self.normal(*shape)

    def keep(self, rate: float, shape: tuple[int, ...]) -> Array:
        """Draw a dropout mask (seeds, *shape): 0 at a rate, else 1/(1 - rate)."""
        kept = self.streams.uniform(shape) >= rate
        return self.xp.astype(kept, self.backend.dtype) / (1 - rate)

    def draw(self, module: str, parameter: str, law: Draw, *shape: int) -> Array:
        """Draw a small tensor explicitly, (seeds, *shape)."""
        normal = law.law == "normal"
        unit = self.normal(*shape) if normal else 12**0.5 * (self.streams.uniform(shape) - 0.5)
        return float(law.mean) + float(law.variance) ** 0.5 * unit

    def rows(self, op: Embedding, ids: Array) -> Array:
        """Draw a row for each of N ids, (seeds, N, width)."""
        return self.draw(op.name, "weight", op.weight, ids.shape[1], op.width)

    def span(self, x: Array) -> linear.Span:
        """Factorise tokens that many maps read."""
        return linear.span(x, self)

    def project(self, module: str, maps: dict[str, Linear], x: Any) -> tuple[dict[str, Array], Any]:
        """Draw the mapped tokens; see `meanfield.weight_free.linear.project`."""
        return linear.project(module, maps, x, self)

    def project_back(self, module: str, saved: linear.Projected, gradients: dict[str, Array]) -> Array:
        """Draw the gradient of the tokens; see `meanfield.weight_free.linear.project_back`."""
        g, squares = linear.project_back(saved, gradients, self)
        for name, op in reversed(saved.maps.items()):
            self.note_map(module, name, op, gradients[name], squares[name])
        return g

    @property
    def columns(self) -> int:
        """Of a tied head, the words of the tokens have columns of their own."""
        return 0 if self.tied is None else self.tied.slot.shape[1]

    def logits(self, op: Head, x: Array) -> tuple[Array, Any]:
        """Draw the logits; a tied head has one column for each token, that of its id, before the others."""
        if not op.tied:
            outputs, read = self.project(op.name, {"": op.linear}, x)
            return outputs[""], read
        # The same id's column among the others is barred later, in `losses.cross_entropy`.
        xp, words = self.xp, self.tied
        assert words is not None
        others = Linear(op.linear.d_in, op.linear.d_out, words.op.weight)
        outputs, read = self.project(op.name, {"": others}, x)
        logits, known = outputs[""], x @ xp.matrix_transpose(words.values)
        if op.linear.bias is not None and op.linear.bias.variance:  # what all classes share is not seen
            bias = self.draw(op.name, "bias", op.linear.bias, op.linear.d_out)  # (seeds, vocab)
            ids = xp.broadcast_to(words.ids, (self.seeds, words.ids.shape[1]))
            known = known + xp.take_along_axis(bias, ids, axis=1)[:, None, :]
            logits = logits + bias[:, None, :]
        return xp.concat([known, logits], axis=-1), read

    def logits_back(self, op: Head, x: Array, saved: Any, g: Array) -> Array:
        """Draw the gradient of the tokens; that of a tied head's words is kept for the embedding."""
        if not op.tied:
            return self.project_back(op.name, saved, {"": g})
        xp, words = self.xp, self.tied
        assert words is not None
        known, g = g[..., : self.columns], g[..., self.columns :]
        of_others, squares = linear.project_back(saved, {"": g}, self)
        words.gradient = words.gradient + xp.matrix_transpose(known) @ x
        words.others = squares[""]
        if op.linear.bias is not None:  # a class has its column in one of the two parts, and 0 in the other
            total = self.backend.squared(xp.sum(known, axis=1)) + self.backend.squared(xp.sum(g, axis=1))
            self.add(op.name, "bias", total)
        return of_others + known @ words.values
