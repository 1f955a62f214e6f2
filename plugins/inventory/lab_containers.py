"""The lab's containers, under the names that their labels give them."""

from __future__ import annotations

DOCUMENTATION = """
name: lab_containers
short_description: The lab's Docker containers as inventory hosts
description:
  - M(community.docker.docker_containers) with two differences. A host is named by its container's label
    C(roverwatch.host) (C(robot-1) for the container C(roverwatch-robot-1)), so that the names on a series and in
    a report are those of a real fleet. Only containers of one lab are listed, and how each is reached is said as
    well, with the keys in C(.lab/). C(lab_addresses) are a machine's own, C(lab_networks) those of all.
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
  docker_host:
    description: Where the engine listens, by the variable that docker and the modules of community.docker read.
    type: string
    default: unix:///var/run/docker.sock
    env:
      - name: DOCKER_HOST
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

from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller import ansible_core

ansible_core.refuse_older()

from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from ansible.template import trust_as_template
from ansible_collections.community.docker.plugins.inventory.docker_containers import (
    InventoryModule as DockerContainers,
)

SSH_PORT = 22
# A machine that is off publishes no port; nothing listens on this one, so Ansible says that it is unreachable.
UNREACHABLE_PORT = 1


class _LabClient:
    """A Docker client that lists one lab's containers, each under its label's name."""

    def __init__(self, client: Any, lab: str) -> None:
        self._client = client
        self._lab = lab
        self.ports: dict[str, int] = {}
        # As Docker made them: each machine's addresses of IPv4 and IPv6, and the networks that they are in.
        self.addresses: dict[str, list[str]] = {}
        self.networks: set[str] = set()

    def get_json(self, path: str, *args: Any, **options: Any) -> Any:
        answer = self._client.get_json(path, *args, **options)
        if path != "/containers/json":
            return answer
        ours = [c for c in answer if c["Labels"].get("roverwatch.lab") == self._lab]
        for container in ours:
            published = [p["PublicPort"] for p in container["Ports"] if p["PrivatePort"] == SSH_PORT]
            self.ports[container["Labels"]["roverwatch.host"]] = published[0] if published else UNREACHABLE_PORT
            attached = list(container["NetworkSettings"]["Networks"].values())
            found = [(one["IPAddress"], one["IPPrefixLen"]) for one in attached]
            found += [(one["GlobalIPv6Address"], one["GlobalIPv6PrefixLen"]) for one in attached]
            # A machine that is off, or in a dead zone, has none.
            own = [ip_interface(f"{address}/{length}") for address, length in found if address]
            self.addresses[container["Labels"]["roverwatch.host"]] = [str(address.ip) for address in own]
            self.networks |= {str(address.network) for address in own}
        return [{**c, "Names": [c["Labels"]["roverwatch.host"]]} for c in ours]


class InventoryModule(DockerContainers):
    NAME = "lab_containers"

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        self._keys = Path(path).resolve().parents[1] / ".lab"
        super().parse(inventory, loader, path, cache)

    def _populate(self, client: Any) -> None:
        lab = self.get_option("lab")
        lister = _LabClient(client, lab)
        super()._populate(lister)
        # For testinfra, which opens its own connections, this must be said here: it evaluates no templates, and
        # trusted, or `ansible-inventory` wraps the text in a mapping.
        keys = self._keys / lab
        reached = {
            "ansible_host": "127.0.0.1",
            "ansible_user": "rover",
            "ansible_ssh_private_key_file": str(keys / "id_ed25519"),
            "ansible_ssh_common_args": (
                f"-o UserKnownHostsFile={keys}/known_hosts -o HostKeyAlias=roverwatch-lab "
                "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
            ),
        }
        for host, port in lister.ports.items():
            self.inventory.set_variable(host, "ansible_port", port)
            self.inventory.set_variable(host, "lab_addresses", lister.addresses[host])
            self.inventory.set_variable(host, "lab_networks", sorted(lister.networks))
            for name, value in reached.items():
                self.inventory.set_variable(host, name, trust_as_template(value))
