"""What on a machine is ours, and what somebody else has under a name of ours: that is neither changed nor removed.

The account is made first and removed last, and its comment says whose it is. So a machine that has it, or the record of
an earlier deployment, is one of ours, and so is what lies at our paths there. On any other machine what lies there is a
stranger's. A unit says for itself whose it is wherever it is.
"""

from __future__ import annotations

import grp
import json
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

from ..firewall import nftables
from ..system import units

USER = {
    "name": "roverwatch",
    "comment": "Roverwatch services",
    "home": "/var/lib/roverwatch",
    "shell": "/usr/sbin/nologin",
}
# Outlives a decommissioning that keeps the data, as they belong to whom it names.
RECORD = Path("/var/lib/roverwatch/machine.json")
DIRECTORIES = (Path("/etc/roverwatch"), Path("/opt/roverwatch"), Path("/var/lib/roverwatch"))
# What former versions of us, which kept no record, have left in the last of them.
KEPT = {"alertmanager", "node_exporter", "release", "textfile", "victoriametrics", "vmagent", "vmalert", "vmauth"}
# What the roles make that are no services.
PROGRAMS = tuple(Path("/usr/local/sbin/roverwatch-" + name) for name in ("no-thp", "oom-count", "release", "firewall"))
UNITS = (
    "roverwatch.slice",
    "roverwatch-release-boot.service",
    "roverwatch-release-rollback.service",
    "roverwatch-firewall.service",
    "roverwatch-firewall-metrics.service",
    "roverwatch-firewall-metrics.timer",
)
# Where systemd looks for units; the first is ours, and goes before the others.
UNIT_PATHS = (
    units.UNITS,
    Path("/run/systemd/system"),
    Path("/usr/local/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
)
IMAGES = "localhost/roverwatch/*"
# Accounts of services are below it.
FIRST_PERSON = 1000
ENGINE_TIMEOUT_SECONDS = 60


def account(user: Mapping[str, str]) -> Optional[pwd.struct_passwd]:
    try:
        return pwd.getpwnam(user["name"])
    except KeyError:
        return None


def is_ours(found: pwd.struct_passwd, user: Mapping[str, str]) -> bool:
    """Whether we made an account: by its comment, or, of a version that left none, by all that it is."""
    made = found.pw_gecos.split(",")[0] == user["comment"] or (found.pw_dir, found.pw_shell) == (
        user["home"],
        user["shell"],
    )
    return made and 0 < found.pw_uid < FIRST_PERSON


def is_right(found: pwd.struct_passwd, user: Mapping[str, str]) -> bool:
    return (found.pw_gecos, found.pw_dir, found.pw_shell) == (user["comment"], user["home"], user["shell"])


def record() -> Optional[Dict[str, Any]]:
    """What the last deployment wrote down; None where there was none. One that a power cut has emptied says nothing."""
    try:
        found = json.loads(RECORD.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def machine_is_ours(user: Mapping[str, str]) -> bool:
    found = account(user)
    return record() is not None or (found is not None and is_ours(found, user))


def strangers(
    user: Mapping[str, str], services: Sequence[str], engines: Iterable[str] = ("podman", "docker")
) -> List[str]:
    """What is in the way, a line each with the way out. `services` are the units that are to be deployed."""
    found = account(user)
    problems = _accounts(found, user)
    problems += [
        "{} is no directory: move it away, or have it lead to one".format(path)
        for path in DIRECTORIES
        if (path.exists() or path.is_symlink()) and not path.is_dir()
    ]
    problems += _units([name + ".service" for name in services], machine_is_ours(user))
    if machine_is_ours(user):
        return problems
    problems += [
        "{} is there, with {} in it, and nothing says that Roverwatch made it: move it away".format(path, names[0])
        for path, names in ((path, _entries(path)) for path in DIRECTORIES)
        if names and not (path == DIRECTORIES[-1] and set(names) <= KEPT)
    ]
    problems += [
        "{} is there, and Roverwatch did not make it: move it away".format(path)
        for path in PROGRAMS
        if path.exists() or path.is_symlink()
    ]
    if nftables.TABLE in _lines(["nft", "list", "tables"]):
        problems.append(
            "there is a {0} in nftables, and Roverwatch did not make it: give it another name where it is made, then "
            "nft delete {0}".format(nftables.TABLE)
        )
    for engine in engines:
        names = set(_lines([engine, "ps", "--all", "--format", "{{.Names}}"])) & set(services)
        problems += [
            "{0} has a container {1} that Roverwatch did not make: {0} rename {1} another-name".format(engine, name)
            for name in sorted(names)
        ]
        listing = ["image", "ls", "--filter", "reference=" + IMAGES, "--format", "{{.Repository}}:{{.Tag}}"]
        problems += [
            "{0} has an image {1} that Roverwatch did not bring: give it another name ({0} tag {1} NAME), then take "
            "this one off it ({0} rmi {1})".format(engine, name)
            for name in sorted(set(_lines([engine, *listing])))
        ]
    return problems


def _accounts(found: Optional[pwd.struct_passwd], user: Mapping[str, str]) -> List[str]:
    name = user["name"]
    if found is not None and not is_ours(found, user):
        return [
            "the account {0} (uid {1}, home {2}, shell {3}) is not Roverwatch's, whose services run as {0}: give it "
            "another name (usermod --login NAME {0}; groupmod --new-name NAME {0}). If it is to be Roverwatch's from "
            "now on, and to go with it: it needs a uid below {4} and the comment {5} (usermod --comment)".format(
                name, found.pw_uid, found.pw_dir, found.pw_shell, FIRST_PERSON, user["comment"]
            )
        ]
    if found is None:
        try:
            group = grp.getgrnam(name)
        except KeyError:
            return []
        return [
            "there is a group {0} (gid {1}) without Roverwatch's account, and its members could read what is for the "
            "services: groupmod --new-name NAME {0}, or groupdel {0}".format(name, group.gr_gid)
        ]
    return []


def _units(services: Sequence[str], ours: bool) -> List[str]:
    found = []
    for path in UNIT_PATHS:
        for name in services if ours else [*services, *UNITS]:
            unit = path / name
            if unit.is_file() and not (path == units.UNITS and ours and units.is_ours(unit)):
                found.append(
                    "{} is a unit that Roverwatch did not make: give it another name (then systemctl "
                    "daemon-reload)".format(unit)
                )
    return found


def _entries(path: Path) -> List[str]:
    """What is in a directory. An empty one, or the root of a disk, was made to be used."""
    return sorted(inside.name for inside in path.iterdir() if inside.name != "lost+found") if path.is_dir() else []


def _lines(command: Sequence[str]) -> List[str]:
    """What a program prints, nothing where it is not there or does not answer: who uses it says so."""
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
