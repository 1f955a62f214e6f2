"""Says in one line whether this machine can carry the lab: its Python, and the Docker engine that answers.

Ends with 0 where it can, 1 where it cannot, and 3 where no engine answers, so that lab/engine.sh may start one. It runs
before the controller's environment is there, with any Python, and asks for nothing but the standard library.
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = (3, 11)
DOCKER = (20, 10)  # the oldest whose `docker create` has --cgroupns
# Ansible's modules of Docker, which make the lab, and its inventory know DOCKER_HOST and no contexts.
DEFAULT_HOST = "unix:///var/run/docker.sock"
USE_PLAIN = "use a plain Docker Engine on this machine (docker context use default, DOCKER_HOST unset)"


class Refused(Exception):
    """The lab cannot run here: what is wrong, and what to do."""


class NoEngine(Refused):
    """Nothing answers, which starting an engine may mend."""


@dataclass(frozen=True)
class Engine:
    """What `docker context inspect`, `docker info` and `docker version` say, each as JSON."""

    endpoint: str
    info: dict[str, Any]
    version: dict[str, Any]

    def name(self) -> str:
        """As its maker calls it: Docker Desktop, Podman Engine; that of a plain Docker Engine is Engine."""
        server = self.version.get("Server") or {}
        platform: str = (server.get("Platform") or {}).get("Name") or ""
        if platform.startswith("Docker Desktop") or self.info.get("OperatingSystem") == "Docker Desktop":
            return "Docker Desktop"
        components: list[dict[str, Any]] = server.get("Components") or [{}]
        return str(components[0].get("Name", ""))

    def security(self) -> set[str]:
        """The names among its security options: seccomp, apparmor, rootless, userns, cgroupns."""
        options = self.info.get("SecurityOptions") or []
        return {match[1] for option in options if (match := re.match(r"name=([^,]+)", option))}


def check_python(version: tuple[int, ...], has_venv: bool) -> None:
    """Raises Refused where the controller's environment cannot be made with this Python."""
    if version < PYTHON:
        raise Refused(
            f"python3 is {'.'.join(map(str, version[:3]))}, and the controller needs {'.'.join(map(str, PYTHON))} or "
            "newer: put one first on PATH"
        )
    if not has_venv:
        raise Refused("python3 has no venv: sudo apt-get install python3-venv")


def check_endpoint(endpoint: str) -> None:
    """Raises Refused where the engine is on another machine."""
    if not endpoint.startswith("unix://"):
        raise Refused(f"`docker` talks to {endpoint}, where the machines' ports would be published too: {USE_PLAIN}")


def check_engine(engine: Engine, docker_host: str = "") -> None:
    """Raises Refused where the engine that answers cannot carry the lab, or is not the one that Ansible would ask."""
    info, name, security = engine.info, engine.name(), engine.security()
    version = str(info.get("ServerVersion", ""))
    if "host" in info or name == "Podman Engine":
        raise Refused(f"it is podman that answers as `docker`, and the lab needs Docker's own engine: {USE_PLAIN}")
    if name == "Docker Desktop":
        raise Refused(f"Docker Desktop runs in a virtual machine, with a kernel and cgroups of its own: {USE_PLAIN}")
    if info.get("OSType") != "linux":
        raise Refused(f"the engine runs {info.get('OSType')} containers, and the machines are Debian: {USE_PLAIN}")
    if (number := re.match(r"v?(\d+)\.(\d+)", version)) and (int(number[1]), int(number[2])) < DOCKER:
        raise Refused(f"Docker {version} is too old: install {'.'.join(map(str, DOCKER))} or newer")
    if "rootless" in security:
        raise Refused(
            "the engine is rootless and may neither load firewall rules nor give devices and cgroups to a machine: "
            + USE_PLAIN
        )
    if "userns" in security:
        raise Refused(
            "the engine maps root to another user (userns-remap), which systemd inside cannot do with: "
            "take userns-remap out of /etc/docker/daemon.json and restart Docker"
        )
    missing = [kind for kind, key in (("memory", "MemoryLimit"), ("cpu", "CpuCfsQuota")) if not info.get(key)]
    if missing:
        raise Refused(
            f"the kernel gives the engine no {' and no '.join(missing)} limits for cgroups: boot it with "
            "cgroup_enable=memory, and see `docker info` for its warnings"
        )
    if engine.endpoint != (docker_host or DEFAULT_HOST):
        raise Refused(
            f"`docker` talks to {engine.endpoint} by its context, which Ansible does not know: "
            f"export DOCKER_HOST={engine.endpoint}"
        )


def ask() -> Engine:
    """What answers as `docker`. Raises Refused, or NoEngine where nothing does."""
    if not shutil.which("docker"):
        raise NoEngine(
            "`docker` is not here: https://docs.docker.com/engine/install (on Debian: sudo apt-get install docker.io)"
        )
    context = json.loads(_docker("context", "inspect").stdout or "[]")
    endpoint: str = context[0]["Endpoints"]["docker"]["Host"] if context else ""
    if endpoint:  # podman's client in docker's place has none
        check_endpoint(endpoint)
    asked = _docker("info", "--format", "{{json .}}")
    info: dict[str, Any] = json.loads(asked.stdout or "{}")
    # Older clients end with 0 where nothing answers, too.
    if not info.get("ServerVersion") and "host" not in info:
        raise _silent(endpoint, (info.get("ServerErrors") or asked.stderr.splitlines() or ["it says nothing"])[-1])
    return Engine(endpoint, info, json.loads(_docker("version", "--format", "{{json .}}").stdout))


def _docker(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *args], capture_output=True, text=True, check=False)


def _silent(endpoint: str, error: str) -> Refused:
    """Why nothing was answered, as the socket shows it; else in docker's words."""
    socket = Path(endpoint.removeprefix("unix://"))
    user = getpass.getuser()
    if socket.is_socket() and not os.access(socket, os.R_OK | os.W_OK):
        return Refused(f"{user} may not use {endpoint}: sudo usermod -aG docker {user}, then log in again")
    if "Cannot connect" not in error:
        return Refused(f"`docker info` fails: {error}")
    if endpoint != DEFAULT_HOST:
        return Refused(f"no engine answers at {endpoint}: {USE_PLAIN}")
    return NoEngine(f"no Docker engine answers at {endpoint}: sudo systemctl start docker")


def verdict() -> str:
    """The line for where all is well. Raises Refused."""
    check_python(sys.version_info[:3], importlib.util.find_spec("ensurepip") is not None)
    engine = ask()
    check_engine(engine, os.environ.get("DOCKER_HOST", ""))
    return f"Docker {engine.info['ServerVersion']}, cgroup v{engine.info['CgroupVersion']}"


def main() -> int:
    try:
        print(verdict())
    except Refused as refused:
        print(refused)
        return 3 if isinstance(refused, NoEngine) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
