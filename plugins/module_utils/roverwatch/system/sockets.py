"""Whose socket answers on a port of this machine. An answer is proof of a service only if the socket is its own."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"
# By which address the kernel gives a connection to 127.0.0.1 to a socket: the one that is bound most closely has it.
ORDER = (
    ("tcp", "127.0.0.1"),
    ("tcp6", "::ffff:127.0.0.1"),
    ("tcp", "0.0.0.0"),  # noqa: S104  (others' sockets are compared with it; nothing is bound to it)
    ("tcp6", "::"),
)
NOBODY = "nobody any more"

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_UNIT = re.compile(r"/([^/\n]+\.(?:service|scope))(?=/|$)", re.MULTILINE)


def stranger(port: int, cgroup: Path | None, proc: Path = PROC) -> str:
    """Who but the processes of a cgroup answers on 127.0.0.1:`port`; empty if they alone do.

    A service that is not running has no cgroup. A port that several share (SO_REUSEPORT) is theirs only if all of those
    are among them.
    """
    own = processes(cgroup) if cgroup else []
    apart = [pid for pid in own if network_of(proc / str(pid)) not in ("", network_of(proc / "self"))]
    if apart:
        # A container that has a network of its own gets what kernel or engine send there, and nobody else does.
        return "" if _all_listening(proc / str(apart[0])) & held(own, proc) else NOBODY
    sockets = listening(port, proc)
    if not sockets:
        return NOBODY
    foreign = sockets - held(own, proc)
    return holder(foreign, proc) if foreign else ""


def listening(port: int, proc: Path = PROC) -> set[int]:
    """Inodes of the sockets that a connection to 127.0.0.1:`port` may end at."""
    for table, address in ORDER:
        found = {inode for local, inode in listed(proc / "net" / table) if local == f"{_hex(address)}:{port:04X}"}
        if found:
            return found
    return set()


def processes(cgroup: Path) -> list[int]:
    """All processes in a cgroup and below it; none where it has ended."""
    found: list[int] = []
    for path in cgroup.rglob("cgroup.procs"):
        try:
            found += [int(pid) for pid in path.read_text().split()]
        except OSError:
            continue  # it ended just now
    return found


def held(pids: Iterable[int], proc: Path = PROC) -> set[int]:
    """Inodes of the sockets that processes have open."""
    return {inode for pid in pids for inode in _sockets_of(proc / str(pid))}


def holder(inodes: set[int], proc: Path = PROC) -> str:
    """Who has one of these sockets open, as a person looks for it."""
    for folder in sorted((path for path in proc.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        if inodes.isdisjoint(_sockets_of(folder)):
            continue
        try:
            units = _UNIT.findall((folder / "cgroup").read_text())
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue  # it ended just now
        return f"{name} (pid {folder.name}{', ' + units[-1] if units else ''})"
    return "a process that cannot be seen"


def network_of(folder: Path) -> str:
    """The network namespace of a process, by the folder of /proc that has it; empty if it ended just now."""
    try:
        return str((folder / "ns" / "net").readlink())
    except OSError:
        return ""


def _all_listening(folder: Path) -> set[int]:
    """Inodes of all listening sockets in a process's network."""
    return {inode for table in ("tcp", "tcp6") for _, inode in listed(folder / "net" / table)}


def listed(table: Path) -> Iterator[tuple[str, int]]:
    """Address and inode of each listening socket in one of the kernel's tables; there is none without IPv6."""
    if not table.exists():
        return
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTENING:
            yield fields[1], int(fields[9])


def _sockets_of(folder: Path) -> Iterator[int]:
    try:
        for descriptor in (folder / "fd").iterdir():
            match = _SOCKET.fullmatch(str(descriptor.readlink()))
            if match:
                yield int(match[1])
    except OSError:
        return  # it ended just now


def _hex(address: str) -> str:
    """An address as the kernel prints it: words in the machine's byte order."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
