"""Throughput, latency, the start, and a source that hangs. What is compared takes turns within one run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.sensor import hey
from bench.sensor.services import (
    EXPORTER,
    NAIVE,
    SERVER_CORE,
    container,
    environment,
    process,
    sensor_service,
    write_config,
)

ROUNDS = 3
WARM_UP_SECONDS = 2
LOAD_SECONDS = 10
CONNECTIONS = 50
RATE = 200
RATE_CONNECTIONS = 10

STARTS = 10

HANG_ROUNDS = 6
HANG_LOAD_SECONDS = 10
STALE_SECONDS = 6
SECOND_SOURCE = """
[[sources]]
type = "simulated"
name = "second"
[sources.options]
stall_every = {}
stall_seconds = 600
"""


def throughput(directory: Path) -> list[dict[str, Any]]:
    """Every service and path under load, each in a process of its own: none inherits a backlog or a heap."""
    variables = environment(directory / "bytecode")
    service = sensor_service(write_config(directory / "throughput.toml"))
    # A scraper asks for compression. What that changes is measured for the two that are compared as exporters.
    plan = [(one, path, True) for one in (service, EXPORTER, NAIVE) for path in one.paths]
    plan += [(one, "/metrics", False) for one in (service, EXPORTER)]
    rows: list[dict[str, Any]] = [
        {"service": one.name, "path": path, "compression": compression, "rounds": []} for one, path, compression in plan
    ]
    for number in range(ROUNDS):
        for (one, path, compression), row in zip(plan, rows, strict=True):
            how = "" if compression else ", no compression"
            print(f"load, round {number + 1} of {ROUNDS}: {one.name} {path}{how}", flush=True)
            with process(one, variables) as running:
                row["body_bytes"] = body_bytes(running.url + path, compression)
                row["rounds"].append(load(running.url + path, compression))
    for row in rows:
        for kind in ("steady", "full"):
            row[kind] = summary([round_[kind] for round_ in row["rounds"]])
    return rows


def load(url: str, compression: bool) -> dict[str, hey.Load]:
    """The steady rate comes first: a server that cannot keep up would carry its backlog into it."""
    hey.load(url, WARM_UP_SECONDS, RATE_CONNECTIONS, compression=compression)
    return {
        "steady": hey.load(url, LOAD_SECONDS, RATE_CONNECTIONS, rate=RATE, compression=compression),
        "full": hey.load(url, LOAD_SECONDS, CONNECTIONS, compression=compression),
    }


def summary(loads: Sequence[hey.Load]) -> dict[str, float]:
    """Medians of what is measured, sums of what is counted."""
    rounds = [asdict(one) for one in loads]
    return {key: (sum if key in hey.COUNTS else statistics.median)(one[key] for one in rounds) for key in rounds[0]}


def body_bytes(url: str, compression: bool) -> int:
    """The length of an answer's body as it is sent."""
    headers = {"Accept": hey.ACCEPT, "Accept-Encoding": "gzip" if compression else "identity"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310  (loopback)
        return len(answer.read())


def start(directory: Path, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """From the start until ready on one core, beside a Python that does nothing."""
    config = write_config(directory / "start.toml")
    variables = environment(directory / "bytecode")
    service, core = sensor_service(config), str(SERVER_CORE)
    rows: list[dict[str, Any]] = [{"what": what, "seconds": [], "empty_seconds": []} for what in ("process", *images)]
    with process(service, variables):
        pass  # writes the bytecode, which the image has
    for number in range(STARTS):
        print(f"start, {number + 1} of {STARTS}", flush=True)
        for row in rows:
            if row["what"] == "process":
                with process(service, variables) as running:
                    row["seconds"].append(running.start_seconds)
                empty = ["taskset", "-c", core, sys.executable]
            else:
                image, cpu = images[row["what"]], f"--cpuset-cpus={core}"
                with container(image, config, cpu) as running:
                    row["seconds"].append(running.start_seconds)
                empty = ["docker", "run", "--rm", "--network=host", cpu, "--entrypoint=python3", image]
            row["empty_seconds"].append(timed(*empty, "-c", "pass"))
    for row in rows:
        row["median_seconds"] = statistics.median(row["seconds"])
        row["empty_median_seconds"] = statistics.median(row["empty_seconds"])
    return rows


def timed(*command: str) -> float:
    """Seconds that a command takes."""
    started = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - started


def hang(directory: Path) -> dict[str, Any]:
    """Two services in turns at the same rate; a source of the second one hangs all the time."""
    variables = environment(directory / "bytecode")
    calm = sensor_service(write_config(directory / "calm.toml", SECOND_SOURCE.format(0)))
    hanging = sensor_service(write_config(directory / "hanging.toml", SECOND_SOURCE.format(2)))
    loads: dict[str, list[hey.Load]] = {"calm": [], "hanging": []}
    with process(calm, variables) as one, process(hanging, variables) as other:
        turns = {"calm": one.url + "/metrics", "hanging": other.url + "/metrics"}
        for url in turns.values():
            hey.load(url, WARM_UP_SECONDS, RATE_CONNECTIONS)
        time.sleep(STALE_SECONDS)
        for number in range(HANG_ROUNDS):
            print(f"a source that hangs, {number + 1} of {HANG_ROUNDS}", flush=True)
            assert (state(one.url), state(other.url)) == ("ok", "stale"), "the wrong source hangs"
            for kind, url in turns.items():
                loads[kind].append(hey.load(url, HANG_LOAD_SECONDS, RATE_CONNECTIONS, rate=RATE))
    return {
        "seconds": HANG_ROUNDS * HANG_LOAD_SECONDS,
        "rounds": loads,
        **{kind: summary(rounds) for kind, rounds in loads.items()},
    }


def state(url: str) -> str:
    """What the service says of its source ``second``."""
    with urllib.request.urlopen(url + "/") as answer:  # noqa: S310  (loopback)
        sources: list[dict[str, str]] = json.load(answer)["sources"]
    return next(source["state"] for source in sources if source["name"] == "second")
