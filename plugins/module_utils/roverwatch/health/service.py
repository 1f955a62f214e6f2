"""One service as it is now: what systemd, the kernel, its engine and it itself say."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..common import background
from ..hub import gateway
from ..query import probe
from ..service.records import Installed
from ..system import cgroup, sockets, systemd
from .options import Paths

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

# What systemd says of a unit that has no file.
NOT_FOUND = "not-found"
# An engine's client takes a second on a small robot under load; one that takes longer hangs.
ENGINE_TIMEOUT_SECONDS = 5.0
# What a background check may take beyond its own timeout before it counts as hanging.
GRACE_SECONDS = 0.3
DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Readiness:
    """One answer of a readiness URL."""

    ready: bool
    milliseconds: float
    reason: str


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
    def unit(self) -> str:
        return self.installed.unit

    @property
    def active(self) -> bool:
        """Whether systemd holds the unit for running."""
        return self.shown["ActiveState"] == "active"

    @property
    def state(self) -> str:
        """As systemd has it, or that there is no such unit."""
        return self.shown["ActiveState"] if self.shown.get("LoadState") != NOT_FOUND else NOT_FOUND

    @property
    def ready(self) -> bool:
        """Whether it answers 2xx itself."""
        return self.readiness.ready and not self.stranger

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the module's result."""
        return {
            "unit": self.installed.unit,
            "kind": self.installed.kind,
            "version": self.installed.version,
            "state": self.state,
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


class Services:
    """All services of a machine. What can hang is started at once, and `collect` waits for it."""

    def __init__(self, installed: Sequence[Installed], timeout_seconds: float, paths: Paths) -> None:
        self._installed, self._timeout, self._paths = installed, timeout_seconds, paths
        self._probes = {
            item.unit: background.start(partial(_probe, item.ready_url, timeout_seconds)) for item in installed
        }
        self._engines = {
            engine: background.start(partial(inspect_images, engine, ids))
            for engine, ids in _containers(installed).items()
        }
        self._certificates = {
            item.unit: background.start(partial(_certificate, item.tls_port, timeout_seconds))
            for item in installed
            if item.tls_port is not None
        }

    def collect(
        self, shown: Mapping[str, dict[str, str]], controller: cgroup.Controller, slice_directory: Path | None
    ) -> list[Service]:
        """`shown` is what systemd says of each unit."""
        deadline = time.monotonic() + self._timeout + GRACE_SECONDS
        images = {
            engine: background.result(job, time.monotonic() + ENGINE_TIMEOUT_SECONDS + GRACE_SECONDS, {})
            for engine, job in self._engines.items()
        }
        hanging = Readiness(False, self._timeout * 1000, "no complete answer in time")
        services = []
        for item in self._installed:
            service = Service(
                installed=item,
                shown=shown[item.unit],
                readiness=background.result(self._probes[item.unit], deadline, hanging),
                uptime_seconds=_uptime(shown[item.unit]),
            )
            if item.unit in self._certificates:
                unseen = Certificate(None, "no complete answer in time")
                service.certificate = background.result(self._certificates[item.unit], deadline, unseen)
            _read_memory(service, controller, slice_directory, self._paths)
            _read_running(service, images, self._paths)
            if service.readiness.ready and not (service.active and service.memory is None):
                own = _work_directory(service, controller, slice_directory)
                service.stranger = sockets.stranger(urlsplit(item.ready_url).port or 80, own, self._paths.proc)
            services.append(service)
        return services


def _read_memory(service: Service, controller: cgroup.Controller, slice_directory: Path | None, paths: Paths) -> None:
    """Fill in memory and OOM kills. A stopped service has no cgroup, and so only its record."""
    unit_directory = directory(controller, service.shown)
    if service.installed.kind == "container":
        service.supervisor = memory_or_none(unit_directory)
        container_id = _container_id(service.installed)
        if container_id and slice_directory:
            service.memory = _container_memory_or_none(slice_directory, container_id)
        if service.memory is None:
            service.unknown.append(
                f"its container {container_id[:12] if container_id else '(without an id)'} has no cgroup in the slice: "
                "it runs outside of the budget"
            )
    else:
        service.memory = memory_or_none(unit_directory)
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


def _probe(url: str, timeout_seconds: float) -> Readiness:
    start = time.monotonic()
    status, body = probe.http_get(url, timeout_seconds)
    milliseconds = round(1000 * (time.monotonic() - start), 1)
    return Readiness(probe.is_ready(status), milliseconds, probe.describe(status, body))


def _certificate(port: int, timeout_seconds: float) -> Certificate:
    try:
        return Certificate(gateway.expiry(port, timeout_seconds))
    except OSError as error:
        return Certificate(None, gateway.fault(error).reason)


def _work_directory(service: Service, controller: cgroup.Controller, slice_directory: Path | None) -> Path | None:
    """The cgroup of what does the service's work: a container's own, beside that of its supervisor."""
    if service.installed.kind == "container":
        container_id = _container_id(service.installed)
        return cgroup.container_scope(slice_directory, container_id) if slice_directory and container_id else None
    return directory(controller, service.shown)


def directory(controller: cgroup.Controller, shown: dict[str, str]) -> Path | None:
    """The directory of a unit's cgroup; a stopped unit has none."""
    control_group = shown.get("ControlGroup", "")
    return controller.directory(control_group) if control_group else None


def memory_or_none(directory: Path | None) -> cgroup.CgroupMemory | None:
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
