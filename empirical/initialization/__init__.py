"""Is a module initialised as its owner thinks? Every tensor beside a scheme, and beside its peers."""

from empirical.initialization.check import check_initialization as check_initialization
from empirical.initialization.finding import FAULTS as FAULTS
from empirical.initialization.finding import NOTES as NOTES
from empirical.initialization.finding import Finding as Finding
from empirical.initialization.report import InitializationCheck as InitializationCheck
from empirical.initialization.report import Row as Row
