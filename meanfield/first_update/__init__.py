"""The first step of an optimiser from a random initialisation, predicted before any training."""

from meanfield.first_update.result import LARGEST_CHANGE as LARGEST_CHANGE
from meanfield.first_update.result import OPTIMIZERS as OPTIMIZERS
from meanfield.first_update.result import FirstUpdate as FirstUpdate
from meanfield.first_update.risk import Setting as Setting
from meanfield.first_update.risk import critical_learning_rate as critical_learning_rate
from meanfield.first_update.risk import risk as risk
from meanfield.first_update.update import first_update as first_update
