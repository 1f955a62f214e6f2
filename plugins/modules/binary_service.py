#!/usr/bin/python
"""A binary of the artifact store as a service: hardened, capped, and proved to run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: binary_service
short_description: Run a verified binary of the store in a hardened, capped systemd unit
description:
  - All of one service in one round trip. The machine is asked with the store's manifest, and only what it lacks is
    transferred. It compares the sha256 of what arrived with the manifest before anything is put in place. The binary
    lands beside its older versions, in C(/opt/roverwatch/<name>/<version>/<name>), which touches nothing that runs.
  - The binary runs in C(roverwatch.slice) under its own cap as the user C(roverwatch), without privileges.
  - Files and unit are validated together. Where one is invalid, none is changed. They are put in place; the service is
    started, or restarted if the running process was started with other ones, and must be ready and run the version
    that was asked for.
  - Whether a restart is due is not a matter of what this run changed. The unit puts a revision over all that the
    process reads into its environment, where the kernel keeps it. So a run that was cut off half-way is finished by
    the next one, and a process that runs what it should is never restarted.
options:
  name:
    description: The artifact's name, which is the name of its directory and of its file too.
    type: str
    required: true
  unit:
    description: The systemd unit, without C(.service).
    type: str
    required: true
  state:
    description: V(absent) removes the service with C(/etc/roverwatch/<name>), and every version of its artifacts.
    type: str
    choices: [present, absent]
    default: present
  version:
    description:
      - The version asked for, as it is pinned in group_vars. A package of the distribution may stand in for it.
      - Needed for V(present), as are O(description), O(memory_max), O(port), O(ready_path) and O(job).
    type: str
  tools:
    description: Other artifacts that come with the service, such as the program that checks its configuration.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The artifact's name.
        type: str
        required: true
      version:
        description: The version asked for.
        type: str
  args:
    description:
      - The program's command line, an argument each. Those of a list in it follow in its place, and empty ones are left
        out.
      - C({listen}) in an argument is the address that O(allow_from) makes it listen on; C({listen_ipv6}) is C(true)
        where that is one of IPv6, and C(false) otherwise; C({port}) is O(port).
    type: list
    elements: raw
    default: []
  start_pre:
    description: Command lines that run before each start of the program, as its user.
    type: list
    elements: str
    default: []
  memory_max:
    description: The cap that the kernel enforces on the service, a size such as 48M.
    type: str
  files:
    description: Its configuration files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file goes.
        type: path
        required: true
      content:
        description: What is in it.
        type: str
        required: true
      mode:
        description: Its permissions, in octal.
        type: str
        default: "0644"
      validate:
        description: >-
          A command that must accept the file before it lands. C({}) in it is the staged file, C({vmagent}) the path of
          the artifact vmagent.
        type: list
        elements: str
        default: []
      version_pattern:
        description: A regular expression. The file is there for versions of the binary that match it.
        type: str
        default: ""
  replaces:
    description: Patterns of files that an earlier version had in their place; removed once the service runs.
    type: list
    elements: str
    default: []
  secrets:
    description:
      - What only the service's user may read, as text by file name, in C(/etc/roverwatch/<name>/secrets). A change
        restarts the service.
      - No log, diff or result has them, and they are in no hash that others can read.
    type: dict
    default: {}
  added:
    description: >-
      What is known together, such as all that a list of hubs makes necessary: by option, what comes to O(args),
      O(files), O(secrets) and O(record) of the task.
    type: dict
    default: {}
  record:
    description: What health checks need to know of the service beyond what they know of each.
    type: dict
    default: {}
  port:
    description: The TCP port that the service listens on.
    type: int
  ready_path:
    description: The path that answers 2xx once the service is ready.
    type: str
  ready_timeout:
    description: Seconds until the service must be ready.
    type: int
    default: 30
  allow_from:
    description: >-
      Networks (CIDR) that may reach the service. Empty means that it listens on 127.0.0.1 alone. systemd enforces the
      list (IPAddressAllow=) unless the service opens connections itself.
    type: list
    elements: str
    default: []
  egress:
    description: Whether the service opens connections to other machines.
    type: bool
    default: false
  protect_clock:
    description: Whether the service may not even ask the kernel how the clock is kept. Nothing may set it.
    type: bool
    default: true
  sees_mounts:
    description: >-
      Whether the service reports on the machine's file systems. It sees each of them then, also below C(/home) and
      C(/tmp) and what is mounted after its start, and can write to none.
    type: bool
    default: false
  address_families:
    description: The socket address families that the service may use.
    type: list
    elements: str
    default: [AF_INET, AF_INET6, AF_UNIX]
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
- name: Run node_exporter
  roverwatch.fleet.binary_service:
    name: node_exporter
    unit: roverwatch-node-exporter
    description: metrics of the machine
    version: 1.11.1
    memory_max: 32M
    port: 9100
    ready_path: /metrics
    job: node-exporter
    args: ["--web.listen-address={listen}:{port}"]

- name: Take it off the machine
  roverwatch.fleet.binary_service:
    name: node_exporter
    unit: roverwatch-node-exporter
    state: absent
"""

RETURN = r"""
artifacts:
  description: What the machine has of the store now, by the artifacts' names; C(version) and C(path).
  type: dict
  returned: state is present
instances:
  description: >-
    How the unit came up, by its name: C(main_pid), C(ready_seconds) and C(restarted), whether a running process was
    replaced.
  type: dict
  returned: state is present, not in check mode
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import deployment, unit_text

Properties = Mapping[str, Mapping[str, str]]


def files(wanted: Mapping[str, Any], properties: Properties) -> list[dict[str, Any]]:
    """The files that this version needs, with the artifacts' paths in what validates them."""
    version = properties[wanted["name"]]["version"]
    paths = {"{" + name + "}": known["path"] for name, known in properties.items()}
    return [
        {**file, "validate": [paths.get(word, word) for word in file["validate"]]}
        for file in wanted["files"]
        if re.search(file["version_pattern"], version)
    ]


def arguments(given: Sequence[Any], listen: str, port: int) -> list[str]:
    """The command line, flat, with the address in it."""
    address = {"{listen}": listen, "{listen_ipv6}": str(listen.startswith("[")).lower(), "{port}": str(port)}
    flat: list[str] = []
    for word in given:
        if isinstance(word, list):
            flat += arguments(word, listen, port)
        elif word:
            text = str(word)
            for name, value in address.items():
                text = text.replace(name, value)
            flat.append(text)
    return flat


def instance(wanted: Mapping[str, Any], properties: Properties) -> dict[str, Any]:
    """The service's one unit, as capped_unit takes it."""
    its = properties[wanted["name"]]
    listen = rules.listen_on(wanted["allow_from"])
    return {
        "name": wanted["unit"],
        "unit": unit_text.binary(wanted, [its["path"], *arguments(wanted["args"], listen, wanted["port"])]),
        "files": files(wanted, properties),
        "secrets": wanted["secrets"],
        "secrets_dir": deployment.config_dir(wanted["name"]) / "secrets",
        "secrets_owner": "roverwatch",
        "service": {
            "kind": "binary",
            "version": its["version"],
            "exe": its["path"],
            "memory_max": wanted["memory_max"],
            "ready_url": "http://127.0.0.1:{}{}".format(wanted["port"], wanted["ready_path"]),
            **wanted["record"],
        },
        "replaces": wanted["replaces"],
        "scrape": deployment.scrape(wanted, wanted["port"]),
        "ready_timeout": wanted["ready_timeout"],
    }


def main() -> None:
    artifact_spec = {"name": {"type": "str", "required": True}, "version": {"type": "str"}}
    file_spec = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "validate": {"type": "list", "elements": "str", "default": []},
        "version_pattern": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            **deployment.SPEC,
            "args": {"type": "list", "elements": "raw", "default": []},
            "tools": {"type": "list", "elements": "dict", "default": [], "options": artifact_spec},
            "start_pre": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file_spec},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "dict", "default": {}},
            "allow_from": {"type": "list", "elements": "str", "default": []},
            "egress": {"type": "bool", "default": False},
            "protect_clock": {"type": "bool", "default": True},
            "sees_mounts": {"type": "bool", "default": False},
            "address_families": {"type": "list", "elements": "str", "default": ["AF_INET", "AF_INET6", "AF_UNIX"]},
        },
        required_if=deployment.REQUIRED_IF,
        supports_check_mode=True,
    )
    params = module.params

    def work() -> dict[str, Any]:
        if params["state"] == "absent":
            names = [params["name"], *(tool["name"] for tool in params["tools"])]
            return deployment.absent(params, names, None, module.check_mode)
        wanted = deployment.checked(params)
        return deployment.present(params, None, lambda properties: [instance(wanted, properties)], module.check_mode)

    deployment.run(module, work)


if __name__ == "__main__":
    unexpected.told(main)
