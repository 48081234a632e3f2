"""Sweeps: a grid of configurations, measured cell by cell on this machine or on a Ray cluster, resumable."""

from empirical.sweep.collection import Collection as Collection
from empirical.sweep.collection import collect as collect
from empirical.sweep.driver import Report as Report
from empirical.sweep.driver import run as run
