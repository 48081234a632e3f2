"""Answers that people ask for, as functions of an architecture or of an initialisation.

Each is a few lines on top of `meanfield.predict`: nothing is measured or fitted. `docs/answers.md` has a
section with numbers for each.
"""

from meanfield.answers.initialisation import Mismatch as Mismatch
from meanfield.answers.initialisation import matches_paper as matches_paper
from meanfield.answers.layers import DepthToShare as DepthToShare
from meanfield.answers.layers import GradientRatio as GradientRatio
from meanfield.answers.layers import Growth as Growth
from meanfield.answers.layers import by_layer as by_layer
from meanfield.answers.layers import depth_to_share as depth_to_share
from meanfield.answers.layers import gradient_ratio as gradient_ratio
from meanfield.answers.layers import residual_growth as residual_growth
from meanfield.answers.unit_scaling import unit_scaling_gradients as unit_scaling_gradients
