"""Hypothesis profiles: dev (default), ci (derandomised, no deadline), thorough."""

import os

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")

settings.register_profile("dev", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
