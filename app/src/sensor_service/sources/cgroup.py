"""Memory, CPU and threads of the services in one systemd slice, from the kernel's files, under cAdvisor's names.

The label ``name`` is the unit's without ``.service``, or the container's; a unit that only supervises a container
of its name keeps its ``.service``, and the slice its ``.slice``. What else is in the slice, such as a container
nobody wrote down in ``containers_dir``, is part of the slice's figures alone.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..options import option
from ..readings import Family, Measurement
from . import Source

PROC_SELF_CGROUP = Path("/proc/self/cgroup")
# cgroup v1 has no word for "no limit": it reports 2^63 rounded down to a page, whose size varies.
V1_NO_LIMIT_BYTES = 2**62
# crun runs a container in a child of its scope; that of Debian 12 (1.8) limits the child alone.
CHILD = "container"

_SCOPE = re.compile(r"(?:libpod|docker)-([0-9a-f]{64})\.scope")

USAGE = Family(
    "container_memory_usage_bytes", "gauge", "bytes", "Memory in use, file cache included, in bytes.", ("name",)
)
WORKING_SET = Family(
    "container_memory_working_set_bytes", "gauge", "bytes", "Memory in use less the inactive file cache.", ("name",)
)
RSS = Family("container_memory_rss", "gauge", "bytes", "Anonymous memory in bytes.", ("name",))
CACHE = Family("container_memory_cache", "gauge", "bytes", "File cache in bytes.", ("name",))
PEAK = Family("container_memory_max_usage_bytes", "gauge", "bytes", "Highest memory usage so far.", ("name",))
LIMIT = Family("container_spec_memory_limit_bytes", "gauge", "bytes", "Memory limit; 0 is none.", ("name",))
OOM = Family("container_oom_events_total", "counter", "events", "OOM kills in the running cgroup.", ("name",))
# Where it counts no single CPU, cAdvisor has this label with this one value.
CPU = Family("container_cpu_usage_seconds_total", "counter", "seconds", "CPU time used.", ("name", "cpu"))
THREADS = Family("container_threads", "gauge", "threads", "Threads running now.", ("name",))


def _is_absolute(path: str) -> bool:
    return path.startswith("/")


def _is_slice(name: str) -> bool:
    return name.endswith(".slice") and "/" not in name


@dataclass(frozen=True)
class CgroupOptions:
    """``root`` is where the cgroups are mounted; ``containers_dir`` has a file ``<container>.cid`` with its id."""

    root: str = option("/sys/fs/cgroup", check=_is_absolute, allowed="an absolute path")
    slice: str = option("roverwatch.slice", check=_is_slice, allowed='the name of a unit that ends with ".slice"')
    containers_dir: str = option("/run/roverwatch", check=_is_absolute, allowed="an absolute path")


class NoSliceError(Exception):
    """There is nothing to measure; the text says where it was looked for."""


@dataclass(frozen=True)
class Figures:
    """One cgroup with all below it. None is what this kernel does not count."""

    usage: int
    working_set: int
    rss: int
    cache: int
    peak: int | None
    limit: int | None
    oom_kills: int | None
    cpu_seconds: float | None
    threads: int | None

    def measurements(self, name: str) -> Iterator[Measurement]:
        """The figures as cAdvisor has them."""
        yield USAGE.measure(self.usage, name)
        yield WORKING_SET.measure(self.working_set, name)
        yield RSS.measure(self.rss, name)
        yield CACHE.measure(self.cache, name)
        yield LIMIT.measure(self.limit or 0, name)
        if self.peak is not None:
            yield PEAK.measure(self.peak, name)
        if self.oom_kills is not None:
            yield OOM.measure(self.oom_kills, name)
        if self.cpu_seconds is not None:
            yield CPU.measure(self.cpu_seconds, name, "total")
        if self.threads is not None:
            yield THREADS.measure(self.threads, name)


@dataclass(frozen=True)
class SliceV1:
    """The slice on cgroup v1: a directory per controller, of which only memory must be there.

    Where cpu and cpuacct are mounted apart, which no distribution does, systemd makes no cgroups in cpuacct.
    """

    memory: Path
    cpuacct: Path
    pids: Path

    def read(self, child: str = "") -> Figures:
        """Figures of the slice, or of a cgroup in it; an OSError if that is not there."""
        memory = self.memory / child
        usage = _number(memory / "memory.usage_in_bytes")
        stat = parse_fields((memory / "memory.stat").read_text())
        limit = _number(memory / "memory.limit_in_bytes")
        cpu_nanoseconds = _number_if_there(self.cpuacct / child / "cpuacct.usage")
        return Figures(
            usage=usage,
            working_set=max(0, usage - stat["total_inactive_file"]),
            rss=stat["total_rss"],
            cache=stat["total_cache"],
            peak=_number(memory / "memory.max_usage_in_bytes"),
            limit=None if limit >= V1_NO_LIMIT_BYTES else limit,
            # Kernels before 4.13 do not count them.
            oom_kills=parse_fields((memory / "memory.oom_control").read_text()).get("oom_kill"),
            cpu_seconds=None if cpu_nanoseconds is None else cpu_nanoseconds / 1e9,
            threads=_number_if_there(self.pids / child / "pids.current"),
        )


@dataclass(frozen=True)
class SliceV2:
    """The slice on cgroup v2: one directory."""

    memory: Path

    def read(self, child: str = "") -> Figures:
        """Figures of the slice, or of a cgroup in it; an OSError if that is not there."""
        cgroup = self.memory / child
        usage = _number(cgroup / "memory.current")
        stat = parse_fields((cgroup / "memory.stat").read_text())
        limit = (cgroup / "memory.max").read_text().strip()
        return Figures(
            usage=usage,
            working_set=max(0, usage - stat["inactive_file"]),
            rss=stat["anon"],
            cache=stat["file"],
            peak=_number_if_there(cgroup / "memory.peak"),  # from kernel 5.19 on
            limit=None if limit == "max" else int(limit),
            oom_kills=parse_fields((cgroup / "memory.events").read_text())["oom_kill"],
            # In every cgroup, whether or not the controller is on.
            cpu_seconds=parse_fields((cgroup / "cpu.stat").read_text())["usage_usec"] / 1e6,
            threads=_number_if_there(cgroup / "pids.current"),
        )


class CgroupSource(Source):
    """Reads the slice and every service and container directly in it."""

    Options = CgroupOptions
    families = (USAGE, WORKING_SET, RSS, CACHE, PEAK, LIMIT, OOM, CPU, THREADS)
    single = True

    def __init__(self, options: CgroupOptions, proc_self_cgroup: Path = PROC_SELF_CGROUP) -> None:
        self._root = Path(options.root)
        self._slice = options.slice
        self._containers_dir = Path(options.containers_dir)
        self._proc_self_cgroup = proc_self_cgroup
        # A unit that starts its container anew removes the file first, and is no less a supervisor meanwhile.
        self._supervisors: set[str] = set()

    def sample(self, timeout_seconds: float) -> Iterator[Measurement]:  # noqa: ARG002  (the kernel answers at once)
        """Read every cgroup once; one that ends meanwhile is left out."""
        found = find_slice(self._root, self._slice, self._proc_self_cgroup)
        containers = read_containers(self._containers_dir)
        self._supervisors.update(containers.values())
        yield from _read_slice(found).measurements(self._slice)
        for cgroup in sorted(path.name for path in found.memory.iterdir() if path.is_dir()):
            name = self._name(cgroup, containers)
            figures = _read_in_slice(found, cgroup) if name else None
            if figures:
                yield from figures.measurements(name)

    def _name(self, cgroup: str, containers: Mapping[str, str]) -> str:
        """The label of a cgroup, empty for what is no service and no known container."""
        if scope := _SCOPE.fullmatch(cgroup):
            return containers.get(scope[1], "")
        unit = cgroup.removesuffix(".service")
        if unit == cgroup:
            return ""
        return cgroup if unit in self._supervisors else unit


def find_slice(root: Path, name: str, proc_self_cgroup: Path) -> SliceV1 | SliceV2:
    """Where the slice is: above this process, or else at the top of the hierarchy.

    A robot that is itself a container has its slice deep in the machine's hierarchy, where only this process's own
    path leads.
    """
    above = {}
    for line in proc_self_cgroup.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        head, inside, _ = f"{path}/".partition(f"/{name}/")
        for controller in controllers.split(","):
            above[controller] = f"{head}/{name}".lstrip("/") if inside else name
    # On a hybrid machine v2 is mounted elsewhere.
    if (root / "cgroup.controllers").exists():
        return SliceV2(root / above.get("", name))
    # systemd links each controller of a joint hierarchy (cpu,cpuacct) to it.
    directories = {key: root / key / above.get(key, name) for key in ("memory", "cpuacct", "pids")}
    return SliceV1(**directories)


def read_containers(directory: Path) -> dict[str, str]:
    """Names of containers by their ids."""
    names = {}
    for path in directory.glob("*.cid"):
        try:
            names[path.read_text().strip()] = path.stem
        except FileNotFoundError:
            continue
    return names


def parse_fields(text: str) -> dict[str, int]:
    """A kernel file of lines ``name number``."""
    return {name: int(number) for name, number in (line.split() for line in text.splitlines())}


def _read_slice(found: SliceV1 | SliceV2) -> Figures:
    try:
        return found.read()
    except FileNotFoundError as error:
        raise NoSliceError(
            f"{error.filename} is not there: nothing runs in this slice, the kernel's memory controller is off, "
            "or root is not where the cgroups are mounted"
        ) from error


def _read_in_slice(found: SliceV1 | SliceV2, cgroup: str) -> Figures | None:
    """Figures of a service or container; None if it has ended."""
    figures, child = _read_if_there(found, cgroup), _read_if_there(found, f"{cgroup}/{CHILD}")
    if figures is None or child is None:
        return figures
    limits = [limit for limit in (figures.limit, child.limit) if limit is not None]
    # v1 counts a kill only where the process was, v2 all the way up.
    kills = [kills for kills in (figures.oom_kills, child.oom_kills) if kills is not None]
    return replace(figures, limit=min(limits, default=None), oom_kills=max(kills, default=None))


def _read_if_there(found: SliceV1 | SliceV2, cgroup: str) -> Figures | None:
    try:
        return found.read(cgroup)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # ENODEV: it ended after its file was opened
            raise
        return None


def _number(path: Path) -> int:
    return int(path.read_text())


def _number_if_there(path: Path) -> int | None:
    try:
        return _number(path)
    except FileNotFoundError:
        return None
