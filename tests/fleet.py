"""What the tests ask of real machines: playbooks run against them, units, the kernel's files, the hub."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import subprocess
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "inventory" / "lab.docker.yml"
SLICE = "roverwatch.slice"

# Unit, its cap in bytes, its port.
CAPS = {
    "roverwatch-sensor": 80 << 20,
    "roverwatch-node-exporter": 32 << 20,
    "roverwatch-vmagent": 48 << 20,
    "roverwatch-victoriametrics": 128 << 20,
}
BUDGET = 300 << 20
READY = ("8000/readyz", "8428/health", "8429/health", "9100/metrics")

# `make soak` cuts the power ten times, and cuts robots and hubs off for as long as an operator would notice.
SOAK = bool(os.environ.get("ROVERWATCH_SOAK"))
POWER_CUTS = 10 if SOAK else 1
OUTAGE_SECONDS = 300 if SOAK else 60
HUB_OUTAGE_SECONDS = 120 if SOAK else 30


@dataclass(frozen=True)
class Run:
    """A finished ansible-playbook."""

    rc: int
    output: str
    # By host: ok, changed, failed, unreachable…
    recap: dict[str, dict[str, int]]
    # Of the output, what a program would read.
    stdout: str = ""

    def changed(self) -> dict[str, int]:
        return {host: counts["changed"] for host, counts in self.recap.items() if counts["changed"]}


def playbook(
    name: str,
    *args: str,
    inventory: Path = INVENTORY,
    directory: Path = ROOT,
    settings: Mapping[str, str] | None = None,
) -> Run:
    """Run a playbook of the checkout; or, with other settings, one of an installed collection by its whole name."""
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), name if settings else f"playbooks/{name}", *args],
        cwd=directory,
        env={
            **os.environ,
            **(settings or {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    recap = {
        host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)}
        for host, counts in re.findall(r"^(\S+) +: (ok=\d+ .*)$", output, re.MULTILINE)
    }
    return Run(done.returncode, output, recap, done.stdout)


def eventually(check: Callable[[], Any], seconds: float, every: float = 1) -> Any:
    """Call until the answer is true or the time is up; returns the last answer, which the test asserts."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(every)


def show(host: Any, unit: str, *properties: str) -> dict[str, str]:
    out = host.check_output(f"systemctl show {unit} --property={','.join(properties)}")
    return dict(line.split("=", 1) for line in out.splitlines())


def main_pids(host: Any) -> dict[str, int]:
    return {unit: int(show(host, unit, "MainPID")["MainPID"]) for unit in CAPS}


def worker_pid(host: Any, unit: str) -> int:
    """The process that does a service's work: of a container, the one inside."""
    service = json.loads(host.file(f"/etc/roverwatch/services.d/{unit}.json").content_string)
    if service["kind"] == "binary":
        return int(show(host, unit, "MainPID")["MainPID"])
    cid = host.file(service["cid_file"]).content_string.strip()
    return int(host.check_output(f"{service['engine']} inspect --format '{{{{.State.Pid}}}}' {cid}"))


def cgroups(host: Any, pid: int) -> list[tuple[str, int | None]]:
    """A process's memory cgroup and all above it up to the slice, with the limit of each in bytes."""
    lines = host.file(f"/proc/{pid}/cgroup").content_string.splitlines()
    v1 = [line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(",")]
    mount, limit = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if v1 else ("/sys/fs/cgroup", "memory.max")
    path = v1[0] if v1 else next(line.split(":", 2)[2] for line in lines if line.startswith("0::"))
    assert SLICE in path, f"process {pid} is in {path}, outside of {SLICE}"
    found = []
    while path:
        text = host.file(f"{mount}{path}/{limit}").content_string.strip()
        found.append((f"{mount}{path}", None if text == "max" or int(text) > 1 << 60 else int(text)))
        if path.endswith(SLICE):
            break
        path = path.rsplit("/", 1)[0]
    return found


HOG = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
hoard = [bytearray(1 << 20) for _ in range(400)]
print("survived")
"""


def overrun(host: Any, unit: str) -> None:
    """Take more memory in a service's cgroup than its cap: the kernel kills the service's process, and the taker."""
    pid = worker_pid(host, unit)
    (cgroup, _), *_ = cgroups(host, pid)
    # The service's own process first, as if it had leaked.
    host.check_output(f"echo 1000 > /proc/{pid}/oom_score_adj")
    hoard(host, cgroup)


def hoard(host: Any, cgroup: str) -> None:
    """Take more memory in a cgroup than its limit, until killed."""
    hog = host.run("python3 -c %s %s", HOG, cgroup)
    # Killed by the kernel; or, on cgroup v2, stopped by systemd, which sees the kill and ends the whole unit.
    assert hog.rc in (137, 143), hog
    assert "survived" not in hog.stdout


# Runs on a robot: reads the kernel's files of the cgroups in argv over and over, until the sensor service has sampled
# them meanwhile, too. Of a container, argv names the scope.
WATCH = """
import json, os, sys, time, urllib.request

def number(path):
    try:
        return int(open(path).read())
    except FileNotFoundError:
        return None

def fields(path):
    return {name: int(value) for name, value in map(str.split, open(path))}

def v1(path):
    cpuacct, pids = (path.replace("/memory/", f"/{name}/", 1) for name in ("cpuacct", "pids"))
    memory, usage = fields(path + "/memory.stat"), number(path + "/memory.usage_in_bytes")
    cpu = number(cpuacct + "/cpuacct.usage")
    return {
        "container_memory_usage_bytes": usage,
        "container_memory_working_set_bytes": usage - memory["total_inactive_file"],
        "container_memory_rss": memory["total_rss"],
        "container_memory_cache": memory["total_cache"],
        "container_memory_max_usage_bytes": number(path + "/memory.max_usage_in_bytes"),
        "container_oom_events_total": fields(path + "/memory.oom_control")["oom_kill"],
        "container_cpu_usage_seconds_total": None if cpu is None else cpu / 1e9,
        "container_threads": number(pids + "/pids.current"),
    }

def v2(path):
    memory, usage = fields(path + "/memory.stat"), number(path + "/memory.current")
    return {
        "container_memory_usage_bytes": usage,
        "container_memory_working_set_bytes": usage - memory["inactive_file"],
        "container_memory_rss": memory["anon"],
        "container_memory_cache": memory["file"],
        "container_memory_max_usage_bytes": number(path + "/memory.peak"),
        "container_oom_events_total": fields(path + "/memory.events")["oom_kill"],
        "container_cpu_usage_seconds_total": fields(path + "/cpu.stat")["usage_usec"] / 1e6,
        "container_threads": number(path + "/pids.current"),
    }

def read(path):
    kernel = v2 if os.path.exists(path + "/memory.current") else v1
    found = kernel(path)
    if os.path.isdir(path + "/container"):  # crun's, in which the process is and is killed
        kills = "container_oom_events_total"
        found[kills] = max(found[kills], kernel(path + "/container")[kills])
    return found

def scrape():
    text = urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=5).read().decode()
    [stamp] = [x for x in text.splitlines() if x.startswith('sensor_last_sample_timestamp_seconds{source="cgroup"}')]
    return text, float(stamp.split()[1])

start, readings = time.time(), []
while True:
    readings.append([time.time(), {path: read(path) for path in sys.argv[1:]}])
    text, stamp = scrape()
    if stamp > start + 1.5:
        readings.append([time.time(), {path: read(path) for path in sys.argv[1:]}])
        print(json.dumps({"readings": readings, "sampled": stamp, "metrics": text}))
        break
    time.sleep(0.05)
"""


@dataclass(frozen=True)
class Watched:
    """What the sensor service says of cgroups, beside what the kernel said of each in the second around that sample."""

    # By metric and label `name`.
    said: dict[str, dict[str, float]]
    # By path, what was read one after another; the first of it before the sample, the last after.
    kernel: dict[str, list[dict[str, float | None]]]


def watch(host: Any, paths: Sequence[str]) -> Watched:
    out = json.loads(host.check_output("python3 -c %s " + " ".join(["%s"] * len(paths)), WATCH, *paths))
    said: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(out["metrics"]):
        for sample in family.samples:
            if sample.name.startswith("container_"):
                assert said.setdefault(sample.name, {}).setdefault(sample.labels["name"], sample.value) == sample.value
    # The stamp is of the end of the sample, which takes some milliseconds, or more where the robot is busy.
    first = max(index for index, (taken, _) in enumerate(out["readings"]) if taken < out["sampled"] - 1)
    return Watched(said, {path: [found[path] for _, found in out["readings"][first:]] for path in paths})


def python(where: Any, code: str) -> str:
    """Run Python on a machine: a testinfra host, or a container's name where SSH's port has changed meanwhile."""
    if isinstance(where, str):
        return docker("exec", where, "python3", "-c", code)
    output: str = where.check_output("python3 -c %s", code)
    return output


def series(where: Any, promql: str) -> list[dict[str, Any]]:
    """What an instant query at a machine's own VictoriaMetrics finds."""
    url = f"http://127.0.0.1:8428/api/v1/query?query={urllib.parse.quote(promql)}&nocache=1"
    answer = python(where, f"import urllib.request as u; print(u.urlopen({url!r}, timeout=9).read().decode())")
    found: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
    return found


def query(where: Any, promql: str) -> dict[str, float]:
    """An instant query, as a mapping of the label `robot` to the value."""
    return {row["metric"].get("robot", ""): float(row["value"][1]) for row in series(where, promql)}


def answers(where: Any, *addresses: str) -> bool:
    """Whether each of these answers 2xx on the machine's localhost: `8000/readyz`."""
    code = f"import urllib.request as u; [u.urlopen('http://127.0.0.1:' + a, timeout=2) for a in {addresses}]"
    try:
        python(where, code)
    except (AssertionError, subprocess.CalledProcessError):
        return False
    return True


def container_of(host: Any) -> str:
    """The Docker container that a machine of the lab is."""
    return container(host.backend.get_hostname())


def docker(*args: str) -> str:
    return subprocess.run(["docker", *args], check=True, capture_output=True, text=True).stdout.strip()


LAB_PREFIX = "roverwatch" + (
    "" if os.environ.get("ROVERWATCH_LAB", "demo") == "demo" else "-" + os.environ["ROVERWATCH_LAB"]
)
STATE = ROOT / ".lab" / os.environ.get("ROVERWATCH_LAB", "demo")


def container(name: str) -> str:
    """The container of a machine, by its name in the inventory."""
    return f"{LAB_PREFIX}-{name}"


@contextmanager
def cut_off(*machines: str) -> Iterator[None]:
    """Take machines off the lab's network, as a dead zone does: nothing on them is stopped, nobody is told."""
    for machine in machines:
        docker("network", "disconnect", LAB_PREFIX, container(machine))
    try:
        yield
    finally:
        for machine in machines:
            docker("network", "connect", "--alias", machine, LAB_PREFIX, container(machine))


# Runs on a machine: every sample of the series that match, from its own VictoriaMetrics, packed.
EXPORT = """
import base64, sys, urllib.parse, urllib.request, zlib
args = urllib.parse.urlencode({"match[]": sys.argv[1], "start": sys.argv[2], "end": sys.argv[3]}).encode()
# What came a moment ago is not searched yet unless it is asked to be.
urllib.request.urlopen("http://127.0.0.1:8428/internal/force_flush", timeout=30).read()
found = urllib.request.urlopen("http://127.0.0.1:8428/api/v1/export", args, timeout=120).read()
print(base64.b64encode(zlib.compress(found)).decode())
"""

Samples = dict[str, dict[int, float | str | None]]


def export(machine: str, match: str, start: float, end: float) -> Samples:
    """Every sample between two times (Unix, seconds), by series and timestamp (milliseconds), as the machine has it."""
    packed = docker("exec", container(machine), "python3", "-c", EXPORT, match, str(start), str(end))
    found: Samples = {}
    for line in zlib.decompress(base64.b64decode(packed)).splitlines():
        series = json.loads(line)
        name = json.dumps(series["metric"], sort_keys=True)
        found.setdefault(name, {}).update(zip(series["timestamps"], series["values"], strict=True))
    return found


# VictoriaMetrics stores decimals, the values of a block with one exponent: what lies beside a value decides on its last
# digits, and may be something else on a hub than on a robot.
PRECISION = 1e-11


def lacking(there: Samples, here: Samples) -> Samples:
    """What the one has and the other has not, or has otherwise. Timestamps are compared to the millisecond."""

    def same(one: float | str | None, other: float | str | None) -> bool:
        if isinstance(one, (int, float)) and isinstance(other, (int, float)):
            return math.isclose(one, other, rel_tol=PRECISION)
        return one == other

    found = {}
    for name, samples in there.items():
        others = here.get(name, {})
        missing = {t: value for t, value in samples.items() if t not in others or not same(value, others[t])}
        if missing:
            found[name] = missing
    return found


def count(samples: Samples) -> int:
    return sum(map(len, samples.values()))


def metrics(machine: str, port: int) -> dict[str, float]:
    """What a service of a machine says of itself, by the whole name of each series."""
    url = f"http://127.0.0.1:{port}/metrics"
    text = python(
        container(machine), f"import urllib.request as u; print(u.urlopen({url!r}, timeout=9).read().decode())"
    )
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def pending_bytes(robot: str, hub: str) -> float:
    """What a robot still has in its queue for a hub."""
    found = [
        value
        for name, value in metrics(robot, 8429).items()
        if name.startswith("vmagent_remotewrite_pending_data_bytes{") and f"//{hub}:" in name
    ]
    assert len(found) == 1, found
    return found[0]


def newest_sample_age(hub: str, robot: str) -> float:
    """Seconds since the newest sample of a robot at a hub."""
    found = query(container(hub), f'time() - max by (robot) (tlast_over_time(up{{robot="{robot}"}}[1h]))')
    return found.get(robot, float("inf"))


def received(alert: str, **labels: str) -> set[str]:
    """The states in which an alert has reached the receiver of the lab's first hub."""
    lines = docker("exec", container("hub-1"), "sh", "-c", "cat /var/log/lab-webhook.jsonl || true")
    alerts = [alert for line in lines.splitlines() for alert in json.loads(line)["alerts"]]
    wanted = {"alertname": alert, **labels}.items()
    return {found["status"] for found in alerts if wanted <= found["labels"].items()}
