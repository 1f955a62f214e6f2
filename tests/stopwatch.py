"""How long something takes, whatever else this machine has to do meanwhile.

    watch = Stopwatch()
    the_thing()
    assert watch.seconds < 1

Time in which the thing could have run, and the kernel had no core for it, does not count: a test that asserts seconds
would otherwise assert that nobody else computes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

HANGS_AFTER_SECONDS = 60.0


class Stopwatch:
    """Starts when it is made: of what this thread does, and of what a process that it waits for does until it ends."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self._start, self._waited = time.monotonic(), self._waits()

    @property
    def seconds(self) -> float:
        """Until now, or until the process has ended, which is for its parent to see afterwards, too."""
        if self.pid is not None:
            deadline = time.monotonic() + HANGS_AFTER_SECONDS
            while not os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                assert time.monotonic() < deadline, f"process {self.pid} does not end within {HANGS_AFTER_SECONDS:g} s"
                time.sleep(0.01)
        # Both may have waited at the same time, so the longer wait alone is certain.
        waited = max(now - then for now, then in zip(self._waits(), self._waited, strict=True))
        return time.monotonic() - self._start - waited

    def _waits(self) -> list[float]:
        tasks = ["thread-self"] if self.pid is None else ["thread-self", str(self.pid)]
        return [_waited_for_a_core(task) for task in tasks]


def _waited_for_a_core(task: str) -> float:
    """Seconds, by the kernel's count."""
    return int(Path("/proc", task, "schedstat").read_text().split()[1]) / 1e9
