"""The controller's part of a health check: prints what fleet_health found, keeps it, gives the verdict."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.health import page, report


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"results", "path", "page", "max_sample_age_seconds", "robots_group"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            {
                "results": {"type": "str", "required": True},
                "path": {"type": "path", "required": True},
                "page": {"type": "path"},
                "max_sample_age_seconds": {"type": "float", "default": 60.0},
                "robots_group": {"type": "str", "default": "robots"},
            }
        )
        machines = _machines(task_vars or {}, args["results"], args["robots_group"])
        verdict = report.build(machines, args["max_sample_age_seconds"])
        for line in verdict.lines():
            tell(line.text, color=_colour(line.healthy))
        tell(verdict.summary, color=_colour(verdict.healthy))
        if not self._task.check_mode:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            written = json.dumps(verdict.as_dict(now), indent=2) + "\n"
            write_atomically(Path(args["path"]), written)
            if args["page"]:
                # Of the same data as the file, so the page can be made from the file as well.
                write_atomically(Path(args["page"]), page.draw(json.loads(written)))
                tell(f"see {_short(args['page'])} in any browser; for programs, {_short(args['path'])}")
        return {"changed": False, "failed": not verdict.healthy, "msg": verdict.summary}


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise


def _short(path: str) -> str:
    """A path as one would type it here."""
    return min(os.path.relpath(path), os.path.normpath(path), key=len)


def _machines(task_vars: dict[str, Any], registered: str, robots_group: str) -> list[report.Machine]:
    """Every host of the play, also those that Ansible has given up on."""
    robots = task_vars["groups"].get(robots_group, [])
    machines = []
    for name in task_vars["ansible_play_hosts_all"]:
        variables = task_vars["hostvars"][name]
        machines.append(
            report.Machine(
                name=name,
                is_robot=name in robots,
                result=variables.get(registered),
                expected_units=variables.get("health_expected_units", []),
            )
        )
    return machines


def _colour(healthy: bool | None) -> str | None:
    if healthy is None:
        return None
    colour: str = C.COLOR_OK if healthy else C.COLOR_ERROR
    return colour
