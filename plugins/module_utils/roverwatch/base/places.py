"""The places where a run writes on a machine, tried before it does: each is written to, and nothing is left there.

Each function returns plain data; `requirements.written` and `requirements.room` make sentences of it.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from ..artifact import installed
from ..system import disk, units

# Where programs are started from, and where not.
PROGRAMS = ("/usr/local/sbin", "/opt/roverwatch")
FILES = (
    "/etc/systemd/system",
    "/etc/roverwatch",
    "/var/lib/roverwatch",
    "/run/roverwatch",
    "/tmp",  # noqa: S108  (tried with a file that has no name)
)
PODMAN_STORAGE = "/var/lib/containers/storage"
PODMAN_TEMPORARY = "/var/tmp"  # noqa: S108  (podman's own default)
DOCKER_ROOT = "/var/lib/docker"
# Where packages put programs, and where those are looked for.
INSTALLED = "/usr/bin"
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STORAGE_CONF = Path("/etc/containers/storage.conf")
CONTAINERS_CONF = Path("/etc/containers/containers.conf")
POLICY = Path("/etc/containers/policy.json")
DOCKER_CONF = Path("/etc/docker/daemon.json")


def engine_places(engine: str) -> Dict[str, str]:
    """Where an engine keeps images (`storage`), and where it puts one together (`temporary`), by its own settings."""
    if engine == "docker":
        root = _docker_root()
        return {"storage": root, "temporary": root}
    return {
        "storage": _setting(STORAGE_CONF, "graphroot") or PODMAN_STORAGE,
        "temporary": _setting(CONTAINERS_CONF, "image_copy_tmp_dir") or PODMAN_TEMPORARY,
    }


def _docker_root() -> str:
    try:
        return str(json.loads(DOCKER_CONF.read_text()).get("data-root") or DOCKER_ROOT)
    except (FileNotFoundError, ValueError):
        return DOCKER_ROOT


def _setting(path: Path, name: str) -> str:
    """A path in a file of TOML, which Python reads since 3.11."""
    pattern = re.compile(r'^\s*{}\s*=\s*"(/[^"]*)"'.format(name), re.MULTILINE)
    found = pattern.search(path.read_text()) if path.exists() else None
    return found[1] if found else ""


def policy(engine: Optional[str]) -> str:
    """What podman's policy does with an image from an archive, other than accept it. Empty before it is installed."""
    if engine != "podman" or shutil.which("podman", path=SEARCHED) is None:
        return ""
    try:
        said = json.loads(POLICY.read_text())
        requirements = said.get("transports", {}).get("docker-archive", {}).get("", said["default"])
        types = {requirement["type"] for requirement in requirements}
    except FileNotFoundError:
        return "it is not there"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "it is no policy"
    return ", ".join(sorted(types - {"insecureAcceptAnything"}))


def staging(remote_tmp: str, user: str) -> Dict[str, Any]:
    """The directory in which Ansible puts what it brings: that of whoever logs in, who writes there.

    `user` is as the controller knows it, maybe not at all; sudo says it as well.
    """
    name = os.environ.get("SUDO_USER") or user
    try:
        account = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError:
        account = pwd.getpwuid(os.getuid())
    path = re.sub(r"^~[^/]*", account.pw_dir, remote_tmp) if remote_tmp.startswith("~") else remote_tmp
    return {"path": path, "uid": account.pw_uid, "gid": account.pw_gid, "user": account.pw_name}


def tried(engine: Optional[str], programs: List[str], stage: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Every place by its use: a path, or `staging`, `storage`, `temporary`, and `packages` if the package of one of
    these programs is yet to be installed.
    """
    found = {path: _tried(path, runs=path in PROGRAMS) for path in (*PROGRAMS, *FILES)}
    for use, path in engine_places(engine).items() if engine else ():
        found[use] = _tried(path, runs=use == "storage")
    if any(shutil.which(program, path=SEARCHED) is None for program in programs):
        found["packages"] = _tried(INSTALLED)
    found["staging"] = {**_as_user(stage, lambda: _tried(stage["path"])), "user": stage["user"]}
    return found


def _tried(path: str, runs: bool = False) -> Dict[str, Any]:
    there = next(above for above in (Path(path), *Path(path).parents) if above.is_dir())
    status = os.statvfs(str(there))
    return {
        "path": path,
        "device": there.stat().st_dev,
        "free": status.f_bavail * status.f_frsize,
        "no_inodes": status.f_files > 0 and status.f_favail == 0,
        "noexec": runs and bool(status.f_flag & os.ST_NOEXEC),
        "error": disk.refusal(there),
    }


def _as_user(stage: Mapping[str, Any], work: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """Do it as the user who logs in: root may write where that one may not."""
    if os.geteuid() != 0 or stage["uid"] == 0:
        return work()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.initgroups(stage["user"], stage["gid"])
            os.setgid(stage["gid"])
            os.setuid(stage["uid"])
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return dict(json.loads(text)) if text else {**work(), "error": "it cannot be looked at by {}".format(stage["user"])}


def here(engine: Optional[str]) -> List[Dict[str, str]]:
    """The artifacts on the machine, as far as can be seen without asking an engine: `name`, `version`, `sha256`."""
    there = []
    for path in installed.ROOT.glob("*/*/" + installed.RECORD):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        name, version = path.parent.parent.name, path.parent.name
        image = record.get("image_id")
        if (path.parent / name).is_file() or (image and engine and image in _images(engine)):
            there.append({"name": name, "version": version, "sha256": str(record.get("sha256"))})
    return there


def _images(engine: str) -> Iterator[str]:
    """The ids of the images that an engine has, from its own files."""
    storage = Path(engine_places(engine)["storage"])
    for listing in storage.glob("*-images/images.json"):
        try:
            yield from ("sha256:" + image["id"] for image in json.loads(listing.read_text()))
        except (ValueError, KeyError, TypeError):
            continue
    yield from ("sha256:" + path.name for path in storage.glob("image/*/imagedb/content/sha256/*"))


def missing_devices(devices: List[str]) -> List[str]:
    """Those that are not there now."""
    return [device for device in devices if not units.device_is_there(device)]
