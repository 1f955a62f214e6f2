"""The controller's half of `host_firewall`: makes the table, and keeps it once a new connection comes through."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import nftables
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import same_machine
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import role_options
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_defaults import service_ports
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system.packages import broken_sources

MODULE = "roverwatch.fleet.host_firewall"
TOOL = "/usr/local/sbin/roverwatch-firewall"
FILES = Path(__file__).resolve().parents[2] / "roles" / "host_firewall" / "files"
UNITS = "/etc/systemd/system"
PACKAGE = {"name": "nftables", "install_recommends": False}
# What the tool exits with when nothing is tried: it has gone back.
NOTHING_TRIED = 3
# Seconds beyond the deadline until a machine counts as lost.
PATIENCE_SECONDS = 30.0
RETRY_SECONDS = 2.0
SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "rules": {"type": "list", "elements": "raw", "default": []},
    "default_drop": {"type": "bool", "default": False},
    "ssh_port": {"type": "int", "default": 22},
    "trusted_interfaces": {"type": "list", "elements": "str", "default": []},
    "confirm_seconds": {"type": "int", "default": 60},
}


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        role_options.complete(self, SPEC, variables)
        _, args = self.validate_argument_spec(SPEC)
        if args["state"] == "absent":
            removed: dict[str, Any] = self._execute_module(MODULE, module_args={"state": "absent"}, task_vars=task_vars)
            return removed
        host = variables["inventory_hostname"]
        same_machine.refuse(host)
        services = service_ports(variables, variables["group_names"], self._templar.template)
        listed, problems = firewall.parse(args["rules"], variables["groups"], services)
        own_ports = [port for those in services.values() for port in those]
        rules = firewall.with_services(firewall.for_host(listed, variables["group_names"]), own_ports)
        own = (args["default_drop"], args["ssh_port"], args["trusted_interfaces"])
        problems += nftables.problems(rules, *own, args["confirm_seconds"])
        if problems:
            lines = [f"- {host}: {problem}" for problem in problems]
            return {"failed": True, "changed": False, "msg": "\n".join([f"Nothing was changed on {host}:", *lines])}

        asked = {
            "table": nftables.render(rules, *own),
            "ssh_port": args["ssh_port"],
            "confirm_seconds": args["confirm_seconds"],
            "files": list(files()),
        }
        found = self._with_package(asked, task_vars)
        if found.get("failed"):
            found["msg"] = f"{host}: {found['msg']}"
        if found.get("failed") or found.get("unreachable"):
            return found
        trying = found.pop("trying")
        client = found.pop("client", "")
        listening = [nftables.Listener(**listener) for listener in found.pop("listening", [])]
        closes = nftables.closed(rules, listening) if args["default_drop"] else []
        warnings = [f"{host}: {line}" for line in advice(rules, found.pop("other_firewalls", []), closes)]
        if warnings:
            found["warnings"] = [*found.get("warnings", []), *warnings]
        if trying:
            found |= self._confirm(host, args["confirm_seconds"])
            if found.get("taken_back"):
                why = nftables.blame(rules, args["default_drop"], args["ssh_port"], client)
                found["msg"] += f" {why[0].upper()}{why[1:]}."
        return found

    def _with_package(self, asked: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The module's answer, on a machine without nftables once it is there."""
        found: dict[str, Any] = self._execute_module(MODULE, module_args=asked, task_vars=task_vars)
        if found.get("missing"):
            # A power cut may have interrupted dpkg, and apt would refuse to go on.
            self._low_level_execute_command("dpkg --configure --pending")
            # A source of somebody else's that is broken is no reason not to install from the others.
            lists = self._low_level_execute_command("apt-get update --quiet")
            found = self._execute_module("ansible.legacy.apt", module_args=PACKAGE, task_vars=task_vars)
            if found.get("failed"):
                found["msg"] = f"nftables cannot be installed: {found['msg']} {broken_sources(lists['stderr'])}"
            if not found.get("failed") and not found.get("unreachable"):
                found = self._execute_module(MODULE, module_args=asked, task_vars=task_vars)
        if found.get("missing"):
            return {"failed": True, "msg": "nftables is installed, and nft is not on the PATH: it is /usr/sbin/nft"}
        return found

    def _confirm(self, host: str, seconds: int) -> dict[str, Any]:
        """Have the machine keep the rules if a new connection gets in; else wait until it has taken them back."""
        began, said = time.monotonic(), False
        while True:
            try:
                with self._new_connection():
                    answer = self._low_level_execute_command(f"{TOOL} confirm")
                break
            except AnsibleConnectionFailure as error:
                waited = time.monotonic() - began
                if waited > seconds + PATIENCE_SECONDS:
                    return {
                        "unreachable": True,
                        "changed": True,
                        "msg": f"{host} has new rules and cannot be reached. It should have taken them back by itself "
                        f"{waited - seconds:.0f} s ago: its console shows why not (journalctl -t roverwatch-firewall, "
                        f"{TOOL} revert). The last error: {error}",
                    }
                if not said:
                    text = "no new connection gets in under the new rules; waiting until they have been taken back"
                    tell(f"{host}: {text}, which takes up to {seconds} s", color=C.COLOR_WARN)
                    said = True
                time.sleep(RETRY_SECONDS)
        if answer["rc"] == 0:
            return {"changed": True}
        if answer["rc"] == NOTHING_TRIED:
            return {
                "failed": True,
                "changed": False,
                "taken_back": True,
                "msg": f"{host}: the new rules kept new SSH connections out; they were taken back by {host} itself "
                f"after {seconds} s, and nothing is changed.",
            }
        reason = answer["stderr"].strip() or answer["stdout"].strip()
        return {
            "failed": True,
            "changed": False,
            "msg": f"{host}: the new rules could not be kept, and it takes them back within {seconds} s: {reason}",
        }

    @contextmanager
    def _new_connection(self) -> Iterator[None]:
        """Connect anew, and leave a connection that tasks share as it is: it may be the last one that there is."""
        connection = self._connection
        if connection.transport != "ssh":
            connection.close()
            yield
            return
        before = connection.get_option("ssh_args")
        # In front: ssh takes the first value that it is given.
        connection.set_option("ssh_args", f"-o ControlPath=none {before or ''}".strip())
        try:
            yield
        finally:
            connection.set_option("ssh_args", before)


def files() -> Iterator[dict[str, str]]:
    """The tool and its units."""
    for path in sorted(path for path in FILES.rglob("*") if path.is_file()):
        directory, mode = ("/usr/local/sbin", "0755") if path.suffix == "" else (UNITS, "0644")
        yield {"path": f"{directory}/{path.relative_to(FILES)}", "content": path.read_text(), "mode": mode}


def advice(rules: Sequence[firewall.Rule], others: Sequence[str], closes: Sequence[str]) -> list[str]:
    """What an operator should know who has just changed the rules."""
    ports = nftables.opened(rules)
    added = " ".join(f"--add-port={port}" for port in ports)
    commands: Mapping[str, str] = {
        "ufw": "; ".join(f"ufw allow {port.replace('-', ':')}" for port in ports),
        "firewalld": f"firewall-cmd --permanent {added}; firewall-cmd --reload",
    }
    found = [
        f"{name} is in force as well, and has to let in what the rules do: {commands[name]}" for name in others if ports
    ]
    if closes:
        named = ", ".join(closes)
        found.append(f"host_firewall_default_drop closes what is in no rule: {named}. Add a rule for what others need")
    return found
