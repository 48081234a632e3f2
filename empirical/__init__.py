"""Measurement on real torch models: those of `meanfield`, built, and those of others, read and audited."""

from empirical.audit import audit as audit
from empirical.audit import predict as predict
from empirical.build import build as build
from empirical.ensemble import ensemble as ensemble
from empirical.initialization import check_initialization as check_initialization
from empirical.measure import Measurement as Measurement
from empirical.measure import measure as measure
from empirical.norms import norm_jacobian as norm_jacobian
from empirical.norms import token_norms as token_norms
from empirical.readers import UnsupportedModuleError as UnsupportedModuleError
from empirical.readers import read as read
from empirical.recording import record as record
from empirical.store import measured as measured
from empirical.stream import stream as stream
from empirical.weight_free import weight_free as weight_free

__all__ = [
    "Measurement",
    "UnsupportedModuleError",
    "audit",
    "build",
    "check_initialization",
    "ensemble",
    "measure",
    "measured",
    "norm_jacobian",
    "predict",
    "read",
    "record",
    "stream",
    "token_norms",
    "weight_free",
]
