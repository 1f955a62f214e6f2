#!/usr/bin/python
"""An image of the artifact store as a service: one or several capped containers, proved to run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_service
short_description: Run a verified image of the store in one or several capped containers
description:
  - The twin of M(roverwatch.fleet.binary_service) for an image. It is loaded into the engine under its own tag, beside
    its older versions, its id must be the manifest's, and its layers must be what that id says. One that a power cut
    has emptied is removed and loaded again.
  - Each container runs in C(roverwatch.slice) under its own cap, without capabilities, on a read-only root and on the
    machine's network, as a systemd unit of its own. Only a small supervisor stays beside the container.
  - The instances are brought up to date one after the other; each must be ready before the next one's turn comes. Those
    that are too many are removed last.
options:
  name:
    description: The artifact's name.
    type: str
    required: true
  unit:
    description: >-
      The systemd unit of the first instance, without C(.service). A second one is called C(<unit>-2), and so on.
    type: str
    required: true
  state:
    description: >-
      V(absent) removes every instance with C(/etc/roverwatch/<name>), and every version of the image.
    type: str
    choices: [present, absent]
    default: present
  engine:
    description: The container engine.
    type: str
    choices: [podman, docker]
    required: true
  version:
    description:
      - The version as it is pinned in group_vars.
      - Needed for V(present), as are O(description), O(config), O(memory_max), O(port), O(ready_path) and O(job).
    type: str
  instances:
    description: How many containers run, each with its own cap, on ports that count up from the first.
    type: int
    default: 1
  args:
    description: Arguments for the image's entry point.
    type: list
    elements: str
    default: []
  run_options:
    description: More options for C(podman run) and C(docker run), such as volumes.
    type: list
    elements: str
    default: []
  devices:
    description: >-
      Devices of the machine that the service may use, such as C(/dev/ttyUSB0). One that is not there when a container
      starts is left out; one that is there again is taken in by the next run, or by a restart.
    type: list
    elements: str
    default: []
  memory_max:
    description: The cap that the kernel enforces on each container, a size such as 80M.
    type: str
  config:
    description: >-
      The configuration file, mounted at /etc/roverwatch/config.toml in the container. C(@port@) in it is the instance's
      port.
    type: str
  config_check:
    description: >-
      Arguments with which the image accepts or refuses the configuration file before the running service is touched.
    type: list
    elements: str
    default: []
  secrets:
    description:
      - Files that the service's user alone can read, by name, mounted at /etc/roverwatch/secrets. A service whose
        secrets change is restarted.
      - No log, diff or result has them, and they are in no hash that others can read.
    type: dict
    default: {}
  user_id:
    description: The user id that the image runs as, which owns the secrets.
    type: int
    default: 65532
  port:
    description: The TCP port of the first instance.
    type: int
  ready_path:
    description: The path that answers 2xx once an instance is ready.
    type: str
  ready_timeout:
    description: Seconds until an instance must be ready.
    type: int
    default: 30
extends_documentation_fragment: [roverwatch.fleet.attributes, roverwatch.fleet.service]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Run the sensor service twice
  roverwatch.fleet.container_service:
    name: sensor
    unit: roverwatch-sensor
    engine: podman
    description: the robot's sensors
    version: 0.2.1-bd685a53
    instances: 2
    memory_max: 80M
    config: "{{ lookup('ansible.builtin.template', 'config.toml.j2') }}"
    port: 8000
    ready_path: /readyz
    job: sensor
"""

RETURN = r"""
artifacts:
  description: What the machine has of the store now, by the artifacts' names; C(version), C(reference) and C(image_id).
  type: dict
  returned: state is present
instances:
  description: >-
    How each unit came up, by its name: C(main_pid), C(ready_seconds) and C(restarted), whether a running process was
    replaced.
  type: dict
  returned: state is present, not in check mode
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import deployment, unit_text
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import units


def check(wanted: Mapping[str, Any], image: str) -> list[str]:
    """The command with which the image itself says whether it accepts its configuration, under the cap it will have."""
    if not wanted["config_check"]:
        return []
    run = {"podman": [*unit_text.PODMAN, "run", "--userns=host"], "docker": ["docker", "run"]}[wanted["engine"]]
    run += ["--rm", "--pull=never", "--network=none", "--read-only", "--cap-drop=all"]
    cap = ["--cgroup-parent=" + units.SLICE, "--memory={}".format(wanted["memory_max"])]
    return [*run, *cap, "--volume={}:/etc/roverwatch/config.toml:ro", image, *wanted["config_check"]]


def instance(wanted: Mapping[str, Any], number: int, its: Mapping[str, str]) -> dict[str, Any]:
    """The unit of one container, counted from 1, as capped_unit takes it."""
    name = wanted["unit"] if number == 1 else "{}-{}".format(wanted["unit"], number)
    port = wanted["port"] + number - 1
    config = deployment.config_dir(wanted["name"]) / (name + ".toml")
    secrets_dir = deployment.config_dir(wanted["name"]) / (name + ".secrets")
    return {
        "name": name,
        "unit": unit_text.container(wanted, name, its["reference"], str(config), str(secrets_dir)),
        "files": [
            {
                "path": config,
                "content": wanted["config"].replace("@port@", str(port)),
                "mode": "0644",
                "validate": check(wanted, its["reference"]),
            }
        ],
        "secrets": wanted["secrets"],
        "secrets_dir": secrets_dir,
        "secrets_owner": str(wanted["user_id"]),
        "service": {
            "kind": "container",
            "version": its["version"],
            "engine": wanted["engine"],
            "image": its["reference"],
            "image_id": its["image_id"],
            "cid_file": unit_text.cid_file(name),
            "memory_max": wanted["memory_max"],
            "ready_url": "http://127.0.0.1:{}{}".format(port, wanted["ready_path"]),
            **({"devices": wanted["devices"]} if wanted["devices"] else {}),
        },
        "replaces": [],
        "scrape": deployment.scrape(wanted, port),
        "ready_timeout": wanted["ready_timeout"],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **deployment.SPEC,
            "engine": {"type": "str", "choices": ["podman", "docker"], "required": True},
            "args": {"type": "list", "elements": "str", "default": []},
            "instances": {"type": "int", "default": 1},
            "run_options": {"type": "list", "elements": "str", "default": []},
            "devices": {"type": "list", "elements": "str", "default": []},
            "config": {"type": "str"},
            "config_check": {"type": "list", "elements": "str", "default": []},
            "user_id": {"type": "int", "default": 65532},
        },
        required_if=[*deployment.REQUIRED_IF, ("state", "present", ("config",))],
        supports_check_mode=True,
    )
    params = module.params

    def work() -> dict[str, Any]:
        if params["state"] == "absent":
            return deployment.absent(params, [params["name"]], params["engine"], module.check_mode)
        wanted = deployment.checked(params)
        return deployment.present(
            params,
            params["engine"],
            lambda properties: [
                instance(wanted, number, properties[params["name"]]) for number in range(1, params["instances"] + 1)
            ],
            module.check_mode,
        )

    deployment.run(module, work)


if __name__ == "__main__":
    unexpected.told(main)
