"""Moments of hidden states and gradients during somebody's own training, and where they are logged."""

from empirical.recording.json_lines import JsonLines as JsonLines
from empirical.recording.json_lines import read_json_lines as read_json_lines
from empirical.recording.recorder import Recorder as Recorder
from empirical.recording.recorder import record as record
from empirical.recording.records import Logger as Logger
from empirical.recording.records import Record as Record
from empirical.recording.tensor_board import TensorBoard as TensorBoard

__all__ = ["JsonLines", "Logger", "Record", "Recorder", "TensorBoard", "read_json_lines", "record"]
