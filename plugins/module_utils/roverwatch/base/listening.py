"""Who holds a TCP port of this machine that a service of ours is to listen on.

The kernel is asked by binding: whether an address is free depends on more than the list of sockets says (IPv6 for IPv4
as well, a connection that has the port). Nothing listens meanwhile, so nobody can connect.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Set

from ..system import sockets

PROC = Path("/proc")
RUN = Path("/run/roverwatch")
# A unit's part of a cgroup's path; the last one is the one that a process is in.
_UNIT = re.compile(r"[^/]+\.(?:service|scope)")
# A container's; what stands before it is the machine's own, if that is one itself. crun adds `container`.
_CONTAINER = re.compile(
    r"(?:(?:libpod|docker|cri-containerd|crio)-([0-9a-f]{64})\.scope|/docker/([0-9a-f]{64}))(?:/container)?$"
)


@dataclass(frozen=True)
class Holder:
    """What listens on a port, on which address. `pid` is 0 where no process is to be seen: the kernel's own, or another
    container's. `unit` is systemd's, or that of ours whose container it is; `container` is one that the port is
    published for, or that listens itself.
    """

    address: str
    pid: int
    program: str
    unit: str
    container: str


@dataclass(frozen=True)
class Sock:
    address: str
    port: int
    inode: int


def held(wanted: Sequence[Mapping[str, object]], proc: Path = PROC) -> List[Dict[str, object]]:
    """For each `port` and `address` that cannot be bound now: why, and the `holders` that are in the way.

    An address is as in a listen flag: `[::]` is all of both versions.
    """
    refused = {}
    for index, place in enumerate(wanted):
        reason = _refusal(str(place["address"]), int(str(place["port"])))
        if reason:
            refused[index] = reason
    if not refused:
        return []
    listening = list(_listening(proc))
    ports = {int(str(wanted[index]["port"])) for index in refused}
    owners = _owners({sock.inode for sock in listening if sock.port in ports}, proc)
    found = []
    for index, reason in refused.items():
        address, port = str(wanted[index]["address"]), int(str(wanted[index]["port"]))
        in_the_way = [sock for sock in listening if sock.port == port and _overlap(address.strip("[]"), sock.address)]
        holders = [_holder(sock, owners.get(sock.inode, 0), proc) for sock in in_the_way]
        found.append(
            {
                "port": port,
                "address": address,
                "reason": os.strerror(reason),
                "in_use": reason == errno.EADDRINUSE,
                "holders": [vars(holder) for holder in holders],
            }
        )
    return found


def _refusal(address: str, port: int) -> Optional[int]:
    """The error of binding as the services do, None where it works."""
    host = address.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended is in nobody's way
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            trial.bind((host, port))
    except OSError as error:
        return error.errno
    return None


def _listening(proc: Path) -> Iterator[Sock]:
    for name in ("tcp", "tcp6"):
        for local, inode in sockets.listed(proc / "net" / name):
            address, _, port = local.partition(":")
            yield Sock(_address(address), int(port, 16), inode)


def _address(digits: str) -> str:
    """An address as /proc has it: words of 32 bits, each in the machine's own order of bytes."""
    words = [bytes.fromhex(digits[at : at + 8]) for at in range(0, len(digits), 8)]
    packed = b"".join(int.from_bytes(word, "big").to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)


def _overlap(ours: str, theirs: str) -> bool:
    """Whether two addresses cannot be listened on at the same port. All of IPv6 is taken to be all of IPv4 as well."""
    if "::" in (ours, theirs):
        return True
    if (":" in ours) != (":" in theirs):
        return False
    return ours == theirs or "0.0.0.0" in (ours, theirs)  # noqa: S104 (compared)


def _owners(inodes: Set[int], proc: Path) -> Dict[int, int]:
    """The process that has each of these sockets open: of several the oldest, which made it."""
    links = {"socket:[{}]".format(inode): inode for inode in inodes if inode}
    found: Dict[int, int] = {}
    for pid in sorted(int(path.name) for path in proc.iterdir() if path.name.isdigit()):
        try:
            for descriptor in os.scandir(proc / str(pid) / "fd"):
                inode = links.get(os.readlink(descriptor.path))  # noqa: PTH115  (a Path for each of thousands takes longer than the rest)
                if inode is not None:
                    found.setdefault(inode, pid)
        except OSError:
            continue  # it ended just now, or is not ours to look at
    return found


def _holder(sock: Sock, pid: int, proc: Path) -> Holder:
    if not pid:
        return Holder(sock.address, 0, "", "", "")
    try:
        cgroup = (proc / str(pid) / "cgroup").read_text()
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        program = (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return Holder(sock.address, pid, "", "", "")
    path = _path(cgroup)
    inside = _CONTAINER.search(path)
    identifier = (inside[1] or inside[2]) if inside else ""
    named = _UNIT.findall(path)
    unit = _our_container(identifier) or (named[-1] if named else "")
    return Holder(sock.address, pid, program, unit, _container(program, words) or identifier[:12])


def _path(cgroup: str) -> str:
    """Where systemd has a process: its own hierarchy on cgroup v1, the one there is on v2."""
    lines = [line.split(":", 2) for line in cgroup.splitlines()]
    own = [path for _, names, path in lines if names == "name=systemd"]
    return (own or [path for _, names, path in lines if not names] or [""])[0]


def _our_container(identifier: str) -> str:
    """The unit of ours that a container is: it writes down the id when it starts (`unit_text.cid_file`)."""
    for path in RUN.glob("*.cid") if identifier else []:
        if path.read_text().strip() == identifier:
            return path.stem + ".service"
    return ""


def _container(program: str, words: Sequence[str]) -> str:
    """The container that a port is published for, as far as the program that holds the port is told."""
    if program == "conmon" and "-n" in words:
        return words[words.index("-n") + 1]
    if program == "docker-proxy" and "-container-ip" in words:
        return words[words.index("-container-ip") + 1]
    return ""
