"""Load from hey, with every latency of it."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# A scraper's own limit: Prometheus and vmagent give up after 10 s.
TIMEOUT_SECONDS = 10
# What vmagent sends.
ACCEPT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
# hey takes a template of Go where its help speaks of csv only. csv has neither the errors nor more than four decimals.
TEMPLATE = (
    '{{ range $text, $count := .ErrorDist }}error {{ $count }} {{ printf "%q" $text }}\n{{ end }}'
    "{{ range $i, $took := .Lats }}answer {{ index $.StatusCodes $i }} {{ index $.Offsets $i }} {{ $took }}\n{{ end }}"
)


COUNTS = ("answered", "failed", "timed_out")


@dataclass(frozen=True)
class Load:
    """What a load came to. The latencies, in seconds, are those of the good answers; the time-outs are among the
    failures."""

    answered: int
    failed: int
    timed_out: int
    per_second: float
    p50_seconds: float
    p99_seconds: float


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that ``part`` of all values do not exceed; the time-out if there is none."""
    ordered = sorted(values)
    return ordered[math.ceil(part * len(ordered)) - 1] if ordered else TIMEOUT_SECONDS


def program() -> str:
    """Where hey is; ends the run, before anything is measured, where it is not."""
    found = shutil.which("hey")
    if found is None:
        sys.exit("hey is missing: install the load generator from Debian's package (apt-get install hey)")
    return found


def load(url: str, seconds: float, connections: int, rate: int | None = None, compression: bool = True) -> Load:
    """Keep ``connections`` busy for this long, or send ``rate`` requests a second in all over them.

    hey holds a rate per connection, and all connections tick together: a rate comes as bursts of ``connections``.
    """
    command = [program(), "-z", f"{seconds}s", "-c", str(connections), "-t", str(TIMEOUT_SECONDS), "-cpus", "1"]
    command += ["-A", ACCEPT, "-o", TEMPLATE]
    if rate is not None:
        command += ["-q", str(rate / connections)]
    if not compression:
        command.append("-disable-compression")
    output = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    return parse(output, seconds)


def parse(output: str, seconds: float) -> Load:
    """Sum up what TEMPLATE made.

    hey waits for the answers that are due when the time is over. They count for the latency and not for the
    throughput: a server that leaves one connection hanging has not stopped to answer the others.
    """
    failed = timed_out = in_time = 0
    latencies = []
    for line in output.strip().splitlines():
        kind, count, rest = line.split(" ", 2)
        if kind == "error":
            failed += int(count)
            timed_out += int(count) if "Client.Timeout" in rest else 0
        elif count != "200":
            failed += 1
        else:
            offset, took = map(float, rest.split())
            latencies.append(took)
            in_time += offset + took <= seconds
    return Load(
        answered=len(latencies),
        failed=failed,
        timed_out=timed_out,
        per_second=in_time / seconds,
        p50_seconds=percentile(latencies, 0.5),
        p99_seconds=percentile(latencies, 0.99),
    )
