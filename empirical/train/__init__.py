"""The paper's training experiments: does placement decide whether warm-up is needed?"""

from empirical.train.data import Generated as Generated
from empirical.train.data import ParallelFiles as ParallelFiles
from empirical.train.data import ParallelTable as ParallelTable
from empirical.train.data import PlainText as PlainText
from empirical.train.data import PythonText as PythonText
from empirical.train.folder import Result as Result
from empirical.train.loop import train as train
from empirical.train.optimizers import Optimizer as Optimizer
from empirical.train.run import Model as Model
from empirical.train.run import Run as Run
from empirical.train.run import options as options
from empirical.train.schedules import Schedule as Schedule
