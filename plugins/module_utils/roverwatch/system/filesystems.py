"""Whether the services of a machine have room to write: what a full disk stops looks like many other troubles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.sizes import from_bytes

MOUNTINFO = Path("/proc/self/mountinfo")
# What the services write. A directory in it may be a disk of its own.
DATA = Path("/var/lib/roverwatch")
# Where engines and deployments write beside that.
OTHERS = (
    Path("/opt/roverwatch"),
    Path("/etc/roverwatch"),
    Path("/var/lib/containers/storage"),
    Path("/var/lib/docker"),
    Path("/run"),
    Path("/tmp"),  # noqa: S108  (its room is looked at; nothing is written there)
)
# VictoriaMetrics stops to write when 10 MB are left, and a block of vmagent's queue may be larger than that.
FULL_BYTES = 32 << 20
FULL_INODES = 100


@dataclass(frozen=True)
class FullDisk:
    """A file system that takes no more: where it is mounted, as `df` shows it, and what is wrong."""

    mount: Path
    what: str


def full(data: Path = DATA, others: Sequence[Path] = OTHERS, mountinfo: Path = MOUNTINFO) -> list[FullDisk]:
    """The file systems of these paths, and those mounted below `data`, that have no room; each once."""
    mounts = list(_mounts(mountinfo))
    seen: set[int] = set()
    found = []
    for path in (data, *(mount for mount in mounts if data in mount.parents), *others):
        try:
            device, status = path.stat().st_dev, os.statvfs(path)
        except OSError:
            continue  # it is not on this machine
        what = _judge(status, is_written=path == data or data in path.parents)
        if what and device not in seen:
            real = path.resolve()
            mount = next((above for above in (real, *real.parents) if above in mounts), real)
            found.append(FullDisk(mount, f"{what}; {path} is on it"))
        seen.add(device)
    return found


def _judge(status: os.statvfs_result, is_written: bool) -> str:
    """Why who is not root cannot write; empty if it can."""
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    if is_written and status.f_flag & os.ST_RDONLY:
        return "is mounted read-only"
    # A small one, such as /run on a small robot, is full when a tenth is left.
    if free < min(FULL_BYTES, size // 10):
        return f"is full: {from_bytes(free)} of {from_bytes(size)} are free"
    # Some file systems have as many inodes as they need, and say 0.
    if status.f_favail < min(FULL_INODES, status.f_files // 10):
        return f"is full: {status.f_favail} of {status.f_files} inodes are free"
    return ""


def _mounts(mountinfo: Path) -> Iterator[Path]:
    for line in mountinfo.read_text().splitlines():
        yield Path(line.split()[4].encode().decode("unicode_escape"))
