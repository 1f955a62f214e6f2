"""What all tests have in common."""

from __future__ import annotations

from hypothesis import settings

# Hypothesis measures an example by the clock on the wall, which tells what else this machine computes.
settings.register_profile("whatever-else-runs", deadline=None)
settings.load_profile("whatever-else-runs")
