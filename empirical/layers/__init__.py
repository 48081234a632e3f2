"""The modules of a Transformer, readable top to bottom; one file for each file of `meanfield.ops`.

Row vectors: a token is a row x, and a linear map with W of shape (d_in, d_out) is x W. Modules hold zeros
until their parameters are drawn; ``laws`` says from which law, ``name`` under which module they stand in
tables.
"""

from empirical.layers.architecture import Embedding as Embedding
from empirical.layers.architecture import Embeddings as Embeddings
from empirical.layers.architecture import EncoderDecoder as EncoderDecoder
from empirical.layers.architecture import Head as Head
from empirical.layers.architecture import Transformer as Transformer
from empirical.layers.attention import Attention as Attention
from empirical.layers.attention import RelativeBias as RelativeBias
from empirical.layers.base import Context as Context
from empirical.layers.feed_forward import FeedForward as FeedForward
from empirical.layers.structure import DualResidual as DualResidual
from empirical.layers.structure import Fork as Fork
from empirical.layers.structure import Merge as Merge
from empirical.layers.structure import Parallel as Parallel
from empirical.layers.structure import Residual as Residual
from empirical.layers.structure import Sequential as Sequential
from empirical.layers.structure import Streams as Streams
from empirical.layers.structure import Sum as Sum
from empirical.layers.token_maps import ACTIVATIONS as ACTIVATIONS
from empirical.layers.token_maps import Activation as Activation
from empirical.layers.token_maps import Dropout as Dropout
from empirical.layers.token_maps import Gain as Gain
from empirical.layers.token_maps import Linear as Linear
from empirical.layers.token_maps import Norm as Norm
from empirical.layers.token_maps import Scale as Scale

DRAWN = (Linear, Norm, Gain, Embedding, RelativeBias, Head)
"""Modules that own parameters, each with its ``laws``."""

POINTS = (Embeddings, Norm, Gain, Attention, FeedForward, Residual, Sum)
"""Modules whose output is a point, under their ``name``."""
