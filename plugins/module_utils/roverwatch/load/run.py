"""Load on one service of a robot: what is asked for, one run of the load generator, and the figures of many runs.

The generator is hey, which runs on the robot itself: the service listens on 127.0.0.1 there. It has a scope and a cap
of its own, outside of the slice, so that nothing of it counts as the service's or against the budget.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.sizes import from_bytes
from ..query import probe
from ..service import records
from ..system import cgroup, systemd, units

SCOPE = "roverwatch-load-test"
CLEANUP = "roverwatch-load-test-cleanup"
# Where roverwatch.fleet.artifact puts it.
GENERATOR = "hey"
FOLDER = Path("/opt/roverwatch") / GENERATOR
# With 500 connections hey takes 41M.
GENERATOR_MEMORY_MAX = "64M"
CONNECTIONS_MAX = 500
# The path that is loaded where nobody says another one: load_test_path says it once more.
OWN_PATH = "/metrics"
# As long as a scrape may take. A request without an answer by then has failed.
REQUEST_TIMEOUT_SECONDS = 10
# The load is made of slices, so that an operator sees how it goes.
SLICE_SECONDS = 5.0
SHORTEST_SLICE_SECONDS = 1.0
SAMPLE_SECONDS = 0.2
# Nobody came back when the generator is not there after the one, and no slice has followed another after the other.
BRINGING_SECONDS = 600
FOLLOWING_SECONDS = 60
LATENCIES_PER_MS = 10

# hey's csv leaves out every request that got no answer, and its summary has no latencies that can be added up. But
# what -o does not know as a name it takes for a template over its report.
TEMPLATE = (
    '{"seconds": {{.Total.Seconds}}, "errors": {{jsonify .ErrorDist}}, "statuses": {{jsonify .StatusCodeDist}}, '
    '"latencies": {{jsonify .Lats}}}'
)


class LoadError(Exception):
    """The service cannot be loaded; the text says why, and what to do."""


# --- what is asked for -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The load on one robot: its variables `load_test_<field>`. Empty `url` means the service of `unit`, at `path`."""

    connections: int
    rate: int
    duration: int
    path: str
    url: str
    unit: str

    @property
    def speed(self) -> str:
        """How fast it is to be, for people."""
        return f"at {self.rate} requests a second" if self.rate else "as fast as it can"

    def describe(self, url: str) -> str:
        """The whole plan, for people."""
        return f"GET {url} over {self.connections} connections, {self.speed}, for {self.duration} s"


def plan(variables: Mapping[str, Any]) -> Plan:
    """The plan in the variables of the role `load_test`, of their types. Raises LoadError with all that is wrong."""
    problems = []
    values: dict[str, Any] = {}
    for name, read in _READERS.items():
        value = variables[f"load_test_{name}"]
        try:
            values[name] = read(value)
        except ValueError as error:
            problems.append(f"load_test_{name} is {value!r}: {error}")
    if values.get("url") and values.get("path") != OWN_PATH:
        problems.append("load_test_url and load_test_path are both set: the URL is a whole one, leave out the path")
    if problems:
        raise LoadError("; ".join(problems))
    asked = Plan(**values)
    if 0 < asked.rate < asked.connections:
        raise LoadError(
            f"load_test_rate is {asked.rate} a second for all of the {asked.connections} connections, and each sends "
            f"at least one a second: set load_test_connections to {asked.rate} or less"
        )
    return asked


def _whole(low: int, high: int) -> Any:
    def read(value: int) -> int:
        if isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return value

    return read


def _seconds(value: str) -> int:
    match = re.fullmatch(r"(\d{1,4})(s|m|h|)", value)
    seconds = int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0
    if not 1 <= seconds <= 3600:
        raise ValueError("give a time from 1s to 1h, such as 30s or 5m")
    return seconds


def _matching(pattern: str, what: str) -> Any:
    def read(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"give {what}")
        return value

    return read


_READERS: Mapping[str, Any] = {
    "connections": _whole(1, CONNECTIONS_MAX),
    "rate": _whole(0, 100_000),
    "duration": _seconds,
    "path": _matching(r"/\S*", "a path that starts with /, such as /metrics"),
    "url": _matching(r"|https?://[^/\s]+\S*", "a whole URL, such as http://127.0.0.1:8000/sensor"),
    "unit": _matching(r"[\w@.-]+", "the name of a deployed service, such as roverwatch-sensor"),
}


# --- one run, on the robot ---------------------------------------------------------------------------------


@dataclass
class Figures:
    """What a run showed, or several: requests by what became of them, latencies, and the service's cgroup meanwhile.

    `latencies` counts answers by tenths of a millisecond. The working set is the largest that was seen. `peak_bytes` is
    the kernel's peak if the run raised it, and otherwise the largest usage that was seen.
    """

    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    working_set_bytes: int = 0
    peak_bytes: int = 0
    limit_bytes: int | None = None
    cpu_seconds: float = 0.0
    # Of all the time that the service is deployed, as of now.
    oom_kills_total: int = 0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Figures:
        """Read the form of `as_dict`, as JSON left it."""
        counters = {
            "errors": Counter(data["errors"]),
            "statuses": Counter(data["statuses"]),
            "latencies": Counter({int(tenths): count for tenths, count in data["latencies"].items()}),
        }
        return cls(**{**{key: data[key] for key in cls.__dataclass_fields__}, **counters})

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a module's result."""
        counters = {key: dict(getattr(self, key)) for key in ("errors", "statuses", "latencies")}
        return {**{key: getattr(self, key) for key in self.__dataclass_fields__}, **counters}

    def add(self, later: Figures) -> None:
        """Take in a later run."""
        self.seconds += later.seconds
        self.errors += later.errors
        self.statuses += later.statuses
        self.latencies += later.latencies
        self.working_set_bytes = max(self.working_set_bytes, later.working_set_bytes)
        self.peak_bytes = max(self.peak_bytes, later.peak_bytes)
        self.limit_bytes = later.limit_bytes or self.limit_bytes
        self.cpu_seconds += later.cpu_seconds
        self.oom_kills_total = later.oom_kills_total

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    @property
    def requests(self) -> int:
        return self.answered + sum(self.errors.values())

    @property
    def failures(self) -> dict[str, int]:
        """Requests that failed, by reason: any answer but a 2xx, and no answer."""
        statuses = {f"HTTP {status}": count for status, count in self.statuses.items() if not status.startswith("2")}
        return {**statuses, **self.errors}

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def answers_per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def cores(self) -> float:
        """Processor time of the service, in cores."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that this share of all answers did not exceed; None without an answer."""
        rank = math.ceil(percent / 100 * sum(self.latencies.values()))
        for tenths in sorted(self.latencies):
            rank -= self.latencies[tenths]
            if rank <= 0:
                return tenths / LATENCIES_PER_MS
        return None


def claim() -> None:
    """Have the robot to oneself, before the generator is brought there."""
    timer = f"{CLEANUP}.timer"
    if systemd.show(timer, ["ActiveState"])["ActiveState"] == "active":
        raise LoadError(
            "another load test runs on this robot, or was cut off: wait a minute, or, where nobody runs one, there: "
            f"systemctl stop {timer}"
        )
    arm(BRINGING_SECONDS)


def arm(seconds: int) -> None:
    """Have the robot itself remove the generator after this time, in case that nobody comes back to do it."""
    disarm()
    timer = ["systemd-run", "--quiet", "--collect", f"--unit={CLEANUP}", f"--on-active={seconds}s"]
    done = subprocess.run([*timer, "rm", "-rf", str(FOLDER)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadError(f"systemd-run cannot set a timer: {done.stderr.strip()}")


def disarm() -> None:
    """The opposite of `arm`, whether it is armed or not."""
    subprocess.run(["systemctl", "stop", f"{CLEANUP}.timer"], capture_output=True, check=False)


def find_service(unit: str, directory: Path = records.DIRECTORY) -> records.Installed:
    """A service that was deployed here."""
    installed = {item.unit: item for item in records.read(directory)}
    if unit not in installed:
        there = ", ".join(installed) or "none"
        raise LoadError(
            f"{unit} is not deployed here (these are: {there}). Correct load_test_unit, or run playbooks/site.yml first"
        )
    return installed[unit]


def find_url(service: records.Installed, path: str, url: str) -> str:
    """What to load. Raises LoadError when it does not answer, so that nothing is sent to a service that is down."""
    found = url or urllib.parse.urljoin(service.ready_url, path)
    status, body = probe.http_get(found, REQUEST_TIMEOUT_SECONDS)
    if not probe.is_ready(status):
        raise LoadError(f"{found} does not answer with 2xx before any load: {probe.describe(status, body)}")
    return found


class Watch:
    """The cgroup of a service while it is loaded. After a restart it is another one, and in between there is none."""

    def __init__(
        self, service: records.Installed, proc: Path = cgroup.PROC, oom_records: Path = cgroup.OOM_RECORDS
    ) -> None:
        self.service = service
        self.proc, self.oom_records = proc, oom_records
        controller = cgroup.find_controller(proc / "self" / "mountinfo")
        self.slice = controller.directory(systemd.show(units.SLICE, ["ControlGroup"])["ControlGroup"])
        self.figures = Figures()
        self.first = self.memory()
        self.cpu_before = _cpu_seconds(self.first, proc)
        self.sample()

    def memory(self) -> cgroup.CgroupMemory | None:
        """What the kernel says now."""
        try:
            if self.service.cid_file:
                return cgroup.container_memory(self.slice, Path(self.service.cid_file).read_text().strip())
            return cgroup.memory(self.slice / systemd.full_name(self.service.unit))
        except (cgroup.CgroupError, FileNotFoundError):
            return None

    def sample(self) -> cgroup.CgroupMemory | None:
        """Take in what the kernel says now."""
        now = self.memory()
        if now:
            seen = self.figures
            seen.working_set_bytes = max(seen.working_set_bytes, now.working_set_bytes)
            known = self.first.peak_bytes if self.first and self.first.inode == now.inode else 0
            raised = now.peak_bytes if now.peak_bytes and now.peak_bytes > (known or 0) else 0
            seen.peak_bytes = max(seen.peak_bytes, now.usage_bytes, raised)
            seen.limit_bytes = now.limit_bytes
        return now

    def finish(self) -> Figures:
        """All that was seen."""
        last = self.sample()
        spent = _cpu_seconds(last, self.proc)
        self.figures.cpu_seconds = sum(seconds - self.cpu_before.get(pid, 0.0) for pid, seconds in spent.items())
        self.figures.oom_kills_total = cgroup.read_oom_record(self.service.unit, self.oom_records).now(last)
        return self.figures


def _cpu_seconds(memory: cgroup.CgroupMemory | None, proc: Path) -> dict[int, float]:
    """Processor time of each process in a cgroup so far."""
    spent: dict[int, float] = {}
    if memory:
        with contextlib.suppress(OSError):  # one of them ended just now
            for file in Path(memory.path).rglob("cgroup.procs"):
                for pid in map(int, file.read_text().split()):
                    # The name in parentheses may hold blanks; what follows it are fields 3 and on.
                    fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
                    spent[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def command(program: str, url: str, seconds: float, connections: int, rate: int) -> list[str]:
    """A command line that loads `url`, outside of the slice and under a cap of its own."""
    # What was sent when the time is over may take until its timeout; all of it is over then, whoever still waits.
    last = math.ceil(seconds) + 2 * REQUEST_TIMEOUT_SECONDS
    scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={SCOPE}", "--uid=nobody"]
    scope += [f"--property=MemoryMax={GENERATOR_MEMORY_MAX}", f"--property=RuntimeMaxSec={last}"]
    hey = [program, "-z", f"{seconds:g}s", "-c", str(connections), "-t", str(REQUEST_TIMEOUT_SECONDS)]
    if rate:
        hey += ["-q", f"{rate / connections:g}"]
    return [*scope, *hey, "-disable-redirects", "-o", TEMPLATE, url]


def run(arguments: Sequence[str], watch: Watch) -> Figures:
    """Run the generator to its end and watch the service meanwhile."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while True:
        try:
            output, errors = process.communicate(timeout=SAMPLE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            watch.sample()
    if process.returncode == -9:
        raise LoadError(
            f"the kernel killed hey at its own cap of {GENERATOR_MEMORY_MAX}: lower load_test_connections or "
            "load_test_rate"
        )
    if process.returncode != 0:
        raise LoadError(f"hey ended with {process.returncode}: {errors.strip()}")
    figures = watch.finish()
    try:
        read(output, figures)
    except (ValueError, KeyError) as error:
        raise LoadError(f"hey printed what this cannot read ({error}): {(output + errors).strip()[:200]}") from error
    return figures


def read(output: str, figures: Figures) -> None:
    """Fill in what hey printed for TEMPLATE. Raises ValueError or KeyError when it is something else."""
    report = json.loads(output)
    figures.seconds = report["seconds"]
    for text, count in (report["errors"] or {}).items():
        # In front stand URL and ports, which differ each time: `Get "http://…": dial tcp …: connection refused`
        figures.errors[text.rpartition(": ")[2]] += count
    figures.statuses.update(report["statuses"] or {})
    figures.latencies.update(round(seconds * 1000 * LATENCIES_PER_MS) for seconds in report["latencies"])


# --- for people and programs -------------------------------------------------------------------------------


def summary(figures: Figures) -> dict[str, Any]:
    """What counts of a run, without the latency of each answer."""
    return {
        "seconds": round(figures.seconds, 1),
        "requests": figures.requests,
        "failed": figures.failed,
        "failures": figures.failures,
        "answers_per_second": round(figures.answers_per_second, 1),
        "latency_ms": {
            **{f"p{percent}": figures.percentile_ms(percent) for percent in (50, 90, 99)},
            "max": figures.percentile_ms(100),
        },
        "working_set_bytes": figures.working_set_bytes,
        "peak_bytes": figures.peak_bytes,
        "limit_bytes": figures.limit_bytes,
        "cpu_cores": round(figures.cores, 2),
    }


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def progress(host: str, elapsed: float, asked: Plan, figures: Figures) -> str:
    """One line about a slice that ended `elapsed` seconds after the start."""
    memory = from_bytes(figures.working_set_bytes)
    cap = f" of {from_bytes(figures.limit_bytes)}" if figures.limit_bytes else ""
    return (
        f"{host} {min(elapsed, asked.duration):.0f} s of {asked.duration} s: "
        f"{figures.answers_per_second:.0f} requests a second, p50 {milliseconds(figures.percentile_ms(50))}, "
        f"p99 {milliseconds(figures.percentile_ms(99))}, failed {figures.failed}, memory {memory}{cap}"
    )
