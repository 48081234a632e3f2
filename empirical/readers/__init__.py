"""Readers: from somebody's `torch.nn.Module` to an architecture value."""

from empirical.readers.reader import read as read
from empirical.readers.reader import read_module as read_module
from empirical.readers.reading import Reading as Reading
from empirical.readers.reading import Slot as Slot
from empirical.readers.reading import Stream as Stream
from empirical.readers.reading import UnsupportedModuleError as UnsupportedModuleError
