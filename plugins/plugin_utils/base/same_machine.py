"""Machines that are in a run under two names: by what the inventory says of them, and by what they say themselves.

Each machine has a process of its own on the controller; what one knows of others is in files that last as long as the
run (`folder`).
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail

from . import requirements

ADDRESSES = "roverwatch-addresses"
SEEN = "roverwatch-seen"
# Is there only if a machine has been seen under two names.
TWICE = "roverwatch-twice"
# What leads to a machine. Robots behind different jump hosts may well have one address.
REACHED_BY = (
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
)


def of_run() -> Path:
    return Path(C.DEFAULT_LOCAL_TMP)


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    with path.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        yield stream


def with_one_address(
    name: str, names: Iterable[str], reached: Callable[[str], Mapping[str, Any]], folder: Path
) -> list[str]:
    """Others of these names that lead to where this one does. The first who asks reads the inventory for all.

    `reached` says of a name which of the variables REACHED_BY it has.
    """
    play = sorted(names)
    with _open(folder / ADDRESSES) as stream:
        lines = stream.read().splitlines()
        for line in lines:
            known = json.loads(line)
            if known["play"] == play:
                break
        else:
            known = {"play": play, "twice": _twice({other: _address(other, reached(other)) for other in play})}
            stream.write(json.dumps(known) + "\n")
    return [other for those in known["twice"] if name in those for other in those if other != name]


def _twice(addresses: Mapping[str, str]) -> list[list[str]]:
    by_address: dict[str, list[str]] = {}
    for name, address in addresses.items():
        by_address.setdefault(address, []).append(name)
    return [names for names in by_address.values() if len(names) > 1]


def _address(name: str, variables: Mapping[str, Any]) -> str:
    found = {key: str(variables.get(key) or "") for key in REACHED_BY}
    found["ansible_host"] = (found["ansible_host"] or name).rstrip(".").lower()
    found["ansible_port"] = found["ansible_port"] or "22"
    found["ansible_connection"] = found["ansible_connection"] or "ssh"
    return json.dumps(found)


def seen(name: str, identity: Mapping[str, str], folder: Path) -> tuple[list[str], list[str]]:
    """Write down which machine a name is. Returned are the other names of it, and the names of its copies."""
    own = f"{identity['system']}\t{identity['machine_id']}\t{name}"
    with _open(folder / SEEN) as stream:
        lines = stream.read().splitlines()
        if own not in lines:
            stream.write(own + "\n")
    others = [fields for fields in (line.split("\t") for line in lines) if fields[2] != name]
    same = sorted({other for system, _, other in others if system == identity["system"]})
    copies = {other for _, disk, other in others if disk and disk == identity["machine_id"]}
    if same:
        with _open(folder / TWICE) as stream:
            stream.write("\t".join([name, *same]) + "\n")
    return same, sorted(copies - set(same))


def refuse(name: str) -> None:
    """End a task on a machine that was seen under another name after its own preflight had passed."""
    others = other_names(name, of_run())
    if others:
        raise AnsibleActionFail(f"{name}: {requirements.same_machine(name, others, by_address=False)}")


def other_names(name: str, folder: Path) -> list[str]:
    """Other names that the machine of this name was seen under since."""
    path = folder / TWICE
    if not path.exists():
        return []
    with _open(path) as stream:
        groups = [line.split("\t") for line in stream.read().splitlines()]
    return sorted({other for names in groups if name in names for other in names} - {name})
