"""The sizes at which every figure is made: ``quick`` for a laptop, ``paper`` for the paper's own sizes.

Figures of training runs have presets of their own: a preset is then the name of a grid of runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from figures.lab import Cell
from meanfield import paper_encoder_decoder, paper_post_ln, paper_pre_ln

PAPER = {"post_ln": paper_post_ln, "pre_ln": paper_pre_ln}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large, and how often, every figure measures.

    Seeds in multiples of 25 share tables on disk between figures.

    Args:
        tokens: Tokens in a sequence, everywhere.
        width: Width of the models measured layer by layer.
        depths: Their depths.
        seeds: Their seeds.
        sweep_width: Width of the models of the depth sweep.
        sweep_depths: Their depths.
        widths: Widths of the width sweep, at the smallest of the depths.
        sweep_seeds: Seeds of both sweeps.
        tail_seeds: Seeds of the concentration figure.
        norm_width: Width of the norm whose Jacobian is measured.
        norm_seeds: Its seeds.
        model_seeds: Seeds of the encoder-decoder of the paper's experiments.
        model_batch: Its sequences per mini-batch.
        model_minibatches: Its mini-batches per seed.
    """

    tokens: int
    width: int
    depths: tuple[int, ...]
    seeds: int
    sweep_width: int
    sweep_depths: tuple[int, ...]
    widths: tuple[int, ...]
    sweep_seeds: int
    tail_seeds: int
    norm_width: int
    norm_seeds: int
    model_seeds: int
    model_batch: int
    model_minibatches: int

    def layer_cells(self, *, tokens: int | None = None, depths: tuple[int, ...] = ()) -> list[Cell]:
        """Cells of both placements at every depth: what is shown layer by layer.

        Args:
            tokens: Tokens in a sequence, instead of the preset's.
            depths: Depths, instead of the preset's.

        Returns:
            The cells.
        """
        return [
            Cell(preset(width=self.width, depth=depth), tokens=tokens or self.tokens, seeds=self.seeds)
            for preset in PAPER.values()
            for depth in depths or self.depths
        ]

    def depth_cells(self, placement: str) -> list[Cell]:
        """Cells of the depth sweep.

        Args:
            placement: ``"post_ln"`` or ``"pre_ln"``.

        Returns:
            The cells, shallow to deep.
        """
        return [
            Cell(PAPER[placement](width=self.sweep_width, depth=depth), self.tokens, self.sweep_seeds)
            for depth in self.sweep_depths
        ]

    def width_cells(self, placement: str) -> list[Cell]:
        """Cells of the width sweep.

        Args:
            placement: ``"post_ln"`` or ``"pre_ln"``.

        Returns:
            The cells, narrow to wide.
        """
        return [
            Cell(PAPER[placement](width=width, depth=min(self.depths)), self.tokens, self.sweep_seeds)
            for width in self.widths
        ]

    def model_cells(self) -> list[Cell]:
        """Cells of the model of the paper's experiments, both placements, at its full size.

        Returns:
            The cells.
        """
        return [
            Cell(
                paper_encoder_decoder(placement=placement),
                tokens=self.tokens,
                seeds=self.model_seeds,
                batch=self.model_batch,
                loss="cross_entropy",
                minibatches=self.model_minibatches,
                label_smoothing=0.1,
            )
            for placement in PAPER
        ]


TRAINING = {
    "warmup": "warmup",
    "warmup_gpu": "gpu",
    "warmup_paper": "paper",
}  # preset to grid in `empirical.train.presets`

PRESETS = {
    "quick": Sizes(
        tokens=16,
        width=512,
        depths=(6, 12),
        seeds=25,
        sweep_width=256,
        sweep_depths=(6, 8, 10, 12, 14, 24, 48, 96),
        widths=(128, 256, 512),
        sweep_seeds=25,
        tail_seeds=100,
        norm_width=128,
        norm_seeds=3,
        model_seeds=4,
        model_batch=4,
        model_minibatches=4,
    ),
    "paper": Sizes(
        tokens=16,
        width=512,
        depths=(6, 12),
        seeds=200,
        sweep_width=512,
        sweep_depths=(6, 8, 10, 12, 14, 24, 48, 96),
        widths=(128, 256, 512, 1024),
        sweep_seeds=50,
        tail_seeds=200,
        norm_width=512,
        norm_seeds=10,
        model_seeds=10,
        model_batch=8,
        model_minibatches=8,
    ),
}
