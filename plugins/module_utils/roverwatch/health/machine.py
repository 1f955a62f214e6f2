"""Every check of one machine: what runs, whether it answers, and what the kernel says about its memory.

Whatever an operator must act on becomes a problem with its remedy; the figures themselves judge nothing.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..common import background
from ..common.sizes import from_bytes
from ..hub import gateway, uplink
from ..query import probe, promql
from ..system import cgroup, filesystems, sockets, systemd
from . import alerts, holes, limits

UNIT_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "ControlGroup",
    "ExecMainStartTimestampMonotonic",
)

# A service this close to its cap is about to be killed.
NEARLY_FULL = 0.95
# An engine's client takes a second on a small robot under load; one that takes longer hangs.
ENGINE_TIMEOUT_SECONDS = 5.0
# Who may reach which port; the unit loads it when the machine starts, and who flushes all tables flushes it, too.
FIREWALL_UNIT, FIREWALL_TABLE = "roverwatch-firewall", "table inet roverwatch"
# Which service has the robot's own history, that of its queues among it.
HISTORY_UNIT = "roverwatch-victoriametrics"
DAY_SECONDS = 86400.0
# A certificate that was made here is renewed by any run in its last thirty days.
EXPIRES_SOON_DAYS = 14.0
# What a background check may take beyond its own timeout before it counts as hanging.
GRACE_SECONDS = 0.3

# The hub hears of a robot for this long after its last sample.
NEWEST_SAMPLE_QUERY = "max by (robot) (tlast_over_time(up[1d]))"
TARGETS_UP_QUERY = "count(up == 1) by (robot)"


class HealthError(Exception):
    """The machine could not be checked at all."""


@dataclass(frozen=True)
class Options:
    """What the machine should be. Sizes in bytes, times in seconds; `host` is its name in the inventory."""

    host: str
    expected_units: Sequence[str] = ()
    slice_unit: str = "roverwatch.slice"
    memory_budget: int | None = None
    hub_query_url: str | None = None
    ready_timeout_seconds: float = 2.0
    oom_window_seconds: float = 900.0
    hub_timeout_seconds: float = 5.0
    restart_window_seconds: float = 600.0
    restarts_allowed: int = 2
    hubs_may_be_silent: bool = False
    holes_period_seconds: float = 0.0


@dataclass(frozen=True)
class Paths:
    """Where a machine keeps what is read here."""

    services: Path = Path("/etc/roverwatch/services.d")
    oom_records: Path = cgroup.OOM_RECORDS
    proc: Path = cgroup.PROC
    firewall: Path = Path("/etc/roverwatch/firewall.nft")
    data: Path = filesystems.DATA
    also_written: Sequence[Path] = filesystems.OTHERS


PATHS = Paths()


@dataclass(frozen=True)
class Installed:
    """What was written down about a service when it was deployed."""

    unit: str
    kind: str
    version: str
    memory_max: int
    ready_url: str
    exe: str | None = None
    engine: str | None = None
    image: str | None = None
    image_id: str | None = None
    cid_file: str | None = None
    tls_port: int | None = None
    hubs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Readiness:
    """One answer of a readiness URL."""

    ready: bool
    milliseconds: float
    reason: str


@dataclass(frozen=True)
class Problem:
    """Something that an operator must act on, and what to do. `service` may also be a slice or `hub`."""

    service: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Certificate:
    """What a service that speaks TLS shows: when that expires (seconds since the epoch), or why it cannot be seen."""

    expires: float | None
    reason: str = ""

    @property
    def days_left(self) -> float | None:
        """Days until it expires, negative if it has."""
        return None if self.expires is None else round((self.expires - time.time()) / DAY_SECONDS, 1)


@dataclass(frozen=True)
class OomKills:
    """OOM kills of a service over all its restarts.

    `last_seconds` is the time since the last one; None when there was none.
    """

    total: int
    last_seconds: float | None


@dataclass
class Service:
    """One service as it is now; `shown` is systemd's view of its unit."""

    installed: Installed
    shown: dict[str, str]
    readiness: Readiness
    uptime_seconds: float | None
    memory: cgroup.CgroupMemory | None = None
    supervisor: cgroup.CgroupMemory | None = None
    oom: OomKills = field(default_factory=lambda: OomKills(0, None))
    certificate: Certificate | None = None
    # Who else has its port; empty if nobody has.
    stranger: str = ""
    running: str | None = None
    running_as_recorded: bool | None = None
    # What could not be found out, which is a problem too.
    unknown: list[str] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether systemd holds the unit for running."""
        return self.shown["ActiveState"] == "active"

    @property
    def ready(self) -> bool:
        """Whether it answers 2xx itself."""
        return self.readiness.ready and not self.stranger

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the module's result."""
        loaded = self.shown.get("LoadState") != "not-found"
        return {
            "unit": self.installed.unit,
            "kind": self.installed.kind,
            "version": self.installed.version,
            "state": self.shown["ActiveState"] if loaded else "not-found",
            "sub_state": self.shown.get("SubState", ""),
            "restarts": int(self.shown.get("NRestarts", "0")),
            "uptime_seconds": self.uptime_seconds,
            "ready": self.ready,
            "ready_ms": self.readiness.milliseconds,
            "ready_reason": self.readiness.reason,
            "cap_bytes": self.installed.memory_max,
            "memory": self.memory.as_dict() if self.memory else None,
            "supervisor_usage_bytes": self.supervisor.usage_bytes if self.supervisor else None,
            "oom_kills_total": self.oom.total,
            "oom_seconds_since_last": self.oom.last_seconds,
            "certificate_days_left": self.certificate.days_left if self.certificate else None,
            "running": self.running,
            "running_as_recorded": self.running_as_recorded,
        }


def check(options: Options, paths: Paths = PATHS) -> dict[str, Any]:
    """Check the machine.

    Takes little longer than `ready_timeout_seconds`, however many services hang, or `hub_timeout_seconds` where hubs
    do.
    """
    installed = read_installed(paths.services)
    # All that can hang starts first and runs beside the rest.
    probes = {
        item.unit: background.start(_probe_of(item.ready_url, options.ready_timeout_seconds)) for item in installed
    }
    engines = {engine: background.start(_inspection_of(engine, ids)) for engine, ids in _containers(installed).items()}
    hub = None
    if options.hub_query_url is not None:
        hub = background.start(_hub_query_of(options.hub_query_url, options.ready_timeout_seconds))
    certificates = {
        item.unit: background.start(partial(_certificate, item.tls_port, options.ready_timeout_seconds))
        for item in installed
        if item.tls_port is not None
    }
    uplinks = [_Uplinks(item, installed, options) for item in installed if item.hubs]
    limited = [
        background.start(
            partial(
                limits.look,
                item.ready_url.rpartition("/")[0],
                options.hub_query_url is not None,
                options.ready_timeout_seconds,
            )
        )
        for item in installed
        if item.unit == HISTORY_UNIT
    ]

    views = _Views(installed, options)

    shown = systemd.show_many([options.slice_unit, *(item.unit for item in installed)], UNIT_PROPERTIES)
    controller = cgroup.find_controller(paths.proc / "self" / "mountinfo")
    slice_directory = _directory(controller, shown[options.slice_unit])
    slice_memory = _memory_or_none(slice_directory)

    probe_deadline = time.monotonic() + options.ready_timeout_seconds + GRACE_SECONDS
    images = {
        engine: background.result(job, time.monotonic() + ENGINE_TIMEOUT_SECONDS + GRACE_SECONDS, {})
        for engine, job in engines.items()
    }
    services = []
    for item in installed:
        hanging = Readiness(False, options.ready_timeout_seconds * 1000, "no complete answer in time")
        service = Service(
            installed=item,
            shown=shown[item.unit],
            readiness=background.result(probes[item.unit], probe_deadline, hanging),
            uptime_seconds=_uptime(shown[item.unit]),
        )
        if item.unit in certificates:
            unseen = Certificate(None, "no complete answer in time")
            service.certificate = background.result(certificates[item.unit], probe_deadline, unseen)
        _read_memory(service, controller, slice_directory, paths)
        _read_running(service, images, paths)
        if service.readiness.ready and not (service.active and service.memory is None):
            own = _work_directory(service, controller, slice_directory)
            service.stranger = sockets.stranger(urlsplit(item.ready_url).port or 80, own, paths.proc)
        services.append(service)

    problems = [
        *_missing(options, installed),
        *(problem for service in services for problem in judge_service(service, options)),
        *judge_slice(slice_memory, sum(item.memory_max for item in installed), options),
        *judge_firewall(options, paths.firewall),
        *judge_disks(options, paths),
    ]
    result: dict[str, Any] = {
        "services": [service.as_dict() for service in services],
        "slice": {
            "unit": options.slice_unit,
            "memory": slice_memory.as_dict() if slice_memory else None,
            "caps_total_bytes": sum(item.memory_max for item in installed),
            "budget_bytes": options.memory_budget,
        },
        "uptime_seconds": float((paths.proc / "uptime").read_text().split()[0]),
    }
    if hub is not None:
        answer = background.result(hub, probe_deadline, {"error": "no complete answer in time"})
        result["hub"] = answer
        if "error" in answer:
            problems.append(
                Problem(
                    "hub",
                    f"{options.hub_query_url} does not answer queries: {answer['error']}",
                    f"on {options.host}: systemctl status roverwatch-victoriametrics",
                )
            )
    problems += [
        Problem(
            finding.unit,
            finding.what,
            f'docs/runbook.md, "Too many series"; if they are wanted: {finding.variable}, then {_redeploy(options)}',
        )
        for job in limited
        for finding in background.result(job, probe_deadline, [])
    ]
    for uplinks_of_service in uplinks:
        result["hubs"] = uplinks_of_service.collect()
        problems += uplinks_of_service.problems
    result |= views.collect()
    result["problems"] = [asdict(problem) for problem in problems]
    return result


def read_installed(directory: Path) -> list[Installed]:
    """The services that were deployed here, by name; none on a bare machine."""
    known = Installed.__dataclass_fields__
    installed = []
    for path in sorted(directory.glob("*.json")):
        try:
            record = json.loads(path.read_text())
            installed.append(Installed(**{key: value for key, value in record.items() if key in known}))
            uplink.read(installed[-1].hubs)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise HealthError(f"{path} is no description of a service: {error}; deploy it again") from error
    return installed


def judge_service(service: Service, options: Options) -> list[Problem]:
    """What is wrong with one service."""
    unit = service.installed.unit
    redeploy = _redeploy(options)
    journal = f"on {options.host}: journalctl -u {unit} -n 50"
    if not service.active:
        state = service.as_dict()["state"]
        if state == "not-found":
            return [Problem(unit, "has no unit although it was deployed", redeploy)]
        # What is not running has no cap, no version and no answer: one cause, one line.
        why = f" (result: {service.shown['Result']})" if service.shown.get("Result", "success") != "success" else ""
        return [
            Problem(unit, f"is {state}/{service.shown.get('SubState', '')}{why}", journal),
            *_judge_stranger(service, options),
            *_judge_oom(service, options),
            *_judge_restarts(service, options),
        ]
    problems = [Problem(unit, what, redeploy) for what in service.unknown]
    problems += _judge_stranger(service, options)
    if not service.readiness.ready:
        problems.append(
            Problem(unit, f"is not ready: {service.installed.ready_url}: {service.readiness.reason}", journal)
        )
    if service.running_as_recorded is False:
        recorded = service.installed.exe or service.installed.image_id
        problems.append(
            Problem(
                unit,
                f"runs {service.running}, but {recorded} is installed",
                f"on {options.host}: systemctl restart {unit}",
            )
        )
    problems += _judge_certificate(service, options)
    problems += _judge_memory(service, redeploy)
    problems += _judge_oom(service, options)
    problems += _judge_restarts(service, options)
    return problems


def judge_slice(memory: cgroup.CgroupMemory | None, caps_total: int, options: Options) -> list[Problem]:
    """Whether the kernel enforces the budget, and whether the caps fit under it."""
    redeploy = _redeploy(options)
    if memory is None:
        return [Problem(options.slice_unit, "is not running: nothing enforces the memory budget", redeploy)]
    if memory.limit_bytes is None:
        return [Problem(options.slice_unit, "has no memory limit: nothing enforces the memory budget", redeploy)]
    limit = from_bytes(memory.limit_bytes)
    problems = []
    if options.memory_budget is not None and memory.limit_bytes != _whole_pages(options.memory_budget):
        budget = from_bytes(options.memory_budget)
        what = f"has a limit of {limit} in the kernel, but memory_budget is {budget}"
        problems.append(Problem(options.slice_unit, what, redeploy))
    if caps_total > memory.limit_bytes:
        what = f"has services with caps of {from_bytes(caps_total)} in all, more than its limit of {limit}"
        remedy = f"lower a <role>_memory_max or raise memory_budget in group_vars, then {redeploy}"
        problems.append(Problem(options.slice_unit, what, remedy))
    return problems


def judge_firewall(options: Options, rules: Path) -> list[Problem]:
    """Whether the table that the machine is to have is in force; it has none where there are no rules."""
    if not rules.exists() or FIREWALL_TABLE + " {\n" not in rules.read_text():
        return []
    try:
        listed = subprocess.run(
            ["nft", "list", "tables"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        listed, why = [], f"nft cannot say what is in force: {getattr(error, 'stderr', None) or error}"
    else:
        why = f"{FIREWALL_TABLE} is not in force: who reaches the machine reaches every port that something listens on"
    remedy = f"ansible-playbook playbooks/firewall.yml --limit {options.host}"
    return [] if FIREWALL_TABLE in listed else [Problem(FIREWALL_UNIT, why.strip(), remedy)]


def judge_disks(options: Options, paths: Paths) -> list[Problem]:
    """Whether what the services write finds room."""
    mountinfo = paths.proc / "self" / "mountinfo"
    return [
        Problem(
            "disk",
            f"{disk.mount} {disk.what}",
            f"on {options.host}: df -h {disk.mount}; du -xh -d2 {disk.mount} | sort -h. History: lower "
            "victoriametrics_retention. Queues: vmagent_queue_max. Old versions: /opt/roverwatch/<name>/",
        )
        for disk in filesystems.full(paths.data, paths.also_written, mountinfo)
    ]


def query_hub(base_url: str, timeout_seconds: float) -> dict[str, Any]:
    """Per robot, the age of its newest sample in seconds and its targets that are up; or `error`, why not."""
    try:
        newest = _by_robot(promql.query(base_url, NEWEST_SAMPLE_QUERY, timeout_seconds))
        now = time.time()
        up = _by_robot(promql.query(base_url, TARGETS_UP_QUERY, timeout_seconds))
    except promql.QueryError as error:
        return {"error": str(error)}
    return {
        "newest_sample_age_seconds": {robot: round(now - seconds, 1) for robot, seconds in newest.items()},
        "targets_up": {robot: int(count) for robot, count in up.items()},
    }


def _redeploy(options: Options) -> str:
    return f"ansible-playbook playbooks/site.yml --limit {options.host}"


def _judge_memory(service: Service, redeploy: str) -> list[Problem]:
    unit, memory = service.installed.unit, service.memory
    if memory is None:
        return []
    cap = service.installed.memory_max
    # The unit file says what was deployed, so something set the limit over its head: a drop-in, or set-property.
    undo = f"systemctl revert {unit} and systemctl restart {unit} there, then {redeploy}"
    if memory.limit_bytes is None:
        return [Problem(unit, f"has no cap in the kernel, {from_bytes(cap)} was deployed", undo)]
    problems = []
    if memory.limit_bytes != _whole_pages(cap):
        what = f"has a cap of {from_bytes(memory.limit_bytes)} in the kernel, {from_bytes(cap)} was deployed"
        problems.append(Problem(unit, what, undo))
    if memory.working_set_bytes > NEARLY_FULL * memory.limit_bytes:
        percent = 100 * memory.working_set_bytes / memory.limit_bytes
        limit = from_bytes(memory.limit_bytes)
        what = f"uses {percent:.0f} % of its cap of {limit}: the kernel is about to kill it"
        problems.append(Problem(unit, what, f"raise its <role>_memory_max in group_vars, then {redeploy}"))
    return problems


def _judge_certificate(service: Service, options: Options) -> list[Problem]:
    """Robots refuse an expired certificate, so it must be renewed before that."""
    unit, certificate = service.installed.unit, service.certificate
    if certificate is None:
        return []
    days = certificate.days_left
    if days is None:
        what = f"shows no certificate at 127.0.0.1:{service.installed.tls_port}: {certificate.reason}"
        return [Problem(unit, what, f"on {options.host}: journalctl -u {unit} -n 50")]
    if days > EXPIRES_SOON_DAYS:
        return []
    what = f"has a certificate that expires in {days:g} days" if days > 0 else "has a certificate that has expired"
    remedy = f"{_redeploy(options)} renews it; one of your own (vmauth_tls_cert) you bring anew first"
    return [Problem(unit, what, remedy)]


def _judge_oom(service: Service, options: Options) -> list[Problem]:
    oom = service.oom
    if oom.last_seconds is None or oom.last_seconds > options.oom_window_seconds:
        return []
    unit = service.installed.unit
    what = f"was OOM-killed, last {oom.last_seconds:.0f} s ago ({oom.total} in all)"
    remedy = f"raise its <role>_memory_max in group_vars if this goes on; on {options.host}: journalctl -u {unit}"
    return [Problem(unit, what, remedy)]


def _judge_stranger(service: Service, options: Options) -> list[Problem]:
    """An answer of another program is none of the service, and what is scraped there is the other's."""
    if service.stranger in ("", sockets.NOBODY):
        return []
    unit, url = service.installed.unit, service.installed.ready_url
    what = f"is not what answers at {url}: {service.stranger} has its port, and is scraped in its place"
    remedy = f"stop that, or give the service another <role>_port in group_vars, then {_redeploy(options)}"
    return [Problem(unit, what, remedy)]


def _judge_restarts(service: Service, options: Options) -> list[Problem]:
    """Whether it starts again and again, also when it happens to be up just now.

    systemd counts restarts since somebody started the unit, and says no times: the last one was this start. So the
    journal, which costs more, is asked where there were too many and the last one is recent.
    """
    window, uptime = options.restart_window_seconds, service.uptime_seconds
    restarts = int(service.shown.get("NRestarts", "0"))
    if restarts <= options.restarts_allowed or (uptime is not None and uptime > window):
        return []
    unit = service.installed.unit
    # A journal that knows of none was lost or is not kept.
    recent = min(restarts, systemd.restarts_in_journal(unit, window) or restarts)
    if recent <= options.restarts_allowed:
        return []
    last = "" if uptime is None else f", the last time {uptime:.0f} s ago"
    what = f"has ended and was started again by systemd {recent} times in {window / 60:.0f} minutes{last}"
    remedy = f"on {options.host}: journalctl -u {unit} -n 50 says why; systemctl restart {unit} begins to count anew"
    return [Problem(unit, what, remedy)]


def _missing(options: Options, installed: Iterable[Installed]) -> list[Problem]:
    present = {item.unit for item in installed}
    return [
        Problem(unit, "is not installed", _redeploy(options)) for unit in options.expected_units if unit not in present
    ]


def _read_memory(service: Service, controller: cgroup.Controller, slice_directory: Path | None, paths: Paths) -> None:
    """Fill in memory and OOM kills. A stopped service has no cgroup, and so only its record."""
    unit_directory = _directory(controller, service.shown)
    if service.installed.kind == "container":
        service.supervisor = _memory_or_none(unit_directory)
        container_id = _container_id(service.installed)
        if container_id and slice_directory:
            service.memory = _container_memory_or_none(slice_directory, container_id)
        if service.memory is None:
            service.unknown.append(
                f"its container {container_id[:12] if container_id else '(without an id)'} has no cgroup in the slice: "
                "it runs outside of the budget"
            )
    else:
        service.memory = _memory_or_none(unit_directory)
        if service.memory is None:
            service.unknown.append("has no cgroup with memory accounting")
    try:
        record = cgroup.read_oom_record(service.installed.unit, paths.oom_records)
    except cgroup.CgroupError as error:
        service.unknown.append(str(error))
        return
    service.oom = oom_kills(record, service.memory, service.uptime_seconds)


def oom_kills(record: cgroup.OomRecord, live: cgroup.CgroupMemory | None, uptime: float | None) -> OomKills:
    """All OOM kills and the time since the last one.

    The kernel keeps no time. A kill that no stop has recorded counts as of the start of the service: it came
    between the last stop and the start, in a cgroup that systemd kept, or else spared the main process.
    """
    ages = []
    if record.total:
        ages.append(max(0.0, round(time.time() - record.modified, 1)))
    if record.unrecorded(live):
        ages.append(uptime or 0.0)
    return OomKills(record.now(live), min(ages, default=None))


def _read_running(service: Service, images: dict[str, dict[str, str]], paths: Paths) -> None:
    """Fill in what runs, as opposed to what was deployed."""
    installed = service.installed
    if not service.active:
        return
    if installed.kind == "container":
        service.running = images.get(installed.engine or "", {}).get(_container_id(installed) or "")
        if service.running is None:
            service.unknown.append(f"{installed.engine} does not say which image it runs")
            return
        service.running_as_recorded = _bare_id(service.running) == _bare_id(installed.image_id or "")
        return
    try:
        service.running = str((paths.proc / service.shown["MainPID"] / "exe").readlink())
    except (FileNotFoundError, ProcessLookupError):
        # What else could not be found out of it is the same. Whether it ends often is another question.
        service.shown = {**service.shown, "ActiveState": "deactivating", "SubState": "its process ended just now"}
        service.unknown.clear()
        return
    # The kernel names the file itself, so a recorded path through a link is followed too.
    service.running_as_recorded = service.running == os.path.realpath(installed.exe or "")


def _containers(installed: Iterable[Installed]) -> dict[str, list[str]]:
    """Ids of the containers that should run, per engine."""
    found: dict[str, list[str]] = {}
    for item in installed:
        container_id = _container_id(item)
        if container_id and item.engine:
            found.setdefault(item.engine, []).append(container_id)
    return found


def _container_id(installed: Installed) -> str | None:
    try:
        return Path(installed.cid_file).read_text().strip() if installed.cid_file else None
    except FileNotFoundError:
        return None


def inspect_images(engine: str, container_ids: Sequence[str]) -> dict[str, str]:
    """The image id of each container that the engine knows, from one call of it."""
    command = [engine, "inspect", "--type=container", "--format={{.Id}} {{.Image}}", *container_ids]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    # One unknown container makes the exit status non-zero, and the others are printed all the same.
    return {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if len(line.split()) == 2}


def _bare_id(image_id: str) -> str:
    """docker prefixes an image id with its algorithm, podman does not."""
    return image_id.partition(":")[2] or image_id


def _by_robot(samples: Iterable[promql.Sample]) -> dict[str, float]:
    """Values by the label `robot`, of the series that have it."""
    return {sample.labels["robot"]: sample.value for sample in samples if "robot" in sample.labels}


def _probe_of(url: str, timeout_seconds: float) -> Callable[[], Readiness]:
    def work() -> Readiness:
        start = time.monotonic()
        status, body = probe.http_get(url, timeout_seconds)
        milliseconds = round(1000 * (time.monotonic() - start), 1)
        return Readiness(probe.is_ready(status), milliseconds, probe.describe(status, body))

    return work


def _inspection_of(engine: str, container_ids: Sequence[str]) -> Callable[[], dict[str, str]]:
    return lambda: inspect_images(engine, container_ids)


def _certificate(port: int, timeout_seconds: float) -> Certificate:
    try:
        return Certificate(gateway.expiry(port, timeout_seconds))
    except OSError as error:
        return Certificate(None, gateway.fault(error).reason)


class _Uplinks:
    """A robot's hubs, all asked at once from the start; `problems` are there when the answers were collected."""

    def __init__(self, vmagent: Installed, installed: Iterable[Installed], options: Options) -> None:
        self.host, self.timeout = options.host, options.hub_timeout_seconds
        self.problems: list[Problem] = []
        self._jobs = [
            (hub, background.start(partial(uplink.ask, hub, self.timeout))) for hub in uplink.read(vmagent.hubs)
        ]
        self._may_be_silent = options.hubs_may_be_silent
        self._queues = background.start(partial(uplink.queues, vmagent.ready_url, self.timeout))
        self._trends = [
            background.start(partial(uplink.trend, item.ready_url.rpartition("/")[0], self.timeout))
            for item in installed
            if item.unit == HISTORY_UNIT
        ]

    def collect(self) -> list[dict[str, Any]]:
        """What each hub said, and what waits for it."""
        deadline = time.monotonic() + self.timeout + GRACE_SECONDS
        queues = background.result(self._queues, deadline, {})
        trends = [background.result(job, deadline, uplink.NO_TREND) for job in self._trends]
        found = []
        for hub, job in self._jobs:
            answer = background.result(job, deadline, uplink.late(self.timeout))
            queue = queues.get(hub.position)
            found.append(uplink.as_dict(hub, answer, queue))
            if self._may_be_silent and answer.kind in (*gateway.NO_ANSWER, uplink.STATUS):
                continue
            judged = uplink.judge(self.host, hub, answer, queue, next(iter(trends), uplink.NO_TREND))
            self.problems += [Problem("hub", what, remedy) for what, remedy in judged]
        return found


class _Views:
    """What the machines of a fleet are compared by, on the controller: what fires, and how many samples are of when."""

    def __init__(self, installed: Sequence[Installed], options: Options) -> None:
        self.timeout = options.hub_timeout_seconds
        is_hub = options.hub_query_url is not None
        bases = {item.unit: item.ready_url.rpartition("/")[0] for item in installed}
        self._alerts, self._counts = [], []
        if is_hub and alerts.UNIT in bases:
            self._alerts.append(background.start(partial(self._firing, bases[alerts.UNIT])))
        base = options.hub_query_url if is_hub else bases.get(HISTORY_UNIT)
        if base and options.holes_period_seconds and (is_hub or any(item.hubs for item in installed)):
            self._counts.append(background.start(partial(self._count, base, options.holes_period_seconds)))

    def _firing(self, base_url: str) -> dict[str, Any]:
        try:
            return {"firing": alerts.firing(base_url, self.timeout)}
        except alerts.AlertsError as error:
            return {"error": str(error)}

    def _count(self, base_url: str, period_seconds: float) -> dict[str, Any]:
        try:
            return holes.count(base_url, time.time(), period_seconds, self.timeout)
        except promql.QueryError as error:
            return {"error": str(error)}

    def collect(self) -> dict[str, Any]:
        deadline = time.monotonic() + self.timeout + GRACE_SECONDS
        late = {"error": "no complete answer in time"}
        found: dict[str, Any] = {}
        for job in self._alerts:
            found["alerts"] = background.result(job, deadline, late)
        for job in self._counts:
            found["minutes"] = background.result(job, deadline, late)
        return found


def _hub_query_of(base_url: str, timeout_seconds: float) -> Callable[[], dict[str, Any]]:
    return lambda: query_hub(base_url, timeout_seconds)


def _work_directory(service: Service, controller: cgroup.Controller, slice_directory: Path | None) -> Path | None:
    """The cgroup of what does the service's work: a container's own, beside that of its supervisor."""
    if service.installed.kind == "container":
        container_id = _container_id(service.installed)
        return cgroup.container_scope(slice_directory, container_id) if slice_directory and container_id else None
    return _directory(controller, service.shown)


def _directory(controller: cgroup.Controller, shown: dict[str, str]) -> Path | None:
    """The directory of a unit's cgroup; a stopped unit has none."""
    control_group = shown.get("ControlGroup", "")
    return controller.directory(control_group) if control_group else None


def _memory_or_none(directory: Path | None) -> cgroup.CgroupMemory | None:
    """Figures of a cgroup that may have ended by now."""
    if directory is None:
        return None
    try:
        return cgroup.memory(directory)
    except cgroup.CgroupError:
        return None


def _container_memory_or_none(slice_directory: Path, container_id: str) -> cgroup.CgroupMemory | None:
    try:
        return cgroup.container_memory(slice_directory, container_id)
    except cgroup.CgroupError:
        return None


def _uptime(shown: dict[str, str]) -> float | None:
    """Seconds since the main process of a running unit started."""
    if shown["ActiveState"] != "active" or not int(shown.get("ExecMainStartTimestampMonotonic", "0")):
        return None
    return round(systemd.age(shown), 1)


def _whole_pages(size: int) -> int:
    """The kernel rounds a limit down to whole pages."""
    page = resource.getpagesize()
    return size // page * page
