"""The controller's part of `releases.yml`: a table of who runs what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import plain

COLUMNS = ("ROBOT", "RELEASE", "STATE", "SINCE", "PREVIOUS", "AT THE HUB", "NOTE")
GOOD = ("confirmed",)
COLORS = {True: C.COLOR_OK, False: C.COLOR_WARN, None: None}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"statuses", "hubs"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        heard = _heard(self._task.args["hubs"])
        rows = []
        for name in sorted(variables["ansible_play_hosts_all"], key=plain.by_name):
            status = variables["hostvars"][name].get(self._task.args["statuses"]) or {}
            rows.append(_row(name, status, heard.get(name)))
        cells = [([row[column] for column in COLUMNS], row["STATE"] in GOOD and not row["NOTE"]) for row in rows]
        for line in plain.table(COLUMNS, cells):
            tell(line.text, color=COLORS[line.healthy])
        return {"changed": False, "robots": rows}


def _row(robot: str, status: Mapping[str, Any], heard: str | None) -> dict[str, str]:
    row = {"ROBOT": robot, "AT THE HUB": heard or plain.UNKNOWN, "NOTE": ""}
    unknown = dict.fromkeys(("RELEASE", "SINCE", "PREVIOUS"), plain.UNKNOWN)
    if "state" not in status:
        gone = bool(status.get("unreachable"))
        return {**row, **unknown, "STATE": "unreachable" if gone else "unknown", "NOTE": plain.message(status)[:80]}
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
        "RELEASE": status["release"] or plain.UNKNOWN,
        "STATE": status["state"].replace("_", " "),
        "SINCE": time.strftime("%Y-%m-%d %H:%M", time.localtime(status["since"])) if status["since"] else plain.UNKNOWN,
        "PREVIOUS": status["previous"] or plain.UNKNOWN,
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
