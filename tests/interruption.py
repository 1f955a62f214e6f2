"""How long the services of a robot did not answer while something was done to it, and what its own history lacks of
that time.

    with interruption.watch("robot-1") as watch:
        fleet.playbook("site.yml", "--limit", "robot-1", ...)
    assert watch.services["roverwatch-sensor"].longest_gap_seconds < 3
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import fleet

SCRAPE_INTERVAL_SECONDS = 5.0
# What is asked of each service. Of node_exporter its first page: its metrics, twenty times a second, would be a load.
ASKED = {
    "roverwatch-sensor": (8000, "/readyz"),
    "roverwatch-victoriametrics": (8428, "/health"),
    "roverwatch-vmagent": (8429, "/health"),
    "roverwatch-node-exporter": (9100, "/"),
}
# A scrape, a second in vmagent, and what a busy machine adds.
HISTORY_SECONDS = 60.0

# Runs on a robot, in no cgroup of the stack, until its standard input ends: a thread for each service, and one that
# asks nobody and so says how long the robot itself stood still.
PROBE = """
import json, socket, sys, threading, time

EVERY, TIMEOUT, NOTED = 0.05, 2.0, 0.5
stop = threading.Event()

def answers(port, path):
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.settimeout(TIMEOUT)
        connection.sendall(b"GET %s HTTP/1.0\\r\\n\\r\\n" % path.encode())
        head = connection.recv(4096)
        while connection.recv(65536):
            pass
        return head[9:10] == b"2"

class Asker(threading.Thread):
    def __init__(self, asked):
        super().__init__(daemon=True)
        self.asked, self.first = asked, threading.Event()
        self.probes = self.failed = 0
        self.longest, self.gaps = 0.0, []

    def run(self):
        self.last = time.monotonic()
        while not stop.is_set():
            started = time.monotonic()
            self.probe()
            self.first.set()
            stop.wait(max(0.0, started + EVERY - time.monotonic()))
        self.note()  # whoever does not answer at the end has a gap up to here

    def probe(self):
        self.probes += 1
        try:
            good = self.asked is None or answers(*self.asked)
        except OSError:
            good = False
        if good:
            self.note()
        else:
            self.failed += 1

    def note(self):
        now = time.monotonic()
        gap, self.last = now - self.last, now
        self.longest = max(self.longest, gap)
        if gap >= NOTED:
            self.gaps.append([time.time() - gap, gap])

start = time.time()
askers = {name: Asker(asked) for name, asked in json.loads(sys.argv[1]).items()}
for asker in askers.values():
    asker.start()
for asker in askers.values():
    asker.first.wait()
print("started", flush=True)
sys.stdin.read()
stop.set()
for asker in askers.values():
    asker.join()
found = {n: {k: getattr(a, k) for k in ("probes", "failed", "longest", "gaps")} for n, a in askers.items()}
print(json.dumps({"start": start, "end": time.time(), "askers": found}))
"""
NOBODY = "nobody"


@dataclass(frozen=True)
class Service:
    """What became of one service meanwhile."""

    # The longest time between two answers of 2xx. Where nothing happens that is 0.05 s and what the answer takes.
    longest_gap_seconds: float
    # Those of half a second and more: when each began (Unix), and how long it took.
    gaps: list[tuple[float, float]]
    probes: int
    failed_probes: int
    # The unit's main process; of the sensor service, its container's supervisor. 0 is none.
    pid_before: int
    pid_after: int
    # What the robot's history lacks, and scrapes that it has as failed.
    missed_scrapes: int
    failed_scrapes: int

    @property
    def restarted(self) -> bool:
        return self.pid_before != self.pid_after


@dataclass
class Watch:
    """What was seen, once the watch has ended; by unit. Times are the robot's, in Unix seconds."""

    services: dict[str, Service] = field(default_factory=dict)
    # How long the robot, or the machine underneath, did not let even the watch run. Each gap above may be longer by it.
    stalled_seconds: float = 0.0
    start: float = 0.0
    end: float = 0.0

    def table(self) -> str:
        """For a test's output."""
        rows = [
            f"{unit}: {seen.longest_gap_seconds:.2f} s without an answer, {seen.failed_probes} of {seen.probes} probes "
            f"failed, {'restarted' if seen.restarted else 'not restarted'}, {seen.missed_scrapes} scrapes missed, "
            f"{seen.failed_scrapes} failed"
            for unit, seen in self.services.items()
        ]
        return "\n".join(
            [*rows, f"in {self.end - self.start:.1f} s; the robot stood still for {self.stalled_seconds:.2f} s"]
        )


@contextmanager
def watch(robot: str, interval: float = SCRAPE_INTERVAL_SECONDS) -> Iterator[Watch]:
    """Ask a robot's services all the while, 20 times a second.

    The watch is filled when the block has ended without an error, which takes up to a scrape interval longer.

    Raises RuntimeError when the robot was switched off meanwhile, and when its history does not go on after the block.
    """
    seen = Watch()
    before = main_pids(robot)
    asked = json.dumps({**ASKED, NOBODY: None})
    command = ["docker", "exec", "-i", fleet.container(robot), "python3", "-I", "-S", "-c", PROBE, asked]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        # Whatever comes out of the block: at the end of its input it stops.
        assert probe.stdin and probe.stdout
        with probe.stdin:
            _expect(probe.stdout.readline() == "started\n", f"{robot}: the watch does not start")
            yield seen
        said = probe.stdout.read()
    _expect(probe.returncode == 0, f"{robot}: the watch was ended, by a power cut perhaps")
    found = json.loads(said)
    askers = found["askers"]
    seen.start, seen.end = found["start"], found["end"]
    seen.stalled_seconds = askers[NOBODY]["longest"]
    after = main_pids(robot)
    history = scrapes(robot, seen.start, seen.end, interval)
    for unit in ASKED:
        asker = askers[unit]
        missed, failed = history[job(unit)]
        gaps = [(at, seconds) for at, seconds in asker["gaps"]]
        seen.services[unit] = Service(
            asker["longest"], gaps, asker["probes"], asker["failed"], before[unit], after[unit], missed, failed
        )


def job(unit: str) -> str:
    """The label that a unit's metrics carry."""
    return unit.removeprefix("roverwatch-")


def main_pids(robot: str) -> dict[str, int]:
    shown = fleet.docker("exec", fleet.container(robot), "systemctl", "show", "--property=Id,MainPID", *ASKED)
    units = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")]
    return {unit["Id"].removesuffix(".service"): int(unit["MainPID"]) for unit in units}


def scrapes(robot: str, start: float, end: float, interval: float) -> dict[str, tuple[int, int]]:
    """How many scrapes of each job the robot's history lacks between two times, and how many it has as failed.

    What is counted is the time between neighbours, from the last scrape before the start to the first one after the
    end, so that it does not matter where the period begins. Raises RuntimeError when there is none after the end.
    """
    jobs = [job(unit) for unit in ASKED]

    def complete() -> dict[str, dict[float, float]] | None:
        ups = _ups(robot, start - 2 * interval, end + HISTORY_SECONDS)
        return ups if all(max(ups.get(name, [0.0])) >= end for name in jobs) else None

    ups = fleet.eventually(complete, HISTORY_SECONDS)
    _expect(
        ups is not None, f"{robot}: not every service was scraped again within {HISTORY_SECONDS:g} s after the watch"
    )
    return {name: missed_and_failed(ups[name], start, end, interval) for name in jobs}


def missed_and_failed(ups: dict[float, float], start: float, end: float, interval: float) -> tuple[int, int]:
    """Of one job, from what `up` was at each of its timestamps."""
    around = [(a, b) for a, b in pairwise(sorted(ups)) if b > start and a < end]
    # A late scrape is an interval of its own, and the next one is the shorter for it.
    missed = sum(max(0, round((b - a) / interval) - 1) for a, b in around)
    return missed, sum(value != 1 for at, value in ups.items() if start <= at <= end)


def _ups(robot: str, start: float, end: float) -> dict[str, dict[float, float]]:
    """`up` by job and time; a stale marker is no scrape."""
    found: dict[str, dict[float, float]] = {}
    try:
        exported = fleet.export(robot, "up", start, end)
    except subprocess.CalledProcessError:
        return {}  # its VictoriaMetrics does not answer just now
    for name, samples in exported.items():
        known = {at / 1000: float(value) for at, value in samples.items() if value is not None}
        found.setdefault(json.loads(name)["job"], {}).update(known)
    return found


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise RuntimeError(otherwise)
