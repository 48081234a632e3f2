"""The comparison layer: theory beside measurement, in tables, figures and verdicts.

`figures.compare` joins the two tables, `figures.fits` fits scaling exponents, one module per figure
draws what its tables say, and `figures.verdicts` decides every claim of the paper. `python -m figures` does
all of it.
"""

from figures.compare import compare as compare
from figures.fits import fit_exponent as fit_exponent
