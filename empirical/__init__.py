"""Measurement on real torch models: the architectures of `meanfield`, built, run and recorded."""

from empirical.build import build as build
from empirical.measure import Measurement as Measurement
from empirical.measure import measure as ensemble
from empirical.norms import norm_jacobian as norm_jacobian
from empirical.norms import token_norms as token_norms
from empirical.store import measured as measured
from empirical.weight_free import weight_free as weight_free

__all__ = ["Measurement", "build", "ensemble", "measured", "norm_jacobian", "token_norms", "weight_free"]
