"""Named initialisation schemes: the law of every weight and bias of a Transformer.

A scheme is a function of the sizes; its value is an `Initialization`, which presets also take directly.
"""

from meanfield.initialization.catalogue import initializations as initializations
from meanfield.initialization.constants import deepnorm_constants as deepnorm_constants
from meanfield.initialization.constants import sub_ln_gain as sub_ln_gain
from meanfield.initialization.constants import t_fixup_gain as t_fixup_gain
from meanfield.initialization.schemes import SCHEMES as SCHEMES
from meanfield.initialization.schemes import initialization as initialization
from meanfield.initialization.sizes import Initialization as Initialization
from meanfield.initialization.sizes import Sizes as Sizes
