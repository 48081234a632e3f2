"""The comparison layer: theory beside measurement, in tables, figures and verdicts.

`figures.compare` joins the two tables, `figures.fits` fits scaling exponents, one module per figure
draws what its tables say, and `figures.verdicts` decides every claim of the paper. `python -m figures` does
all of it.
"""
