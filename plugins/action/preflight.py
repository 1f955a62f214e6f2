"""The controller's half of `preflight`: everything that can be known to be wrong, said at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import (
    capacity,
    certificates,
    firewall,
    requirements,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.sizes import to_bytes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.store import Store, StoreError

ROLES = Path(__file__).resolve().parents[2] / "roles"
ANYWAY = "vmagent_hubs_required: false deploys the robot all the same, and its queue keeps the samples until then"


def listening_roles() -> list[str]:
    """The roles of a service that can listen for others: those with a default of `<role>_allow_from` and a port."""
    # Not parsed: this is asked for every machine.
    texts = {path.parts[-3]: "\n" + path.read_text() for path in sorted(ROLES.glob("*/defaults/main.yml"))}
    return [role for role, text in texts.items() if f"\n{role}_allow_from:" in text and f"\n{role}_port:" in text]


class ActionModule(ActionBase):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        checks_firewall = "host_firewall" in args["roles"]
        defaults_of = args["roles"] + (listening_roles() if checks_firewall else [])
        variables = self._with_defaults(defaults_of, task_vars or {})
        host = variables["inventory_hostname"]
        self.problems: list[str] = []
        self.warnings: list[str] = []

        values = self._values(args["roles"], variables)
        if checks_firewall:
            self._firewall(values.get("host_firewall_rules", []), variables)
        if values.get("vmagent_hubs") or "vmauth" in args["roles"]:
            self._fleet_secret(variables)
        if values.get("vmauth_tls_cert") or values.get("vmauth_tls_key"):
            self._gateway_certificate(values)
        asked = self._hubs_to_ask(values) if values.get("vmagent_hubs") else {}

        found: dict[str, Any] = self._execute_module(
            "roverwatch.fleet.preflight", module_args=asked, task_vars=task_vars
        )
        if found.get("failed") or found.get("unreachable"):
            return found
        machine = found["machine"]

        self._hubs(values, found["hubs"])
        self.problems += requirements.budget(args["memory_budget"], requirements.caps(args["roles"], values))
        sizes = self._artifacts(
            requirements.artifacts(args["roles"], values), Store(Path(args["store"])), machine["architecture"]
        )
        needed = sum(sizes) + to_bytes(args["disk_reserve"])
        self.problems += requirements.machine(machine, needed, time.time(), float(args["clock_skew_max"]))
        reserve = needed if machine["data_beside_artifacts"] else to_bytes(args["disk_reserve"])
        self._capacity(values, machine["data_free"] + machine["data_used"], reserve)

        result = {"changed": False, "machine": machine, "hubs": found["hubs"], "problems": self.problems}
        if self.warnings:
            result["warnings"] = [f"{host}: {warning}" for warning in self.warnings]
        if self.problems:
            result["failed"] = True
            result["msg"] = "Nothing was changed on {}:\n{}".format(
                host, "\n".join(f"- {host}: {problem}" for problem in self.problems)
            )
        return result

    def _with_defaults(self, roles: list[str], variables: Mapping[str, Any]) -> dict[str, Any]:
        """A role that is included later has not brought its defaults yet."""
        defaults: dict[str, Any] = {}
        for role in roles:
            path = str(ROLES / role / "defaults" / "main.yml")
            defaults |= self._loader.load_from_file(path, trusted_as_template=True) or {}
        whole = {**defaults, **variables}
        self._templar: Any = self._templar.copy_with_new_env(available_variables=whole)
        return whole

    def _values(self, roles: list[str], variables: Mapping[str, Any]) -> dict[str, Any]:
        """The roles' variables on this host, those that are what they should be."""
        values: dict[str, Any] = {}
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
                    hidden = requirements.secret(options.get(name, {}))
                    why = "its error is not shown, as it may hold the value" if hidden else error
                    self.problems.append(f"{name} cannot be computed: {why}")
            right, problems = requirements.variables(role, options, own)
            self.problems += problems
            values |= right
        return values

    def _firewall(self, listed: object, variables: Mapping[str, Any]) -> None:
        rules, problems = firewall.parse(listed, variables["groups"])
        self.problems += problems
        if problems:
            return
        names = [f"{role}_{what}" for role in listening_roles() for what in ("allow_from", "port")]
        values = {}
        for name in names:
            try:
                values[name] = self._templar.template(variables[name])
            except Exception as error:  # noqa: BLE001  (a template can raise anything)
                line = f"{name} cannot be computed: {error}"
                self.problems += [] if line in self.problems else [line]
        self.problems += firewall.listeners(firewall.for_host(rules, variables["group_names"]), values)

    def _fleet_secret(self, variables: Mapping[str, Any]) -> None:
        try:
            secret = self._templar.template(variables.get("fleet_secret"))
        except Exception as error:  # noqa: BLE001  (a template can raise anything, a vault that is closed among it)
            self.problems.append(f"fleet_secret cannot be computed: {error}")
        else:
            self.problems += requirements.fleet_secret(secret)

    def _gateway_certificate(self, values: Mapping[str, Any]) -> None:
        """Of the operator's own; one that the role makes is right by construction."""
        read = {name: self._file(name, values.get(name) or "") for name in ("vmauth_tls_cert", "vmauth_tls_key")}
        certificate, key = read["vmauth_tls_cert"], read["vmauth_tls_key"]
        if certificate is not None and key is not None:
            names = values.get("vmauth_tls_names", [])
            problems, warnings = certificates.server(certificate, key, names, datetime.now(timezone.utc))
            self.problems += problems
            self.warnings += warnings

    def _file(self, name: str, path: str) -> bytes | None:
        """The file on the controller that a variable names; what is encrypted with vault comes decrypted."""
        if not path:
            self.problems.append(f"{name} is empty: vmauth_tls_cert and vmauth_tls_key are given together, or neither")
            return None
        try:
            text: str = self._loader.get_text_file_contents(path)
        except AnsibleError as error:
            self.problems.append(f"{name}: {path} on the controller cannot be read: {error}")
            return None
        return text.encode()

    def _hubs_to_ask(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the machine needs to know to try its hubs; nothing if that cannot end well."""
        problems = requirements.hubs(values["vmagent_hubs"])
        path = values.get("vmagent_hub_ca", "")
        authorities = b""
        if path and not self._loader.path_exists(path):
            missing = (
                f"vmagent_hub_ca: {path} is not on the controller. Where the hubs' certificates are made here, the "
                "deployment of a hub makes it, and each controller needs a copy. For certificates of your own "
                "(vmauth_tls_cert) name the file of their authority, or set it empty if the robots' systems trust it"
            )
            (self.warnings if self._task.check_mode else self.problems).append(missing)
            return {}
        if path:
            before = len(self.problems)
            authorities = self._file("vmagent_hub_ca", path) or b""
            if len(self.problems) == before:
                bad, soon = certificates.authorities(authorities, datetime.now(timezone.utc))
                problems += bad
                self.warnings += soon
        self.problems += problems
        if problems or (path and not authorities):
            return {}
        urls = [hub["url"] for hub in values["vmagent_hubs"]]
        return {"hub_urls": urls, "hub_authorities": authorities.decode()}

    def _hubs(self, values: Mapping[str, Any], faults: Mapping[str, Any]) -> None:
        """What keeps the robot from its hubs. In check mode they need not be there yet."""
        lines = [
            requirements.reached(hub["name"], hub["url"], **faults[hub["url"]], authorities=values["vmagent_hub_ca"])
            for hub in values.get("vmagent_hubs", [])
            if faults.get(hub.get("url"))
        ]
        if self._task.check_mode or not values.get("vmagent_hubs_required", True):
            self.warnings += lines
        else:
            self.problems += [f"{line}{'' if line.endswith('?') else '.'} {ANYWAY}" for line in lines]

    def _artifacts(self, wanted: Mapping[str, str], store: Store, arch: str) -> list[int]:
        """Sizes of the artifacts that the machine gets."""
        sizes: list[int] = []
        if arch not in requirements.ARCHITECTURES:
            return sizes  # said once, by the check of the machine
        for name, version in wanted.items():
            try:
                entry = store.find(name, str(version), arch)
                store.verify(entry)
                sizes.append(entry.size)
            except StoreError as error:
                self.problems.append(str(error))
        return sizes

    def _capacity(self, values: Mapping[str, Any], there: int, reserve: int) -> None:
        """Whether the disk and the queue hold what is asked of them."""
        problems, claims = capacity.check(values)
        self.problems += problems + capacity.disk(claims, there, reserve)
