"""The controller's half of `base`: everything that can be known to be wrong, said at once; then what differs is made.

What no machine has a say in is read when this is imported. That is in the process from which Ansible forks one for each
machine, so it is read once for a run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Entry, Store, StoreError
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import ownership
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import to_bytes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import verified
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import (
    capacity,
    certificates,
    names,
    ports,
    requirements,
    same_machine,
)
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller import workplace
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import plain
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import role_options, role_variables
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_defaults import (
    DEFAULTS,
    ROLES,
    service_ports,
)
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system import machine_files
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system.machine_files import File, MachineFiles

MODULE = "roverwatch.fleet.base"
# What Ansible puts before the name of a role that it has found in a collection.
OF_COLLECTION = "roverwatch.fleet."
ANYWAY = "vmagent_hubs_required: false deploys the robot all the same, and its queue keeps the samples until then"


# What variables of many roles are computed from, and Ansible would compute anew for each of them.
SHARED = ("firewall_rules", "artifacts_versions")
SPEC = {
    "roles": {"type": "list", "elements": "str", "required": True},
    "memory_budget": {"type": "str", "required": True},
    "artifacts_dir": {"type": "path", "required": True},
    "disk_reserve": {"type": "str", "required": True},
    "clock_skew_max": {"type": "int", "required": True},
    "previous_name": {"type": "str", "default": ""},
    "only_look": {"type": "bool", "default": False},
}
DIRECTORIES = ("/etc/roverwatch", "/var/lib/roverwatch/textfile")
FILES = ROLES / "base" / "files"
TARGET = "/opt/roverwatch"


# Of a service that can listen for others.
LISTENING_ROLES = [role for role, names in DEFAULTS.items() if {f"{role}_allow_from", f"{role}_port"} <= set(names)]
NO_THP, OOM_COUNT, SLICE = ((FILES / name).read_text() for name in ("no-thp", "oom-count", "roverwatch.slice"))


def _unpacked(packed: Path) -> int:
    """The size of what gzip has packed, which it writes at the end."""
    with packed.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return int.from_bytes(stream.read(4), "little")


def wanted(memory_budget: int, name: str) -> MachineFiles:
    """Whose machine this is and what it is called; and what every service needs: what each unit starts with and ends
    with, and the slice with the budget.
    """
    budget = SLICE.replace("@memory_budget@", str(memory_budget))
    files = [
        File(str(ownership.RECORD), json.dumps({"name": name}) + "\n"),
        File("/usr/local/sbin/roverwatch-no-thp", NO_THP, "0755"),
        File("/usr/local/sbin/roverwatch-oom-count", OOM_COUNT, "0755"),
        File("/etc/systemd/system/roverwatch.slice", budget),
    ]
    return MachineFiles(DIRECTORIES, files)


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.computed = role_options.complete(self, SPEC, task_vars or {})
        _, args = self.validate_argument_spec(SPEC)
        roles = list(dict.fromkeys(role.removeprefix(OF_COLLECTION) for role in args["roles"]))
        checks_firewall = "host_firewall" in roles
        variables = self._with_defaults(roles + (LISTENING_ROLES if checks_firewall else []), task_vars or {})
        host = variables["inventory_hostname"]
        self.problems: list[str] = []
        self.warnings: list[str] = []

        values = self._values(roles, variables)
        self._variables(roles, values, variables)
        self.problems += requirements.budget(args["memory_budget"], requirements.caps(roles, values))
        places = ports.places(roles, values)
        clashes = ports.clashes(places)
        self.problems += clashes
        if clashes:
            places = []
        reserve = self._bytes("base_disk_reserve", args["disk_reserve"])
        files = MachineFiles() if self.problems or args["only_look"] else wanted(to_bytes(args["memory_budget"]), host)
        asked = {
            **(self._hubs_to_ask(values) if values.get("vmagent_hubs") else {}),
            "services": sorted({place.unit for place in places}),
            "listening": [{"port": place.port, "address": place.address} for place in places],
            "docker": values.get("container_engine_name") == "docker",
            "engine": values.get("sensor_service_engine"),
            "programs": [
                *([values["sensor_service_engine"]] if "sensor_service_engine" in values else []),
                *(["nft"] if "host_firewall" in roles else []),
            ],
            "devices": values.get("sensor_service_devices", []),
            "remote_tmp": self._connection._shell.get_option("remote_tmp"),
            "remote_user": getattr(self._play_context, "remote_user", None) or "",
            "wanted": files.to_look_for(),
        }

        found: dict[str, Any] = self._execute_module(MODULE, module_args=asked, task_vars=task_vars)
        if found.get("failed") or found.get("unreachable"):
            return found | ({"msg": f"{host}: {plain.message(found)}"} if "module_stderr" in found else {})
        machine = found["machine"]

        self._hubs(values, found["hubs"])
        self.problems += found["strangers"] + ports.taken(places, found["held"])
        self._identity(host, variables, found, args["previous_name"])
        store = Store(Path(args["artifacts_dir"] or workplace.on_controller("artifacts")))
        entries = self._artifacts(requirements.artifacts(roles, values), store, machine["architecture"])
        needs = self._needs(store, entries, found["artifacts"], reserve)
        needed = needs[TARGET]
        if machine["user"] == "root":
            self.problems += requirements.written(found["places"], needs)
        self.problems += requirements.room(found["places"], needs)
        if needs["storage"]:
            self.problems += requirements.image_policy(found["image_policy"])
        if found["missing_devices"]:
            self.warnings.append(requirements.absent_devices(found["missing_devices"]))
        self.problems += requirements.machine(machine, needed, time.time(), args["clock_skew_max"])
        beside = needed if machine["data_beside_artifacts"] else reserve
        self._capacity(values, machine["data_free"] + machine["data_used"], beside)

        result = {
            "changed": False,
            "machine": machine,
            "hubs": found["hubs"],
            "problems": self.problems,
            "ansible_facts": {"roverwatch_machine": machine},
        }
        if self.warnings:
            result["warnings"] = [f"{host}: {warning}" for warning in self.warnings]
        if self.problems:
            result["failed"] = True
            result["msg"] = "Nothing was changed on {}:\n{}".format(
                host, "\n".join(f"- {host}: {problem}" for problem in self.problems)
            )
        elif not args["only_look"]:
            result |= self._make(files, found, task_vars)
        return result

    def _variables(self, roles: Sequence[str], values: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        """What is wrong with the variables whatever the machine is."""
        self._names(variables["inventory_hostname"], values)
        unsaid = [name for name, version in requirements.artifacts(roles, values).items() if not version]
        if unsaid:
            pins = str(workplace.COLLECTION / "group_vars")
            self.problems.append(requirements.no_versions(unsaid, pins, variables.get("inventory_dir") or "."))
        self.problems += requirements.devices(values.get("sensor_service_devices", []))
        if "host_firewall" in roles:
            self._firewall(values.get("host_firewall_rules", []), variables)
        if values.get("vmagent_hubs") or "vmauth" in roles:
            self._fleet_secret(variables)
        if values.get("vmauth_tls_cert") or values.get("vmauth_tls_key"):
            self._gateway_certificate(values)
        elif "vmauth" in roles:
            self._authority(Path(values.get("vmauth_pki_dir", "")) / "ca.pem", variables)

    def _make(self, files: MachineFiles, found: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Make what the look has found to differ, in one more round trip for the user and one for the rest."""
        calls: list[tuple[str, dict[str, Any]]] = []
        diff: list[dict[str, str]] = []
        if not found["user"]:
            diff.append({"prepared": f"user {ownership.USER['name']}: to be made, without a login\n"})
            calls.append(("ansible.legacy.user", {**ownership.USER, "system": True, "create_home": False}))
        changes = files.diffs(found["differences"])
        if changes:
            calls.append((machine_files.MODULE, files.to_apply()))
        diff += changes
        if not self._task.check_mode:
            for name, arguments in calls:
                made: dict[str, Any] = self._execute_module(name, module_args=arguments, task_vars=task_vars)
                if made.get("failed") or made.get("unreachable"):
                    return made
        return {"changed": bool(calls), "diff": diff}

    def _with_defaults(self, roles: Sequence[str], variables: Mapping[str, Any]) -> dict[str, Any]:
        """A role that is included later has not brought its defaults yet."""
        defaults: dict[str, Any] = {}
        for role in roles:
            defaults |= DEFAULTS.get(role, {})
        whole = {**defaults, **variables}
        self._templar: Any = self._templar.copy_with_new_env(available_variables=whole)
        for name in SHARED:
            with suppress(Exception):  # whatever is computed from it says so
                whole[name] = self._computed(name, whole)
        self._templar = self._templar.copy_with_new_env(available_variables=whole)
        return whole

    def _computed(self, name: str, variables: Mapping[str, Any]) -> Any:
        """A variable's value on this host, computed once."""
        if name not in self.computed:
            self.computed[name] = self._templar.template(variables[name])
        return self.computed[name]

    def _bytes(self, name: str, size: str) -> int:
        try:
            return to_bytes(size)
        except ValueError as error:
            self.problems.append(f"{name}: {error}")
            return 0

    def _values(self, roles: Sequence[str], variables: Mapping[str, Any]) -> dict[str, Any]:
        """The roles' variables on this host, those that are what they should be. There are no others of ours."""
        self.problems += role_variables.unknown(variables, roles)
        values, problems = role_variables.computed(roles, variables, lambda name: self._computed(name, variables))
        right, wrong = role_variables.typed(roles, values)
        self.problems += problems + wrong
        return right

    def _firewall(self, listed: object, variables: Mapping[str, Any]) -> None:
        rules, problems = firewall.parse(
            listed, variables["groups"], service_ports(variables, variables["group_names"], self._templar.template)
        )
        self.problems += problems
        if problems:
            return
        names = [f"{role}_{what}" for role in LISTENING_ROLES for what in ("allow_from", "port")]
        values = {}
        for name in names:
            try:
                values[name] = self._computed(name, variables)
            except Exception as error:  # noqa: BLE001  (a template can raise anything)
                line = f"{name} cannot be computed: {error}"
                self.problems += [] if line in self.problems else [line]
        self.problems += firewall.listeners(firewall.for_host(rules, variables["group_names"]), values)

    def _names(self, host: str, values: Mapping[str, Any]) -> None:
        """Names and labels, wherever they become files, users, labels: of this machine, and of those that it serves."""
        self.problems += names.inventory_name(host)
        self.problems += names.inventory_names(values.get("vmauth_robots", []))
        self.problems += names.inventory_names(hub["name"] for hub in values.get("vmagent_hubs", []) if hub.get("name"))
        for reader in values.get("vmauth_readers", []):
            self.problems += names.user("vmauth_readers", reader)
        for name in ("vmagent_labels", "victoriametrics_scrape_labels"):
            self.problems += names.labels(name, values.get(name, {}))
        for robot in values.get("vmalert_robots", []):
            if not isinstance(robot, Mapping):
                self.problems.append(f"vmalert_robots: {robot!r} is no mapping such as {{robot: robot-1, site: lyon}}")
                continue
            own = {key: value for key, value in robot.items() if key != "robot"}
            self.problems += names.labels(f"vmalert_robots: {robot.get('robot')}", own)

    def _identity(self, host: str, variables: Mapping[str, Any], found: Mapping[str, Any], confirmed: str) -> None:
        """Whether this is the machine that is meant: no other name of the run leads to it, nor led the last one."""
        folder = same_machine.of_run()
        self._hostvars: Any = variables["hostvars"]
        play = variables["ansible_play_hosts_all"]
        if "ansible_limit" not in variables:  # all plays of the run, of which this may be the first
            groups = variables["groups"]
            play = {*play, *groups.get("robots", []), *groups.get("hubs", [])}
        twice = same_machine.with_one_address(host, play, self._reached, folder)
        same, copies = same_machine.seen(host, found["identity"], folder)
        if twice:
            self.problems.append(requirements.same_machine(host, twice, by_address=True))
        others = [name for name in same if name not in twice]
        if others:
            self.problems.append(requirements.same_machine(host, others, by_address=False))
        if copies:
            self.warnings.append(requirements.same_disk(copies))
        before = found["deployed_as"]
        if before and before not in (host, confirmed):
            self.problems.append(requirements.other_machine(host, before))

    def _reached(self, name: str) -> dict[str, Any]:
        """The variables that lead to a machine of the play."""
        hostvars = self._hostvars
        known = hostvars.raw_get(name)
        templar: Any = self._templar.copy_with_new_env(available_variables={**known, "hostvars": hostvars})
        return {key: templar.template(known[key]) for key in same_machine.REACHED_BY if key in known}

    def _fleet_secret(self, variables: Mapping[str, Any]) -> None:
        try:
            secret = self._templar.template(variables.get("fleet_secret"))
        except Exception as error:  # noqa: BLE001  (a template can raise anything, a vault that is closed among it)
            self.problems.append(f"fleet_secret cannot be computed: {error}")
        else:
            self.problems += requirements.fleet_secret(secret)

    def _authority(self, ours: Path, variables: Mapping[str, Any]) -> None:
        """Whether robots trust the authority that signs this hub's certificate. Robots of an inventory in another
        directory look beside that one.
        """
        hostvars = variables["hostvars"]
        known = {name: hostvars.raw_get(name) for name in variables["groups"].get("robots", [])}
        for robot in {robot["inventory_dir"]: name for name, robot in known.items()}.values():
            own = {**known[robot], "hostvars": hostvars}
            templar: Any = self._templar.copy_with_new_env(available_variables=own)
            try:
                path = templar.template(own.get("vmagent_hub_ca", DEFAULTS["vmagent"]["vmagent_hub_ca"]))
            except Exception as error:  # noqa: BLE001  (a template can raise anything)
                self.problems.append(f"vmagent_hub_ca of {robot} cannot be computed: {error}")
                continue
            theirs = Path(self._loader.path_dwim(path)) if path else None
            if theirs is None or theirs.resolve() == ours.resolve():
                continue
            if not ours.exists() or not theirs.exists() or ours.read_text().strip() not in theirs.read_text():
                self.problems.append(requirements.other_authority(str(ours), robot, str(theirs)))

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

    def _artifacts(self, wanted: Mapping[str, str], store: Store, arch: str) -> list[Entry]:
        """The artifacts that the machine has to have."""
        entries: list[Entry] = []
        if arch not in requirements.ARCHITECTURES:
            return entries  # said once, by the check of the machine
        for name, version in wanted.items():
            if not version:
                continue  # said once for all
            try:
                entry = store.find(name, str(version), arch)
                verified.once(store, entry, Path(C.DEFAULT_LOCAL_TMP) / "roverwatch-verified")
                entries.append(entry)
            except StoreError as error:
                self.problems.append(str(error))
        return entries

    def _needs(
        self, store: Store, entries: Sequence[Entry], there: Sequence[Mapping[str, str]], reserve: int
    ) -> dict[str, int]:
        """Bytes that stay or pass through at each place, of what the machine does not have yet. One task brings one
        artifact at a time, and takes what arrived away before the next one.
        """
        known = {(one["name"], one["version"], one["sha256"]) for one in there}
        missing = [entry for entry in entries if (entry.name, entry.version, entry.sha256) not in known]
        binaries = [entry.size for entry in missing if entry.kind == "binary"]
        images = {entry.size: _unpacked(store.path(entry)) for entry in missing if entry.kind == "image"}
        return {
            TARGET: sum(binaries) + reserve,
            # An image is unpacked beside what arrived.
            "staging": max([*binaries, *(size + unpacked for size, unpacked in images.items())], default=0),
            "storage": sum(images.values()),
            "temporary": max(images.values(), default=0),
        }

    def _capacity(self, values: Mapping[str, Any], there: int, reserve: int) -> None:
        """Whether the disk and the queue hold what is asked of them."""
        problems, claims = capacity.check(values)
        self.problems += problems + capacity.disk(claims, there, reserve)
