"""The controller's half of `container_service`: sends what the machine lacks of the store."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import delivery


class ActionModule(ActionBase):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        return delivery.serve(self, "roverwatch.fleet.container_service", ["engine", "instances"], task_vars or {})
