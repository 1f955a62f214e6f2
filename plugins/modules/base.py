#!/usr/bin/python
"""The robot's half of `base`: looks what a machine is and what of it differs, and changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: base
short_description: Find everything that would stop a deployment, then make what every service needs
description:
  - Looks at the machine (operating system, architecture, init, memory controller, free disk, clock, whether it
    reaches its hubs, who holds its services' ports, what others have under names of Roverwatch, whether it is the
    machine that is meant) and on the controller at what is to be put on it (the types of the roles' variables, names
    and labels, sizes, the sum of the caps, what the disk must hold, certificates, the fleet's secret, the artifacts and
    their checksums), and reports all that is wrong at once. Each line names the host, the variable or thing, and the
    remedy.
  - What keeps a robot from a hub is a warning in check mode, where hubs need not be deployed yet, and where
    C(vmagent_hubs_required) is false. A certificate that is about to expire is a warning, too.
  - Where nothing is wrong, makes the user C(roverwatch), the directories, what every unit starts with and ends with,
    and C(roverwatch.slice) with the budget, which systemd reads before anything runs in it.
  - One round trip where all of that is there. No line has a value in it that
    C(meta/argument_specs.yml) marks as C(no_log).
options:
  role:
    description: >-
      The role whose variables say what the task does not. Of V(base), C(base_memory_budget) is O(memory_budget), and
      so on.
    type: str
  roles:
    description:
      - The roles of the play. Their variables are checked against their C(meta/argument_specs.yml).
      - A role that sets C(<role>_memory_max) has a cap in the budget, C(<role>_instances) times. A role that sets
        C(<role>_version) needs the artifact of that version, named C(<role>_artifact) or like the role.
    type: list
    elements: str
    required: true
  memory_budget:
    description: The budget that the kernel enforces on the whole slice, such as C(300M).
    type: str
    required: true
  artifacts_dir:
    description: The artifact store on the controller; that of this repository, or of the current directory, if empty.
    type: path
    required: true
  disk_reserve:
    description: What stays free on the disk after the artifacts have landed, such as C(256M).
    type: str
    required: true
  clock_skew_max:
    description: >-
      How many seconds the machine's clock may differ from the controller's. Samples with a wrong time are lost among
      those of other days.
    type: int
    required: true
  previous_name:
    description: >-
      The name that the machine was deployed under before, which confirms that it has another one now. Without it a
      machine that the last run called otherwise is refused.
    type: str
    default: ""
  only_look:
    description: Whether nothing is made, either.
    type: bool
    default: false
notes:
  - Reads the variable C(fleet_secret) of the host, if it has hubs or is one.
extends_documentation_fragment: [roverwatch.fleet.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Look before touching, then make what every service needs
  roverwatch.fleet.base:
    roles: "{{ ansible_play_role_names }}"
    memory_budget: 300M
    artifacts_dir: artifacts
    disk_reserve: 256M
    clock_skew_max: 60
"""

RETURN = r"""
machine:
  description: What the machine is.
  type: dict
  returned: always
  contains:
    architecture: {description: As uname says., type: str}
    cgroup_version: {description: "Where the memory controller is, 1 or 2; 0 where there is none.", type: int}
    disk_free: {description: Bytes free on the disk of C(/opt/roverwatch)., type: int}
    data_free: {description: Bytes free on the disk of C(/var/lib/roverwatch)., type: int}
    data_used: {description: Bytes that history and queues use there already., type: int}
    data_beside_artifacts: {description: Whether both are on one disk., type: bool}
    engines:
      description: >-
        Container engines that are there and put a container where a unit's slice says. Docker is asked for its cgroup
        driver, and is in the list, only where C(container_engine_name) says docker.
      type: list
      elements: str
ansible_facts:
  description: C(roverwatch_machine) is RV(machine), so that no later role has to look for the same once more.
  type: dict
  returned: always
hubs:
  description: Per URL of a hub, C(kind) and C(reason) of what keeps the robot from it; null if nothing does.
  type: dict
  returned: always
warnings:
  description: What will be wrong, or is not this run's business.
  type: list
  elements: str
  returned: if there are any
problems:
  description: What is wrong, a line each.
  type: list
  elements: str
  returned: always
"""

import os
import platform
import pwd
import shutil
import ssl
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import (
    identity,
    listening,
    ownership,
    places,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup, machine_files, systemd

TARGET = Path("/opt/roverwatch")
DATA = Path("/var/lib/roverwatch")
# What capacity is computed for.
GROWING = (DATA / "victoriametrics", DATA / "vmagent" / "queue")
PODMAN = Path("/usr/bin/podman")
DOCKER = Path("/usr/bin/docker")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")

BLOCK = 512
# For each address of a hub, and each read; all hubs are asked at the same time.
HUB_TIMEOUT_SECONDS = 3.0
HUB_DEADLINE_SECONDS = 10.0
DOCKER_TIMEOUT_SECONDS = 10.0


def memory_controller() -> int:
    try:
        return cgroup.find_controller().version
    except cgroup.CgroupError:
        return 0


def existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there already."""
    return next(there for there in (path, *path.parents) if there.exists())


def used(directory: Path) -> int:
    """Bytes on the disk below a directory, which its owner may be writing to."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_blocks * BLOCK
            except FileNotFoundError:
                continue  # merged into another file meanwhile
    return total


def engines(ask_docker: bool) -> list[str]:
    """The container engines that are there and put a container where a unit's slice says."""
    found = ["podman"] if PODMAN.exists() else []
    if ask_docker and DOCKER.exists() and docker_cgroup_driver() == "systemd":
        found.append("docker")
    return found


def docker_cgroup_driver() -> str:
    """Empty where Docker does not answer: the role `container_engine` asks again, and says why."""
    command = [str(DOCKER), "info", "--format", "{{.CgroupDriver}}"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DOCKER_TIMEOUT_SECONDS, check=False
        ).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""


def is_there(user: Mapping[str, str]) -> bool:
    found = ownership.account(user)
    return found is not None and ownership.is_right(found, user)


def main() -> None:
    # The action plugin's half gives these; a playbook has no say in them.
    module = AnsibleModule(
        argument_spec={
            "hub_urls": {"type": "list", "elements": "str", "default": []},
            "hub_authorities": {"type": "str"},
            "listening": {"type": "list", "elements": "dict", "default": []},
            "docker": {"type": "bool", "default": False},
            "engine": {"type": "str"},
            "programs": {"type": "list", "elements": "str", "default": []},
            "devices": {"type": "list", "elements": "str", "default": []},
            "remote_tmp": {"type": "str", "default": "~/.ansible/tmp"},
            "remote_user": {"type": "str", "default": ""},
            "services": {"type": "list", "elements": "str", "default": []},
            "wanted": {"type": "dict", "required": True, "options": machine_files.SPEC},
        },
        supports_check_mode=True,
    )
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    init = Path("/proc/1/comm").read_text().strip()
    try:
        hubs = gateway.knock_all(
            module.params["hub_urls"], module.params["hub_authorities"], HUB_TIMEOUT_SECONDS, HUB_DEADLINE_SECONDS
        )
        # Without systemd there is nobody to ask, and nothing will be made.
        differences = machine_files.look(module.params["wanted"]) if init == "systemd" else {}
    except ssl.SSLError as error:
        module.fail_json(msg="vmagent_hub_ca holds no certificate authorities: {}".format(error))
    except systemd.SystemdError as error:
        module.fail_json(msg=str(error))
    stage = places.staging(module.params["remote_tmp"], module.params["remote_user"])
    module.exit_json(
        machine={
            "user": pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() != 0 else "root",
            "architecture": platform.machine(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "system": release.get("PRETTY_NAME", platform.system()).strip('"'),
            "init": init,
            "cgroup_version": memory_controller(),
            "model": DEVICE_TREE_MODEL.read_text().rstrip("\0") if DEVICE_TREE_MODEL.exists() else "",
            "disk_free": shutil.disk_usage(existing(TARGET)).free,
            "data_free": shutil.disk_usage(existing(DATA)).free,
            "data_used": sum(map(used, GROWING)),
            "data_beside_artifacts": existing(TARGET).stat().st_dev == existing(DATA).stat().st_dev,
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "time": time.time(),
            "engines": engines(module.params["docker"]),
        },
        hubs={url: asdict(fault) if fault else None for url, fault in hubs.items()},
        places=places.tried(module.params["engine"], module.params["programs"], stage),
        image_policy=places.policy(module.params["engine"]),
        artifacts=places.here(module.params["engine"]),
        missing_devices=places.missing_devices(module.params["devices"]),
        strangers=ownership.strangers(ownership.USER, module.params["services"]),
        deployed_as=(ownership.record() or {}).get("name", ""),
        identity=identity.running(),
        held=listening.held(module.params["listening"]),
        user=is_there(ownership.USER),
        differences=differences,
    )


if __name__ == "__main__":
    unexpected.told(main)
