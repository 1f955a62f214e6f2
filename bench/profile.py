"""Profiles the sensor service under load: ``python -m bench.profile [--seconds 15]``.

Writes to reports/profile/: a flame graph of what each thread computed (py-spy), and one of the memory that was in
use at its peak, allocation by allocation (memray).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.report import ROOT
from bench.sensor import hey
from bench.sensor.services import environment, free_port, wait_until_ready, write_config

REPORTS = ROOT / "reports" / "profile"
CONNECTIONS = 10
PATHS = ("/metrics", "/sensor")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="Profile the sensor service.")
    parser.add_argument("--seconds", type=float, default=15, help="of load for each profile (default: %(default)s)")
    arguments = parser.parse_args()
    hey.program()
    REPORTS.mkdir(parents=True, exist_ok=True)
    cpu, memory, allocations = (REPORTS / name for name in ("cpu.svg", "memory.html", "memory.bin"))

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with service(directory, sys.executable):
            pass  # leaves the bytecode: compiling it would fill both graphs
        print(f"cpu: py-spy watches {arguments.seconds:g} s of load", flush=True)
        py_spy = ("py-spy", "record", "--gil", "--threads", f"--output={cpu}", "--", sys.executable)
        with service(directory, *py_spy) as url:
            load(url, arguments.seconds)

        print(f"memory: memray watches {arguments.seconds:g} s of load", flush=True)
        memray = (sys.executable, "-m", "memray")
        run = ("run", "--quiet", "--force", "--trace-python-allocators", f"--output={allocations}")
        with service(directory, *memray, *run) as url:
            load(url, arguments.seconds)
    subprocess.run([*memray, "flamegraph", "--force", "--no-web", f"--output={memory}", str(allocations)], check=True)
    subprocess.run([*memray, "stats", "--num-largest=10", str(allocations)], check=True)
    allocations.unlink()
    print(f"wrote {cpu.relative_to(ROOT)} and {memory.relative_to(ROOT)}", flush=True)


@contextmanager
def service(directory: Path, *profiler: str) -> Iterator[str]:
    """Run the service under a profiler, which writes and ends on SIGINT."""
    port = free_port()
    config = write_config(directory / "sensor.toml")
    command = [*profiler, "-m", "sensor_service", "--config", str(config)]
    variables = environment(directory) | {"SENSOR_LISTEN": f"127.0.0.1:{port}"}
    child = subprocess.Popen(command, env=variables)
    try:
        wait_until_ready(port, "/readyz", " ".join(command))
        yield f"http://127.0.0.1:{port}"
        child.send_signal(signal.SIGINT)
        child.wait(60)
    finally:
        child.kill()
        child.wait()


def load(url: str, seconds: float) -> None:
    """Ask for each path in turn as fast as it answers, and print what came of it."""
    for path in PATHS:
        seen = hey.load(f"{url}{path}", seconds / len(PATHS), CONNECTIONS)
        print(
            f"  {path}: {seen.answered} answers, {seen.failed} failed, p99 {seen.p99_seconds * 1000:.1f} ms", flush=True
        )


if __name__ == "__main__":
    main()
