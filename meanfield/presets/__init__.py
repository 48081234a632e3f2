"""Named architectures: each preset is a function of sizes that returns a `Transformer` value.

A placement is one function from the sub-layers of a layer to its block (`PLACEMENTS`); a preset gives it
sizes, options and an initialisation.
"""

from meanfield.presets.encoder_decoder import encoder_decoder as encoder_decoder
from meanfield.presets.norms import post_ln as post_ln
from meanfield.presets.norms import pre_ln as pre_ln
from meanfield.presets.options import OPTIONS as OPTIONS
from meanfield.presets.options import Options as Options
from meanfield.presets.paper import paper_encoder_decoder as paper_encoder_decoder
from meanfield.presets.paper import paper_post_ln as paper_post_ln
from meanfield.presets.paper import paper_pre_ln as paper_pre_ln
from meanfield.presets.placements import PLACEMENTS as PLACEMENTS
from meanfield.presets.placements import Placement as Placement

PRESETS = {
    "post_ln": post_ln,
    "pre_ln": pre_ln,
    "paper_post_ln": paper_post_ln,
    "paper_pre_ln": paper_pre_ln,
}
