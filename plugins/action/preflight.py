"""The controller's half of `preflight`: everything that can be known to be wrong, said at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import requirements
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.sizes import to_bytes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.store import Store, StoreError

ROLES = Path(__file__).resolve().parents[2] / "roles"


class ActionModule(ActionBase):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        variables = task_vars or {}
        host = variables["inventory_hostname"]

        found: dict[str, Any] = self._execute_module("roverwatch.fleet.preflight", module_args={}, task_vars=task_vars)
        if found.get("failed") or found.get("unreachable"):
            return found
        machine = found["machine"]

        values, problems = self._values(args["roles"], variables)
        problems += requirements.budget(args["memory_budget"], requirements.caps(args["roles"], values))
        sizes, missing = self._artifacts(
            requirements.artifacts(args["roles"], values), Store(Path(args["store"])), machine["architecture"]
        )
        problems += missing
        needed = sum(sizes) + to_bytes(args["disk_reserve"])
        problems += requirements.machine(machine, needed, time.time(), float(args["clock_skew_max"]))

        result = {"changed": False, "machine": machine, "problems": problems}
        if problems:
            result["failed"] = True
            result["msg"] = "Nothing was changed on {}:\n{}".format(
                host, "\n".join(f"- {host}: {problem}" for problem in problems)
            )
        return result

    def _values(self, roles: list[str], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The roles' variables on this host, and what is wrong with them."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        for role in roles:
            specs = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())
            options = specs["argument_specs"]["main"]["options"]
            if any(option.get("required") for option in options.values()):
                continue  # a building block: the roles that import it say what it needs
            own = {}
            for name in requirements.owned(role, roles, variables):
                try:
                    own[name] = self._templar.template(variables[name])
                except Exception as error:  # noqa: BLE001  (a template can raise anything)
                    problems.append(f"{name} cannot be computed: {error}")
            problems += requirements.variables(role, options, own)
            values |= own
        return values, problems

    def _artifacts(self, wanted: Mapping[str, str], store: Store, arch: str) -> tuple[list[int], list[str]]:
        """Sizes of the artifacts that the machine gets, and what is wrong with them."""
        sizes: list[int] = []
        problems: list[str] = []
        if arch not in requirements.ARCHITECTURES:
            return sizes, problems  # said once, by the check of the machine
        for name, version in wanted.items():
            try:
                entry = store.find(name, str(version), arch)
                store.verify(entry)
                sizes.append(entry.size)
            except StoreError as error:
                problems.append(str(error))
        return sizes, problems
