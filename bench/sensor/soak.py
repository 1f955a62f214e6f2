"""The service's memory in its container under load, as the kernel accounts it."""

from __future__ import annotations

import re
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.report import ROOT
from bench.sensor import hey
from bench.sensor.services import CAP_BYTES, Container, container, output, write_config

sys.path.append(str(ROOT / "collections"))  # what the roles' modules read cgroups with
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup

SAMPLE_SECONDS = 5
BURST_SECONDS = 10
BURST_CONNECTIONS = 50
TURN_SECONDS = 15
RATE = 200
RATE_CONNECTIONS = 10
PATHS = ("/metrics", "/sensor")


def soak(directory: Path, images: Mapping[str, str], minutes: float) -> dict[str, Any]:
    """All images at the same time, each under its own load."""
    config = write_config(directory / "soak.toml")
    for image in images.values():
        # The file cache of an image is charged to the first who reads it. Somebody else shall be that, always.
        with container(image, config):
            pass
    with ExitStack() as stack:
        running = {flavour: stack.enter_context(container(image, config)) for flavour, image in images.items()}
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(running)))
        stop = threading.Event()
        stack.callback(stop.set)  # before the pool waits for its threads, whatever happens
        loads = {flavour: pool.submit(drive, one.url, stop) for flavour, one in running.items()}
        samples = {flavour: pool.submit(watch, flavour, one, stop) for flavour, one in running.items()}
        futures: list[Future[Any]] = [*loads.values(), *samples.values()]
        wait(futures, timeout=60 * minutes, return_when=FIRST_EXCEPTION)
    return {
        "minutes": minutes,
        "rate": RATE,
        "cap_bytes": CAP_BYTES,
        "images": {
            flavour: {
                "image_bytes": int(output("docker", "image", "inspect", "--format", "{{.Size}}", image)),
                **summary(loads[flavour].result(), samples[flavour].result()),
            }
            for flavour, image in images.items()
        },
    }


def drive(url: str, stop: threading.Event) -> list[hey.Load]:
    """A burst on each path, then a steady rate on them in turns."""
    loads = [hey.load(url + path, BURST_SECONDS, BURST_CONNECTIONS) for path in PATHS]
    while not stop.is_set():
        path = PATHS[len(loads) % len(PATHS)]
        loads.append(hey.load(url + path, TURN_SECONDS, RATE_CONNECTIONS, rate=RATE))
    return loads


def watch(flavour: str, running: Container, stop: threading.Event) -> list[dict[str, float]]:
    """What the kernel says of the container every few seconds."""
    directory = cgroup.cgroup_of_pid(running.pid, cgroup.find_controller())
    begin = time.monotonic()
    samples: list[dict[str, float]] = []
    while not stop.wait(SAMPLE_SECONDS if samples else 0):
        memory = cgroup.memory(directory)
        status = Path(f"/proc/{running.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert resident
        assert memory.peak_bytes is not None, "a cgroup has no memory.peak: the kernel must be 5.19 or newer"
        samples.append(
            {
                "seconds": round(time.monotonic() - begin, 1),
                "usage_bytes": memory.usage_bytes,
                "working_set_bytes": memory.working_set_bytes,
                "resident_bytes": int(resident[1]) * 1024,
                "peak_bytes": memory.peak_bytes,
            }
        )
        if len(samples) % 12 == 1:
            passed = samples[-1]["seconds"] / 60
            print(f"memory, {flavour}, after {passed:.0f} min: {memory.usage_bytes / 1e6:.1f} MB", flush=True)
    return samples


def summary(loads: list[hey.Load], samples: list[dict[str, float]]) -> dict[str, Any]:
    """The largest of each figure, and how fast the working set grows once the first third of the time is over."""
    late = samples[len(samples) // 3 :]
    slope, _ = statistics.linear_regression(
        [sample["seconds"] / 3600 for sample in late], [sample["working_set_bytes"] for sample in late]
    )
    return {
        **{
            key: max(sample[key] for sample in samples)
            for key in ("peak_bytes", "usage_bytes", "working_set_bytes", "resident_bytes")
        },
        "slope_bytes_per_hour": round(slope),
        **{key: sum(getattr(load, key) for load in loads) for key in hey.COUNTS},
        "samples": samples,
    }
