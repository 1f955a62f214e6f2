"""The controller's part of `releases.yml`: a table of who runs what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import report
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.terminal import tell

COLUMNS = ("ROBOT", "RELEASE", "STATE", "SINCE", "PREVIOUS", "AT THE HUB", "NOTE")
GOOD = ("confirmed",)


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"statuses", "hubs"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        heard = _heard(self._task.args["hubs"])
        machines = [report.Machine(name, True, None) for name in variables["ansible_play_hosts_all"]]
        rows = []
        for machine in sorted(machines, key=report.reading_order):
            status = variables["hostvars"][machine.name].get(self._task.args["statuses"]) or {}
            rows.append(_row(machine.name, status, heard.get(machine.name)))
        width = [max(len(column), *(len(row[column]) for row in rows)) for column in COLUMNS]
        tell("  ".join(column.ljust(size) for column, size in zip(COLUMNS, width, strict=True)).rstrip())
        for row in rows:
            text = "  ".join(row[column].ljust(size) for column, size in zip(COLUMNS, width, strict=True)).rstrip()
            tell(text, color=C.COLOR_OK if row["STATE"] in GOOD and not row["NOTE"] else C.COLOR_WARN)
        return {"changed": False, "robots": rows}


def _row(robot: str, status: Mapping[str, Any], heard: str | None) -> dict[str, str]:
    row = {"ROBOT": robot, "AT THE HUB": heard or report.UNKNOWN, "NOTE": ""}
    unknown = dict.fromkeys(("RELEASE", "SINCE", "PREVIOUS"), report.UNKNOWN)
    if "state" not in status:
        gone = bool(status.get("unreachable"))
        return {**row, **unknown, "STATE": "unreachable" if gone else "unknown", "NOTE": report.message(status)[:80]}
    note = ""
    if status["applying"]:
        until = time.strftime("%H:%M:%S", time.localtime(status["applying"]["deadline"]))
        note = f"on its way to {status['applying']['id']}, goes back at {until} unless it is confirmed"
    elif status["modified"]:
        note = "changed since by something else than a release"
    elif status["state"] in ("rolled_back", "failed"):
        note = f"came back from {status['rolled_back_from']}: {status['reason']}"[:120]
    return {
        **row,
        "RELEASE": status["release"] or report.UNKNOWN,
        "STATE": status["state"].replace("_", " "),
        "SINCE": time.strftime("%Y-%m-%d %H:%M", time.localtime(status["since"]))
        if status["since"]
        else report.UNKNOWN,
        "PREVIOUS": status["previous"] or report.UNKNOWN,
        "NOTE": note,
    }


def _heard(hubs: list[Mapping[str, Any]]) -> dict[str, str]:
    """By robot, the release that a hub heard of last; of several hubs, all that differ."""
    found: dict[str, set[str]] = {}
    for answer in hubs:
        for series in answer.get("json", {}).get("data", {}).get("result", []):
            labels = series["metric"]
            if "robot" in labels:
                found.setdefault(labels["robot"], set()).add(labels["release"])
    return {robot: " ".join(sorted(releases)) for robot, releases in found.items()}
