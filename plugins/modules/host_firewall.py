#!/usr/bin/python
"""The robot's half of `host_firewall`: looks, installs, and tries the rules, which the action plugin then confirms."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_firewall
short_description: Who may reach which port of a machine
description:
  - Makes O(rules) a table of nftables (C(inet roverwatch)) and touches no other table. A machine whose kernel and file
    have that table already is asked once, and nothing is changed.
  - New rules are tried first. They are kept once the controller has reached the machine over a new connection; until
    then the machine takes them back by itself after O(confirm_seconds), and so does its restart.
  - Installs nftables from the machine's own package source if it is not there. Its own service is not needed, and is
    as the operator left it.
  - Installs the tool and the units that load the table when the machine starts, and count what its rules do.
  - The options that are not here are what the action plugin hands over.
options:
  role:
    description: >-
      The role whose variables say what the task does not. Of V(host_firewall), C(host_firewall_rules) is O(rules),
      and so on.
    type: str
  state:
    description: V(absent) removes the table, the tool, the units and the metrics. The package of nftables stays.
    type: str
    choices: [present, absent]
    default: present
  rules:
    description: >-
      The rules of the whole fleet, as in C(group_vars/all/firewall.yml). Each machine takes those of its groups.
    type: list
    elements: raw
    default: []
  default_drop:
    description: Whether ports that are in no rule are closed. Refused unless a rule lets somebody reach O(ssh_port).
    type: bool
    default: false
  ssh_port:
    description: The port that the machine's SSH server listens on. Connections in use outlast any change.
    type: int
    default: 22
  trusted_interfaces:
    description: With O(default_drop), interfaces behind which everything may reach what is in no rule.
    type: list
    elements: str
    default: []
  confirm_seconds:
    description: Seconds after which the machine takes back rules that keep the controller out. At least 10.
    type: int
    default: 60
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
- name: Let the operators in, and nobody else
  roverwatch.fleet.host_firewall:
    rules:
      - {name: metrics, groups: [robots], ports: [9100], sources: [10.10.5.0/24]}
"""

RETURN = r"""
taken_back:
  description: The rules kept new connections out, and the machine has those before again.
  type: bool
  returned: then
"""

import ipaddress
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import nftables
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk, systemd, units

TOOL = Path("/usr/local/sbin/roverwatch-firewall")
LOADER = "roverwatch-firewall.service"
METRICS = "roverwatch-firewall-metrics.service"
TIMER = "roverwatch-firewall-metrics.timer"
ENABLED = (LOADER, TIMER)
# Has the table loaded again after nftables.service has flushed all.
DROP_IN = units.UNITS / "nftables.service.d/roverwatch.conf"
KEPT = Path("/etc/roverwatch/firewall.nft")
RUN = Path("/run/roverwatch")
TEXTFILE = Path("/var/lib/roverwatch/textfile/roverwatch_firewall.prom")
PROC = Path("/proc")


class Refused(Exception):
    """The rules cannot be put in force; the text says why and what to do."""


def ssh_connection(proc: Path, pid: int) -> tuple[str, int] | None:
    """The client and the server's port of the SSH connection that this runs over.

    sudo takes it out of the environment. What the processes above were started with still has it.
    """
    while pid > 1:
        process = proc / str(pid)
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            parent = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:
            return None  # it ended just now
        for item in environment:
            fields = item.decode(errors="replace").partition("SSH_CONNECTION=")[2].split()
            # What has no address (sshd behind a pipe) is UNKNOWN.
            if item.startswith(b"SSH_CONNECTION=") and len(fields) == 4 and fields[0] != "UNKNOWN":
                return fields[0], int(fields[3])
        pid = int(parent)
    return None


def listeners(listed: str, first_ephemeral: int) -> list[nftables.Listener]:
    """What others can reach, from the output of `ss -Hltunp`."""
    found = []
    for line in listed.splitlines():
        protocol, _, _, _, local = line.split()[:5]
        host, _, port = local.rpartition(":")
        address = host.partition("%")[0].strip("[]")
        # Sockets of clients have such a port of UDP; answers to them are let in.
        client = protocol == "udp" and int(port) >= first_ephemeral
        if client or (address != "*" and is_loopback(address)):
            continue
        program = re.search(r'users:\(\("([^"]*)"', line)
        found.append(nftables.Listener(int(port), protocol, program[1] if program else ""))
    return found


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class HostFirewall:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params

    def run(self, *command: str, data: str | None = None) -> str:
        rc, out, err = self.module.run_command(list(command), data=data, binary_data=True)
        if rc != 0:
            raise Refused("{}: {}".format(" ".join(command), (err or out).strip()))
        return str(out)

    def succeeds(self, *command: str) -> bool:
        return bool(self.module.run_command(list(command))[0] == 0)

    # present

    def present(self) -> dict[str, Any]:
        table: str = self.params["table"]
        files = [units.File(Path(f["path"]), f["content"], int(f["mode"], 8)) for f in self.params["files"]]
        files_due = units.differing(files)
        # The action plugin installs the package, and not in check mode.
        has_nft = shutil.which("nft") is not None
        if not has_nft and not self.module.check_mode:
            return {"changed": False, "missing": True}
        kept = KEPT.read_text() if KEPT.exists() else ""
        wanted = self.loaded(table) if has_nft else table
        there = self.kernel() if has_nft else ""
        rules_due = kept != table or there != wanted
        states = systemd.show_many(ENABLED, ["ActiveState", "UnitFileState", "NeedDaemonReload"])
        units_due = any(
            state["UnitFileState"] != "enabled" or state["ActiveState"] != "active" for state in states.values()
        )
        diff = [] if has_nft else [{"prepared": "package nftables: to be installed\n"}]
        diff += [self.diff(str(f.path), (units.current(f) or {"content": ""})["content"], f.content) for f in files_due]
        if kept != table:
            diff.append(self.diff(str(KEPT), kept, table))
        elif rules_due:
            diff.append(self.diff(nftables.TABLE + " of the kernel", there, wanted))
        closed = KEPT.exists() and not disk.is_open(KEPT, 0o644)
        changed = bool(files_due or rules_due or units_due or closed)
        result: dict[str, Any] = {"changed": changed, "diff": diff, "trying": False}
        if rules_due:
            result.update(self.surroundings())
        if self.module.check_mode or not result["changed"]:
            return result

        if closed:
            disk.open_to_all(KEPT, 0o644)
        for file in files_due:
            disk.place(file.path, file.content, file.mode)
        if files_due or any(state["NeedDaemonReload"] == "yes" for state in states.values()):
            self.run("systemctl", "daemon-reload")
        if units_due:
            units.clear_enablement(*ENABLED)
            self.run("systemctl", "enable", "--quiet", "--now", *ENABLED)
            disk.sync(units.UNITS)
        if files_due:
            self.run("systemctl", "restart", TIMER)
        if rules_due:
            self.run(str(TOOL), "try", str(self.params["confirm_seconds"]), data=table)
            result["trying"] = True
        return result

    def loaded(self, table: str) -> str:
        """The table as the kernel lists it, from a network namespace that has nothing else and is gone afterwards."""
        try:
            return self.run("unshare", "--net", "sh", "-c", "nft -f - && nft -s list ruleset", data=table)
        except Refused as error:
            raise Refused(
                "the kernel does not take the rules. It needs nf_tables with the family inet, conntrack and fib "
                "(CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_FIB_INET), and network namespaces:\n{}".format(error)
            ) from error

    def kernel(self) -> str:
        """The table that is in force, "" without one."""
        if nftables.TABLE not in self.run("nft", "list", "tables").splitlines():
            return ""
        return self.run("nft", "-s", "list", *nftables.TABLE.split())

    def surroundings(self) -> dict[str, Any]:
        """What else decides who gets in; the controller makes sentences of it."""
        connection = ssh_connection(PROC, os.getpid())
        if connection and connection[1] != self.params["ssh_port"]:
            raise Refused(
                "host_firewall_ssh_port is {}, but this connection goes to port {}, which SSH listens on. Set "
                "host_firewall_ssh_port: {}".format(self.params["ssh_port"], connection[1], connection[1])
            )
        ufw = Path("/etc/ufw/ufw.conf")
        others = ["ufw"] if ufw.exists() and "\nENABLED=yes" in "\n" + ufw.read_text() else []
        others += ["firewalld"] if self.succeeds("systemctl", "--quiet", "is-active", "firewalld.service") else []
        ephemeral = int((PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        listed = self.run("ss", "-Hltunp") if shutil.which("ss") else ""
        return {
            "client": connection[0] if connection else "",
            "other_firewalls": others,
            "listening": [asdict(listener) for listener in listeners(listed, ephemeral)],
        }

    @staticmethod
    def diff(name: str, before: str, after: str) -> dict[str, str]:
        return {"before_header": name, "after_header": name, "before": before, "after": after}

    # absent

    def absent(self) -> dict[str, Any]:
        own_units = [units.UNITS / name for name in (LOADER, METRICS, TIMER)]
        known = [path for path in own_units if path.exists()]
        files = [path for path in (*own_units, DROP_IN, TOOL, KEPT, TEXTFILE, *RUN.glob("firewall.*")) if path.exists()]
        table = shutil.which("nft") is not None and bool(self.kernel())
        if not self.module.check_mode:
            if known:
                self.run("systemctl", "stop", "roverwatch-firewall-deadline-*.timer")
                self.run("systemctl", "disable", "--quiet", "--now", *(path.name for path in known))
            if table:
                self.run("nft", "delete", *nftables.TABLE.split())
            for path in files:
                disk.remove(path)
            if DROP_IN in files and not any(DROP_IN.parent.iterdir()):
                disk.remove(DROP_IN.parent)
            if known:
                self.run("systemctl", "daemon-reload")
        return {"changed": bool(files) or table}


def main() -> None:
    file_spec = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "table": {"type": "str"},
            "ssh_port": {"type": "int", "default": 22},
            "confirm_seconds": {"type": "int", "default": 60},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file_spec},
        },
        required_if=[("state", "present", ("table",))],
        supports_check_mode=True,
    )
    firewall = HostFirewall(module)
    try:
        module.exit_json(**(firewall.present() if module.params["state"] == "present" else firewall.absent()))
    except (Refused, systemd.SystemdError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    unexpected.told(main)
