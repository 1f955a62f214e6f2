"""What a stopwatch counts, and what not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from stopwatch import Stopwatch

SPIN = "import time\nwhile True: pass"
WORK = "import time\nwhile time.process_time() < 0.3: pass"


def test_what_sleeps_and_what_computes_counts() -> None:
    watch = Stopwatch()
    time.sleep(0.1)
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert watch.seconds >= 0.2


def test_what_another_took_the_core_for_does_not_count() -> None:
    """Three that spin, and one process that has 0.3 s to compute, on one core."""
    (core, *_) = os.sched_getaffinity(0)
    pinned = ["taskset", "--cpu-list", str(core), sys.executable, "-c"]
    spinning = [subprocess.Popen([*pinned, SPIN]) for _ in range(3)]
    try:
        start = time.monotonic()
        with subprocess.Popen([*pinned, WORK]) as process:
            watch = Stopwatch(process.pid)
            seconds = watch.seconds
        taken = time.monotonic() - start
    finally:
        for one in spinning:
            one.kill()
            one.wait()
    assert process.returncode == 0
    # Some of its 0.3 s lie before the watch.
    assert 0.2 <= seconds < taken - 0.3
