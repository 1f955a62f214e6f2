"""What there is of a hub's VM in Google Cloud, what is to be made or may go, and when the VM is ready."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp import vm
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp.api import Compute, GcpError

CREDENTIALS = ("auth_kind", "service_account_file", "access_token")
PLACE = ("project", "zone", "name")
WANTED = ("machine_type", "disk_gb", "site", "fleet", "ssh_user", "startup_script")
# A VM is asked for its guest attributes ten times a minute at most, which is a limit of the API.
PAUSES = (2, 4, 8)


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"command", *CREDENTIALS, *PLACE, *WANTED, "ssh_public_key", "with_disk", "seconds"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        self.hub = vm.Hub(
            **{name: args[name] for name in (*PLACE, *WANTED) if name in args},
            ssh_public_key=_text(args.get("ssh_public_key", "")),
        )
        problems = vm.problems(self.hub) if args["command"] == "plan" else vm.place(self.hub)
        if problems:
            return _failed("Nothing was changed in Google Cloud", problems)
        try:
            self.compute = Compute(self.hub.project, {name: args.get(name) or None for name in CREDENTIALS}, tell)
            return {"plan": self._plan, "removal": self._removal, "ready": self._ready, "host_key": self._host_key}[
                args["command"]
            ]()
        except GcpError as error:
            return {"failed": True, "changed": False, "msg": f"{self.hub.name}: {error}"}

    def _plan(self) -> dict[str, Any]:
        found = self._found()
        if wrong := vm.strangers(self.hub, found):
            return _failed("Nothing was changed in Google Cloud", wrong)
        make = vm.missing(found)
        result = self._said("make", make) | {
            "found": found,
            "description": self.hub.description,
            "labels": self.hub.labels,
            "metadata": self.hub.metadata,
            "will_tell": vm.will_tell(self.hub, found),
        }
        if different := vm.differences(self.hub, found):
            result["warnings"] = [
                f"{self.hub.name} is there, is not as asked for, and was left alone: {line}" for line in different
            ]
        return result

    def _removal(self) -> dict[str, Any]:
        with_disk = self._task.args["with_disk"]
        found = self._found()
        if wrong := vm.in_the_way(self.hub, found, with_disk):
            return _failed("Nothing was removed in Google Cloud", wrong)
        return self._said("remove", vm.removable(found, with_disk)) | {"found": found}

    def _found(self) -> dict[str, dict[str, Any] | None]:
        return {kind: self.compute.get(path) for kind, path in self.hub.paths.items()}

    def _said(self, verb: str, kinds: list[str]) -> dict[str, Any]:
        """The modules that do it know no check mode, so what they would do is said here."""
        lines = [f"{verb} the {vm.CALLED[kind]} {self.hub.names[kind]}" for kind in kinds]
        for line in lines:
            tell(f"{'would ' if self._task.check_mode else ''}{line} in {self.hub.project}")
        result: dict[str, Any] = {"changed": bool(lines) and self._task.check_mode, verb: kinds}
        if lines:
            result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in lines)}
        return result

    def _ready(self) -> dict[str, Any]:
        """Waits until the VM says that its data disk is mounted, or why it is not."""
        end = time.monotonic() + self._task.args["seconds"]
        said, number = "", 0
        while not (said := self._attributes("roverwatch").get("disk", "")):
            if time.monotonic() >= end:
                return _failed(
                    f"{self.hub.name} has not said within {self._task.args['seconds']} s that its data disk is mounted",
                    ["see what its start printed: gcloud compute instances get-serial-port-output " + self._at()],
                )
            if number == 0:
                tell(f"{self.hub.name} starts; waiting until its data disk is mounted")
            time.sleep(PAUSES[min(number, len(PAUSES) - 1)])
            number += 1
        if said != "ready":
            return _failed(
                f"The data disk of {self.hub.name} is not mounted, so nothing may be installed there",
                [said, "correct that, then restart it: gcloud compute instances reset " + self._at()],
            )
        return {"changed": False}

    def _host_key(self) -> dict[str, Any]:
        """One VM that does not tell is a warning, not the end of it: an operator may know its key already."""
        key, why = "", "it has not published them"
        try:
            key = vm.host_key(self._attributes("hostkeys"))
        except GcpError as error:
            why = str(error)
        result: dict[str, Any] = {"changed": False, "key": key}
        if not key:
            result["warnings"] = [
                f"The SSH host keys of {self.hub.name} are not known: {why}. Set its metadata "
                "enable-guest-attributes=TRUE before its first start, or compare what ssh shows with "
                "gcloud compute instances get-serial-port-output " + self._at()
            ]
        return result

    def _attributes(self, namespace: str) -> dict[str, str]:
        path = self.hub.paths["instance"] + "/getGuestAttributes"
        answer = self.compute.get(path, {"queryPath": namespace + "/"}) or {}
        items = answer.get("queryValue", {}).get("items", [])
        return {item["key"]: item["value"] for item in items if item["namespace"] == namespace}

    def _at(self) -> str:
        return f"{self.hub.name} --project {self.hub.project} --zone {self.hub.zone}"


def _text(file: str) -> str:
    """What is in a file of the controller; where there is none, what is said of an empty one is right."""
    path = Path(file).expanduser()
    return path.read_text(errors="replace").strip() if path.is_file() else ""


def _failed(what: str, lines: list[str]) -> dict[str, Any]:
    return {"failed": True, "changed": False, "msg": what + ":\n" + "\n".join(f"- {line}" for line in lines)}
