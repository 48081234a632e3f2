"""Predicted against measured gradients of modules that others wrote: ``python -m empirical.audit``."""

from empirical.audit.audit import Audit as Audit
from empirical.audit.audit import audit as audit
from empirical.audit.predict import ModulePrediction as ModulePrediction
from empirical.audit.predict import predict as predict
