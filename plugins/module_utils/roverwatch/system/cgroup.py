"""What the kernel says about the memory of a cgroup, on cgroup v1, v2 and hybrid machines.

Paths of cgroups, as /proc/<pid>/cgroup and systemd's ControlGroup give them, are relative to the hierarchy
and may start anywhere: a robot that is itself a container shows /docker/<id>/roverwatch.slice.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# cgroup v1 has no word for "no limit": it reports 2^63 rounded down to a page, whose size varies.
V1_NO_LIMIT_BYTES = 2**62

MOUNTINFO = Path("/proc/self/mountinfo")
PROC = Path("/proc")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OOM_RECORDS = Path("/var/lib/roverwatch/textfile")

_CONTAINER_SCOPES = ("libpod-{}.scope", "docker-{}.scope")


class CgroupError(Exception):
    """The kernel's figures cannot be had; the text says which and what to do."""


@dataclass(frozen=True)
class Controller:
    """The hierarchy that accounts memory: its version, its mount point, and the cgroup mounted there."""

    version: int
    mount: Path
    root: str

    def directory(self, cgroup: str) -> Path:
        """The directory of a cgroup path as /proc/<pid>/cgroup or systemd's ControlGroup gives it."""
        inside = cgroup
        # A container that sees only its own part of the hierarchy still names its cgroups from the very top.
        if self.root != "/" and (cgroup == self.root or cgroup.startswith(f"{self.root}/")):
            inside = cgroup[len(self.root) :]
        return self.mount / inside.lstrip("/")


@dataclass(frozen=True)
class CgroupMemory:
    """Memory of one cgroup and all below it, in bytes.

    The working set is cAdvisor's: usage less the file cache that the kernel can drop at once. `peak_bytes` is
    None where a v2 kernel is older than 5.19, `limit_bytes` where there is no limit, `oom_kills` where a v1
    kernel is older than 4.13. `inode` tells this cgroup from a later one of the same name.
    """

    path: str
    version: int
    usage_bytes: int
    working_set_bytes: int
    peak_bytes: int | None
    limit_bytes: int | None
    oom_kills: int | None
    inode: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class OomRecord:
    """OOM kills of a unit's earlier cgroups; of those in cgroup `inode` of this boot, `seen` are already in `total`.

    `modified` is the time of the last stop that added kills, in seconds of the Unix epoch.
    """

    total: int
    inode: int
    seen: int
    modified: float

    def now(self, live: CgroupMemory | None) -> int:
        """The total including the kills that the running cgroup has counted since it was last added."""
        return self.total + self.unrecorded(live)

    def unrecorded(self, live: CgroupMemory | None) -> int:
        """The kills in the running cgroup that are not in the total yet."""
        if live is None or live.oom_kills is None:
            return 0
        return live.oom_kills - (self.seen if live.inode == self.inode else 0)


NO_OOM_RECORD = OomRecord(total=0, inode=0, seen=0, modified=0.0)


def find_controller(mountinfo: Path = MOUNTINFO) -> Controller:
    """The mounted memory controller.

    On a hybrid machine v2 is mounted as well, but memory belongs to v1; so v1 is looked for first.
    """
    v1: Controller | None = None
    v2: Controller | None = None
    for line in mountinfo.read_text().splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, super_options = filesystem.split(" ", 2)
        root, mount_point = (_unescape(field) for field in mount.split(" ")[3:5])
        # Of two mounts on one place, the last one is what a path leads to.
        if kind == "cgroup" and "memory" in super_options.split(","):
            v1 = Controller(1, Path(mount_point), root)
        elif kind == "cgroup2" and "memory" in _words(Path(mount_point) / "cgroup.controllers"):
            v2 = Controller(2, Path(mount_point), root)
    found = v1 or v2
    if found is None:
        raise CgroupError(
            f"{mountinfo} shows no cgroup memory controller: boot the kernel with "
            "cgroup_enable=memory cgroup_memory=1 (on a Raspberry Pi in cmdline.txt)"
        )
    return found


def memory(path: Path) -> CgroupMemory:
    """Figures of one cgroup directory. Raises CgroupError when it is gone or accounts no memory."""
    try:
        if (path / "memory.usage_in_bytes").exists():
            return _memory_v1(path)
        if (path / "memory.current").exists():
            return _memory_v2(path)
    except OSError as error:
        raise CgroupError(f"{path} went away while it was read: {error}") from error
    raise CgroupError(f"{path} is no cgroup with memory accounting")


def cgroup_of_pid(pid: int, controller: Controller, proc: Path = PROC) -> Path:
    """The directory of the cgroup that accounts a process's memory."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError as error:
        raise CgroupError(f"no process {pid}: {error}") from error
    for line in lines:
        _, names, path = line.split(":", 2)
        # v2 has one unnamed hierarchy; v1 lists the controllers that share one.
        if (not names) if controller.version == 2 else ("memory" in names.split(",")):
            return controller.directory(path)
    raise CgroupError(f"process {pid} is in no cgroup of the memory controller")


def container_scope(slice_directory: Path, container_id: str) -> Path | None:
    """The cgroup that podman or docker made for a container directly inside a slice, if there is one."""
    candidates = (slice_directory / scope.format(container_id) for scope in _CONTAINER_SCOPES)
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def container_memory(slice_directory: Path, container_id: str) -> CgroupMemory | None:
    """Figures of a container directly inside a slice, from the cgroup that carries its limit.

    crun runs the container in a child of the scope, and older ones limit that child only; the kernel counts OOM
    kills where the process is. Newer ones, and docker, limit the scope.
    """
    scope = container_scope(slice_directory, container_id)
    if scope is None:
        return None
    figures = [memory(directory) for directory in (scope / "container", scope) if directory.is_dir()]
    return next((found for found in figures if found.limit_bytes is not None), figures[-1])


def read_oom_record(unit: str, directory: Path = OOM_RECORDS, boot_id: Path = BOOT_ID) -> OomRecord:
    """What was kept of a unit's OOM kills; nothing kept means that there were none.

    On v2 the inodes of cgroups are the same after each boot, so those of another boot say nothing.
    """
    path = directory / f"{unit}.oom.prom"
    try:
        text = path.read_text()
        modified = path.stat().st_mtime
    except FileNotFoundError:
        return NO_OOM_RECORD
    first = re.match(r"# boot (\S+) cgroup_inode (\d+) seen (\d+)\n", text)
    total = re.search(r"^container_oom_events_total\{[^}]*\} (\d+)$", text, re.MULTILINE)
    if first is None or total is None:
        raise CgroupError(f"{path} does not hold a count of OOM kills; delete it to count from zero")
    if first[1] != boot_id.read_text().strip():
        return OomRecord(int(total[1]), NO_OOM_RECORD.inode, NO_OOM_RECORD.seen, modified)
    return OomRecord(int(total[1]), int(first[2]), int(first[3]), modified)


def _memory_v1(path: Path) -> CgroupMemory:
    usage = _number(path / "memory.usage_in_bytes")
    limit = _number(path / "memory.limit_in_bytes")
    reclaimable = _fields(path / "memory.stat")["total_inactive_file"]
    return CgroupMemory(
        path=str(path),
        version=1,
        usage_bytes=usage,
        working_set_bytes=max(0, usage - reclaimable),
        peak_bytes=_number(path / "memory.max_usage_in_bytes"),
        limit_bytes=None if limit >= V1_NO_LIMIT_BYTES else limit,
        oom_kills=_fields(path / "memory.oom_control").get("oom_kill"),
        inode=path.stat().st_ino,
    )


def _memory_v2(path: Path) -> CgroupMemory:
    usage = _number(path / "memory.current")
    limit = (path / "memory.max").read_text().strip()
    reclaimable = _fields(path / "memory.stat")["inactive_file"]
    peak = path / "memory.peak"
    return CgroupMemory(
        path=str(path),
        version=2,
        usage_bytes=usage,
        working_set_bytes=max(0, usage - reclaimable),
        peak_bytes=_number(peak) if peak.exists() else None,
        limit_bytes=None if limit == "max" else int(limit),
        oom_kills=_fields(path / "memory.events")["oom_kill"],
        inode=path.stat().st_ino,
    )


def _number(path: Path) -> int:
    return int(path.read_text())


def _fields(path: Path) -> dict[str, int]:
    """A kernel file of lines `name number`."""
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def _words(path: Path) -> Sequence[str]:
    return path.read_text().split() if path.exists() else ()


def _unescape(field: str) -> str:
    """mountinfo writes blanks and backslashes as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def whole_pages(size: int) -> int:
    """A limit in bytes as the kernel keeps it: it rounds down to whole pages."""
    page = resource.getpagesize()
    return size // page * page
