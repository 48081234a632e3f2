"""Gradients at finite width, exact in law, without ever forming a weight.

A Gaussian matrix that is used once forward and once backward acts through two products, and both can be drawn
given their inputs. The code is written once against the array API: numpy here, torch in `empirical`.
"""

from meanfield.weight_free.backend import Backend as Backend
from meanfield.weight_free.sample import sample as sample
