"""Named architectures: each preset is a function of sizes that returns a `Transformer` value.

A placement is one function from the sub-layers of a layer to its block (`PLACEMENTS`); a preset gives it
sizes, options and an initialisation.
"""

from meanfield.presets.catalogue import PRESETS as PRESETS
from meanfield.presets.catalogue import presets as presets
from meanfield.presets.encoder_decoder import encoder_decoder as encoder_decoder
from meanfield.presets.norms import b2t as b2t
from meanfield.presets.norms import branch_norm as branch_norm
from meanfield.presets.norms import hybrid_norm as hybrid_norm
from meanfield.presets.norms import layernorm_scaling as layernorm_scaling
from meanfield.presets.norms import mix_ln as mix_ln
from meanfield.presets.norms import normformer as normformer
from meanfield.presets.norms import parallel as parallel
from meanfield.presets.norms import post_ln as post_ln
from meanfield.presets.norms import pre_ln as pre_ln
from meanfield.presets.norms import qk_norm as qk_norm
from meanfield.presets.norms import residual as residual
from meanfield.presets.norms import sandwich_ln as sandwich_ln
from meanfield.presets.options import OPTIONS as OPTIONS
from meanfield.presets.options import Options as Options
from meanfield.presets.paper import paper_encoder_decoder as paper_encoder_decoder
from meanfield.presets.paper import paper_post_ln as paper_post_ln
from meanfield.presets.paper import paper_pre_ln as paper_pre_ln
from meanfield.presets.placements import PLACEMENTS as PLACEMENTS
from meanfield.presets.placements import Placement as Placement
from meanfield.presets.profiled import admin as admin
from meanfield.presets.scaled import deepnorm as deepnorm
from meanfield.presets.scaled import deepscale as deepscale
from meanfield.presets.scaled import keel as keel
from meanfield.presets.scaled import layer_scale as layer_scale
from meanfield.presets.scaled import residual_multiplier as residual_multiplier
from meanfield.presets.scaled import rezero as rezero
from meanfield.presets.scaled import skipinit as skipinit
from meanfield.presets.scaled import sub_ln as sub_ln
from meanfield.presets.scaled import t_fixup as t_fixup
