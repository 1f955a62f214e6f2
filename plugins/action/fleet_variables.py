"""Refuses variables of the fleet that no role knows or that are not what they should be, before a machine is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import role_variables

# So many hosts are named in a line.
FEW = 3
CONTROLLER = "localhost"


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"roles"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec({"roles": {"type": "list", "elements": "str", "default": []}})
        variables = task_vars or {}
        groups, self.hostvars = variables["groups"], variables["hostvars"]
        ours = {*groups.get("robots", []), *groups.get("hubs", [])}  # others of the inventory may have any names
        hosts = [host for host in variables["ansible_play_hosts_all"] if host in ours]
        self.typed: dict[str, list[str]] = {}
        found: dict[str, list[str]] = {}
        seen: dict[frozenset[str], list[str]] = {}
        for host in [*hosts, CONTROLLER]:
            known = self.hostvars.raw_get(host)
            names = frozenset(known)
            if names not in seen:
                seen[names] = role_variables.unknown(names)
            problems = seen[names]
            if host != CONTROLLER or not hosts:
                problems = problems + self._types(args["roles"], known)
            for problem in problems:
                found.setdefault(problem, []).append(host)
        if found:
            lines = [f"- {_where(those, hosts)}{problem}" for problem, those in found.items()]
            raise AnsibleActionFail("Nothing was done:\n" + "\n".join(lines))
        return {"changed": False}

    def _types(self, roles: Sequence[str], known: Mapping[str, Any]) -> list[str]:
        """What is wrong with the values of these variables. One that cannot be computed says so where it is read."""
        templar: Any = self._templar.copy_with_new_env(available_variables={**known, "hostvars": self.hostvars})
        values = {}
        for name in {name for role in roles for name in role_variables.OPTIONS[role]} & set(known):
            with suppress(Exception):
                values[name] = templar.template(known[name])
        key = repr(sorted(values.items()))
        if key not in self.typed:  # most hosts have the same
            self.typed[key] = role_variables.typed(roles, values)[1]
        return self.typed[key]


def _where(those: Sequence[str], hosts: Sequence[str]) -> str:
    """Which of the hosts it is said of. What all of them have was set for all, most often with -e."""
    machines = [host for host in those if host != CONTROLLER]
    if len(machines) == len(hosts) != 1:
        return ""
    more = f" and {len(machines) - FEW} more" if len(machines) > FEW else ""
    return f"{', '.join(machines[:FEW]) or CONTROLLER}{more}: "
