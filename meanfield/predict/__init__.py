"""Predictions: the theory table of an architecture, from Python and from the command line."""

from meanfield.predict.engine import predict as predict
from meanfield.predict.table import KEYS as KEYS
from meanfield.predict.table import Prediction as Prediction
from meanfield.predict.table import configuration as configuration
from meanfield.predict.total import total_grad_sq as total_grad_sq
