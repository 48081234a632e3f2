"""The architecture as a value: small frozen ops that three interpreters read.

Numbers (`meanfield.moments`), symbols (`meanfield.symbolic`) and tensors (`empirical.build`) each give every
op here one rule. An op holds what the architecture says and nothing that an interpreter computes. Names of
ops become the ``module`` column of every table.
"""

from meanfield.ops.architecture import Embedding as Embedding
from meanfield.ops.architecture import EncoderDecoder as EncoderDecoder
from meanfield.ops.architecture import Head as Head
from meanfield.ops.architecture import ParameterKey as ParameterKey
from meanfield.ops.architecture import Transformer as Transformer
from meanfield.ops.attention import Attention as Attention
from meanfield.ops.attention import AttentionKind as AttentionKind
from meanfield.ops.attention import RelativeBias as RelativeBias
from meanfield.ops.attention import Rotary as Rotary
from meanfield.ops.base import ONES as ONES
from meanfield.ops.base import ZEROS as ZEROS
from meanfield.ops.base import Draw as Draw
from meanfield.ops.base import Law as Law
from meanfield.ops.base import Number as Number
from meanfield.ops.base import Op as Op
from meanfield.ops.feed_forward import FeedForward as FeedForward
from meanfield.ops.structure import DualResidual as DualResidual
from meanfield.ops.structure import Fork as Fork
from meanfield.ops.structure import Merge as Merge
from meanfield.ops.structure import Parallel as Parallel
from meanfield.ops.structure import Repeat as Repeat
from meanfield.ops.structure import Residual as Residual
from meanfield.ops.structure import Sequential as Sequential
from meanfield.ops.token_maps import ACTIVATIONS as ACTIVATIONS
from meanfield.ops.token_maps import Activation as Activation
from meanfield.ops.token_maps import Dropout as Dropout
from meanfield.ops.token_maps import Gain as Gain
from meanfield.ops.token_maps import Linear as Linear
from meanfield.ops.token_maps import Norm as Norm
from meanfield.ops.token_maps import NormKind as NormKind
from meanfield.ops.token_maps import Scale as Scale
from meanfield.ops.walk import children as children
from meanfield.ops.walk import walk as walk
