"""Mean-field theory of Transformers at initialisation.

An architecture is a value (`meanfield.ops`), built by a preset; interpreters read it as numbers, as symbols
or, in `empirical`, as tensors. Nothing here imports torch or matplotlib.
"""

from meanfield.errors import InputError as InputError
from meanfield.errors import MissingRuleError as MissingRuleError
from meanfield.errors import UnknownNameError as UnknownNameError
from meanfield.initialization import Initialization as Initialization
from meanfield.ops import Draw as Draw
from meanfield.ops import EncoderDecoder as EncoderDecoder
from meanfield.ops import Transformer as Transformer
from meanfield.predict import Prediction as Prediction
from meanfield.predict import predict as predict
from meanfield.presets import paper_encoder_decoder as paper_encoder_decoder
from meanfield.presets import paper_post_ln as paper_post_ln
from meanfield.presets import paper_pre_ln as paper_pre_ln
from meanfield.presets import post_ln as post_ln
from meanfield.presets import pre_ln as pre_ln

__version__ = "0.1.0"
