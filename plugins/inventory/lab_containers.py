"""The lab's containers, under the names that their labels give them."""

from __future__ import annotations

DOCUMENTATION = """
name: lab_containers
short_description: The lab's Docker containers as inventory hosts
description:
  - M(community.docker.docker_containers) with two differences. A host is named by its container's label
    C(roverwatch.host) (C(robot-1) for the container C(roverwatch-robot-1)), so that the names on a series and in
    a report are those of a real fleet. Only containers of one lab are listed.
extends_documentation_fragment:
  - ansible.builtin.constructed
  - community.docker.docker.api_documentation
  - community.library_inventory_filtering_v1.inventory_filter
options:
  plugin:
    description: The name of this plugin.
    type: string
    required: true
    choices: [lab_containers]
  lab:
    description: The lab whose containers are listed, by their label C(roverwatch.lab).
    type: string
    default: demo
    env:
      - name: ROVERWATCH_LAB
  connection_type:
    description: How Ansible reaches the containers.
    type: string
    default: ssh
    choices: [ssh]
  private_ssh_port:
    description: The port of sshd inside a container.
    type: int
    default: 22
  default_ip:
    description: The address to use where a port is published on all of them.
    type: string
    default: 127.0.0.1
  verbose_output:
    description: Whether all that Docker knows of a container becomes its variables.
    type: bool
    default: false
  add_legacy_groups:
    description: Whether groups are made of images, identifiers and states.
    type: bool
    default: false
  configure_docker_daemon:
    description: Not used over SSH.
    type: bool
    default: false
"""

from typing import Any  # noqa: E402  (Ansible reads DOCUMENTATION first)

from ansible_collections.community.docker.plugins.inventory.docker_containers import (  # noqa: E402
    InventoryModule as DockerContainers,
)


class _LabClient:
    """A Docker client that lists one lab's containers, each under its label's name."""

    def __init__(self, client: Any, lab: str) -> None:
        self._client = client
        self._lab = lab

    def get_json(self, path: str, *args: Any, **options: Any) -> Any:
        answer = self._client.get_json(path, *args, **options)
        if path != "/containers/json":
            return answer
        ours = [c for c in answer if c["Labels"].get("roverwatch.lab") == self._lab]
        return [{**c, "Names": [c["Labels"]["roverwatch.host"]]} for c in ours]


class InventoryModule(DockerContainers):
    NAME = "lab_containers"

    def _populate(self, client: Any) -> None:
        super()._populate(_LabClient(client, self.get_option("lab")))
