"""Mean-field theory of Transformers at initialisation.

An architecture is a value (`meanfield.ops`), built by a preset; interpreters read it as numbers, as symbols
or, in `empirical`, as tensors. Nothing here imports torch or matplotlib.
"""

from meanfield.errors import InputError as InputError
from meanfield.errors import MissingRuleError as MissingRuleError
from meanfield.errors import UnknownNameError as UnknownNameError
from meanfield.first_update import FirstUpdate as FirstUpdate
from meanfield.first_update import critical_learning_rate as critical_learning_rate
from meanfield.first_update import first_update as first_update
from meanfield.first_update import risk as risk
from meanfield.initialization import Initialization as Initialization
from meanfield.initialization import initializations as initializations
from meanfield.ops import Draw as Draw
from meanfield.ops import EncoderDecoder as EncoderDecoder
from meanfield.ops import Transformer as Transformer
from meanfield.predict import Prediction as Prediction
from meanfield.predict import predict as predict
from meanfield.predict import total_grad_sq as total_grad_sq
from meanfield.presets import admin as admin
from meanfield.presets import b2t as b2t
from meanfield.presets import branch_norm as branch_norm
from meanfield.presets import deepnorm as deepnorm
from meanfield.presets import deepscale as deepscale
from meanfield.presets import encoder_decoder as encoder_decoder
from meanfield.presets import hybrid_norm as hybrid_norm
from meanfield.presets import keel as keel
from meanfield.presets import layer_scale as layer_scale
from meanfield.presets import layernorm_scaling as layernorm_scaling
from meanfield.presets import mix_ln as mix_ln
from meanfield.presets import normformer as normformer
from meanfield.presets import paper_encoder_decoder as paper_encoder_decoder
from meanfield.presets import paper_post_ln as paper_post_ln
from meanfield.presets import paper_pre_ln as paper_pre_ln
from meanfield.presets import parallel as parallel
from meanfield.presets import post_ln as post_ln
from meanfield.presets import pre_ln as pre_ln
from meanfield.presets import presets as presets
from meanfield.presets import qk_norm as qk_norm
from meanfield.presets import residual as residual
from meanfield.presets import residual_multiplier as residual_multiplier
from meanfield.presets import rezero as rezero
from meanfield.presets import sandwich_ln as sandwich_ln
from meanfield.presets import skipinit as skipinit
from meanfield.presets import sub_ln as sub_ln
from meanfield.presets import t_fixup as t_fixup

__version__ = "0.1.0"
