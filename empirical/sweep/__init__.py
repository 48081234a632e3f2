"""Sweeps: a grid of configurations, measured cell by cell on this machine or on a Ray cluster, resumable."""

from empirical.sweep.collect import Collection as Collection
from empirical.sweep.collect import collect as collect
from empirical.sweep.run import Report as Report
from empirical.sweep.run import run as run
