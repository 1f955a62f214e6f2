"""Spikes of the service's own CPU use: what a robot's planner notices before any average does."""

from __future__ import annotations

from collections.abc import Callable

SPIKE_CORES = 0.5  # of one core


class CpuSpikes:
    """Measures how long the process stays above SPIKE_CORES, and reports each stretch when it ends."""

    def __init__(self, report: Callable[[float], None], now: float, cpu_seconds: float) -> None:
        self._report = report
        self._now = now
        self._cpu_seconds = cpu_seconds
        self._stretch = 0.0

    def check(self, now: float, cpu_seconds: float) -> None:
        """Take in the clock and the CPU time the process has used so far, both in seconds."""
        elapsed, used = now - self._now, cpu_seconds - self._cpu_seconds
        self._now, self._cpu_seconds = now, cpu_seconds
        if used > SPIKE_CORES * elapsed:
            self._stretch += elapsed
        elif self._stretch:
            self._report(self._stretch)
            self._stretch = 0.0
