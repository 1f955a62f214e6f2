"""Measures how fast a hub answers its dashboards, and writes bench/results/hub.json and tables of docs/performance.md.

Every series that the demo's robots have at the hub gets 24 h of history under the names bench-1 to bench-3, in a
VictoriaMetrics of its own: a container with the hub's flags, its cap and two cores. The demo itself is only read.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.report import ROOT, machine, table, write_document, write_results
from dashboards import FLEET, ROBOT, queries

HUB = "roverwatch-hub-1"
ROBOTS = ("bench-1", "bench-2", "bench-3")
HOURS = 24
SCRAPE_SECONDS = 15
# A value that moved in this time before now moves in the history, too.
BEFORE_SECONDS = 300
# Each query: so often without VictoriaMetrics' cache of answers, then so often with it.
RUNS = 10
# As Grafana chooses them for a panel of 1000 pixels; VMUI has fewer points.
RANGES = {"24 h": (24 * 3600, 60), "1 h": (3600, 15)}
TARGET_MS = 100
SERIES_PER_REQUEST = 40
START_TIMEOUT_SECONDS = 60
MERGE_TIMEOUT_SECONDS = 300
CORES = 2
# What it does besides answering queries, and files that the container has not.
NOT_HERE = ("-httpListenAddr", "-storageDataPath", "-promscrape.", "-vmui.", "-vmalert.", "-loggerLevel")


@dataclass(frozen=True)
class Series:
    """A series of the demo: its labels, its last value as text, and that of a while ago, if it has one."""

    labels: Mapping[str, str]
    now: str
    before: str | None

    @property
    def moved(self) -> bool:
        return self.before is not None and self.before != self.now and "e" not in self.now

    @property
    def is_counter(self) -> bool:
        return bool(re.search(r"_(total|count|sum|bucket)$", self.labels["__name__"]))


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


# --- what is measured --------------------------------------------------------------------------------------


def live_series() -> list[Series]:
    """What the hub has of the robots and of itself, now."""
    asked = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:8428' + sys.argv[1]).read().decode())"

    def instant(expr: str) -> list[dict[str, Any]]:
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        answer = json.loads(run("docker", "exec", HUB, "python3", "-c", asked, path))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(labels.items()))

    selector = '{__name__!=""}'
    before = {key(item["metric"]): item["value"][1] for item in instant(f"{selector} offset {BEFORE_SECONDS}s")}
    return [
        Series(item["metric"], item["value"][1], before.get(key(item["metric"])))
        for item in instant(selector)
        if math.isfinite(float(item["value"][1]))
    ]


def renamed(live: Sequence[Series]) -> list[Series]:
    """The same under the names of the benchmark: three robots, whatever their number, and one hub."""
    by_robot: dict[str, list[Series]] = {}
    for series in live:
        by_robot.setdefault(series.labels.get("robot", ""), []).append(series)
    own = by_robot.pop("", [])
    names = sorted(by_robot)
    found = [
        Series({**series.labels, "robot": robot}, series.now, series.before)
        for number, robot in enumerate(ROBOTS)
        for series in by_robot[names[number % len(names)]]
    ]
    return found + [Series({**series.labels, "hub": "bench-hub"}, series.now, series.before) for series in own]


def history(series: Series, samples: int, chance: random.Random) -> str:
    """Values up to now, as JSON has them: a counter rises as it did lately, a gauge that moved goes up and down."""
    now, decimals = float(series.now), len(series.now.partition(".")[2])
    if not series.moved or series.before is None:
        return ",".join([series.now] * samples)
    before = float(series.before)
    if series.is_counter:
        step = abs(now - before) * SCRAPE_SECONDS / BEFORE_SECONDS
        value, values = max(now - step * samples, 0.0), []
        for _ in range(samples):
            value += step * 2 * chance.random()
            values.append(value)
    else:
        swing = abs(now - before)
        phase = chance.random() * math.tau
        day = [now + swing * math.sin(phase + math.tau * number / samples) for number in range(samples)]
        values = [value + swing * (chance.random() - 0.5) for value in day]
    return ",".join([f"{value:.{decimals}f}" for value in values])


# --- VictoriaMetrics ---------------------------------------------------------------------------------------


class Database:
    """A VictoriaMetrics on 127.0.0.1, over one connection, as a browser keeps it."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        self.connection.request("POST" if body is not None else "GET", path, body)
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{path[:200]}: HTTP {answer.status}: {text[:500]!r}"
        return text

    def metrics(self, name: str) -> float:
        """The sum over all series of one of its own metrics."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.ask("/metrics").decode(), re.MULTILINE)
        return sum(map(float, found))


@contextmanager
def victoriametrics(flags: Sequence[str], cap: int) -> Iterator[tuple[Database, str]]:
    """A container that runs VictoriaMetrics as the hub does, and its name."""
    (binary,) = sorted((ROOT / "artifacts" / "victoriametrics").glob("*/x86_64/victoriametrics"))[-1:]
    image = run("docker", "inspect", "--format", "{{.Image}}", HUB).strip()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    name = f"roverwatch-bench-hub-{port}"
    with tempfile.TemporaryDirectory(prefix="roverwatch-bench-") as folder:
        limits = [f"--memory={cap}", f"--memory-swap={cap}", f"--cpus={CORES}", "--network=host"]
        mounts = [f"--volume={binary}:/victoriametrics:ro", f"--volume={folder}:/data"]
        listen = [f"-httpListenAddr=127.0.0.1:{port}", "-storageDataPath=/data/data", "-loggerLevel=ERROR"]
        start = ["docker", "run", "--detach", "--name", name, *limits, *mounts, "--entrypoint=/victoriametrics", image]
        run(*start, *flags, *listen)
        try:
            database = Database(port)
            wait_ready(database)
            yield database, name
        finally:
            # As root of the container, whose files nobody else may remove.
            subprocess.run(["docker", "stop", name], check=False, capture_output=True)
            subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)
            clean = ["--entrypoint=/bin/rm", image, "-rf", "/data/data"]
            run("docker", "run", "--rm", f"--volume={folder}:/data", *clean)


def wait_ready(database: Database) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            database.ask("/health")
            return
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline, "VictoriaMetrics does not answer"
            database.connection.close()
            time.sleep(0.1)


def hub_settings() -> tuple[list[str], int]:
    """The flags of the hub's VictoriaMetrics that matter for queries, and its cap in bytes."""
    show = ["docker", "exec", HUB, "systemctl", "show", "roverwatch-victoriametrics", "--value", "--property"]
    pid, cap = run(*show, "MainPID").strip(), int(run(*show, "MemoryMax"))
    line = run("docker", "exec", HUB, "cat", f"/proc/{pid}/cmdline").split("\0")[1:-1]
    return [flag for flag in line if not flag.startswith(NOT_HERE)], cap


def fill(database: Database, found: Sequence[Series], end: int) -> dict[str, Any]:
    """Import the history. How fast that was, and what it takes on the disk."""
    samples = HOURS * 3600 // SCRAPE_SECONDS
    times = ",".join(str((end - SCRAPE_SECONDS * (samples - 1 - number)) * 1000) for number in range(samples))
    chance = random.Random(1)  # noqa: S311  (no secret is made of it)
    seconds, sent = 0.0, 0
    for first in range(0, len(found), SERIES_PER_REQUEST):
        lines = [
            f'{{"metric":{json.dumps(series.labels)},"values":[{history(series, samples, chance)}],'
            f'"timestamps":[{times}]}}'
            for series in found[first : first + SERIES_PER_REQUEST]
        ]
        body = "\n".join(lines).encode()
        start = time.monotonic()
        database.ask("/api/v1/import", body)
        seconds += time.monotonic() - start
        sent += len(lines) * samples
        if first // SERIES_PER_REQUEST % 20 == 0:
            print(f"import: {sent / 1e6:.1f} of {len(found) * samples / 1e6:.1f} million samples", flush=True)
    database.ask("/internal/force_flush")
    database.ask("/internal/force_merge")
    deadline = time.monotonic() + MERGE_TIMEOUT_SECONDS
    while database.metrics("vm_active_force_merges") + database.metrics("vm_active_merges"):
        assert time.monotonic() < deadline, "the merge does not end"
        time.sleep(0.5)
    disk = database.metrics('vm_data_size_bytes{type="[a-z]+/(?!metaindex)[a-z]+"}')
    rows = database.metrics('vm_rows{type="storage/[a-z]+"}')
    assert rows == sent, f"{rows:.0f} of {sent} samples are there"
    return {
        "series": len(found),
        "series_that_move": sum(series.moved for series in found),
        "samples": sent,
        "samples_per_second": round(sent / seconds),
        "disk_bytes": int(disk),
        "bytes_per_sample": round(disk / sent, 2),
    }


# --- queries -----------------------------------------------------------------------------------------------


def measure(database: Database, end: int) -> list[dict[str, Any]]:
    """Milliseconds of every query of both dashboards, over both ranges, without and with the cache of answers."""
    asked = [("fleet", *each) for each in queries(FLEET)] + [("robot", *each) for each in queries(ROBOT, ROBOTS[0])]
    rows = []
    for dashboard, panel, expr, _ in asked:
        for name, (seconds, step) in RANGES.items():
            form = {"query": expr, "start": end - seconds, "end": end, "step": step}
            path = "/api/v1/query_range?" + urllib.parse.urlencode(form)
            body = json.loads(database.ask(path + "&nocache=1"))
            rows.append(
                {
                    "dashboard": dashboard,
                    "panel": panel,
                    "query": expr,
                    "range": name,
                    "series": len(body["data"]["result"]),
                    "cold_ms": timed(database, path + "&nocache=1"),
                    "warm_ms": timed(database, path),
                }
            )
    return rows


def timed(database: Database, path: str) -> dict[str, float]:
    spent = []
    for _ in range(RUNS):
        start = time.perf_counter()
        database.ask(path)
        spent.append((time.perf_counter() - start) * 1000)
    return {"median": round(statistics.median(spent), 1), "p95": round(statistics.quantiles(spent, n=20)[-1], 1)}


def resident_peak(name: str) -> int:
    """Bytes that the process had resident at most."""
    match = re.search(r"VmHWM:\s+(\d+) kB", run("docker", "exec", name, "cat", "/proc/1/status"))
    assert match
    return int(match[1]) * 1024


# --- for people --------------------------------------------------------------------------------------------


def panels(rows: Sequence[Mapping[str, Any]], range_: str) -> list[list[str]]:
    """The slowest query of each panel, slowest panel first."""
    slowest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["dashboard"], row["panel"])
        if row["range"] == range_ and (
            key not in slowest or row["cold_ms"]["median"] > slowest[key]["cold_ms"]["median"]
        ):
            slowest[key] = row
    found = sorted(slowest.values(), key=lambda row: -float(row["cold_ms"]["median"]))
    return [
        [
            row["dashboard"],
            row["panel"],
            str(row["series"]),
            *(str(row[cache][figure]) for cache in ("cold_ms", "warm_ms") for figure in ("median", "p95")),
        ]
        for row in found
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each range, with and without the cache: how many queries, how many without data, how slow at the median."""
    lines = []
    for range_ in RANGES:
        for cache, called in (("cold_ms", "no"), ("warm_ms", "yes")):
            ranked = sorted((row for row in rows if row["range"] == range_), key=lambda row: row[cache]["median"])
            medians = [row[cache]["median"] for row in ranked]
            over = sum(median >= TARGET_MS for median in medians)
            slowest = f"{ranked[-1]['dashboard']}: {ranked[-1]['panel']}"
            empty = sum(row["series"] == 0 for row in ranked)
            lines.append(
                [
                    range_,
                    called,
                    str(len(ranked)),
                    str(empty),
                    str(statistics.median(medians)),
                    str(medians[-1]),
                    slowest,
                    str(over),
                ]
            )
    return lines


HEADER = ["dashboard", "panel", "series", "without cache: median", "p95", "with cache: median", "p95"]


def tables(results: Mapping[str, Any]) -> str:
    """The part of the document that is figures."""
    data, rows = results["data"], results["queries"]
    over = [row for row in rows if max(row["cold_ms"]["median"], row["warm_ms"]["median"]) >= TARGET_MS]
    worst = max(max(row["cold_ms"]["median"], row["warm_ms"]["median"]) for row in rows)
    return "\n\n".join(
        [
            f"Measured on {results['machine']}, with {data['series']} series of {len(ROBOTS)} robots and a hub over "
            f"{HOURS} h, a sample each {SCRAPE_SECONDS} s; {data['series_that_move']} of them move.",
            table(
                ["range", "cache", "queries", "without data", "median, ms", "slowest, ms", "which", "100 ms or more"],
                summary(rows),
            ),
            f"The ten slowest panels over 24 h, ms:\n\n{table(HEADER, panels(rows, '24 h')[:10])}",
            table(
                [
                    "samples",
                    "imported a second",
                    "on the disk, MiB",
                    "bytes a sample",
                    "resident at most, MiB",
                    "cap, MiB",
                ],
                [
                    [
                        str(data["samples"]),
                        str(data["samples_per_second"]),
                        f"{data['disk_bytes'] / (1 << 20):.1f}",
                        str(data["bytes_per_sample"]),
                        f"{results['resident_peak_bytes'] / (1 << 20):.1f}",
                        f"{results['cap_bytes'] / (1 << 20):.0f}",
                    ]
                ],
            ),
            table(
                ["target", "measured", ""],
                [
                    [
                        f"each query in less than {TARGET_MS} ms at the median, both ranges, with and without cache",
                        f"at most {worst} ms",
                        "met" if not over else f"not met by {len(over)} of {len(rows)}",
                    ]
                ],
            ),
        ]
    )


def main() -> None:
    if not run("docker", "ps", "--quiet", "--filter", f"name=^{HUB}$").strip():
        sys.exit("The demo is not running: make demo")
    flags, cap = hub_settings()
    end = int(time.time()) // SCRAPE_SECONDS * SCRAPE_SECONDS
    found = renamed(live_series())
    with victoriametrics(flags, cap) as (database, name):
        data = fill(database, found, end)
        print("queries", flush=True)
        rows = measure(database, end)
        results = {
            "machine": machine(),
            "flags": flags,
            "cap_bytes": cap,
            "data": data,
            "queries": rows,
            "resident_peak_bytes": resident_peak(name),
        }
    for range_ in RANGES:
        print(f"\nover {range_}, ms\n{table(HEADER, panels(rows, range_))}", flush=True)
    write_results("hub", results)
    text = tables(results)
    print(text, flush=True)
    write_document("bench/hub.py", text)


if __name__ == "__main__":
    main()
