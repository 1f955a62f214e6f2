"""Has a hub's certificate on the controller: one task for each hub, which asks no machine."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.hub.certificates import CertificateError, HubCertificates

SPEC = {
    "directory": {"type": "path", "required": True},
    "names": {"type": "list", "elements": "str", "required": True},
}


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(SPEC)
        certificates = HubCertificates(
            Path(args["directory"]), datetime.now(timezone.utc), only_say=self._task.check_mode
        )
        try:
            certificates.ensure((task_vars or {})["inventory_hostname"], args["names"])
        except CertificateError as error:
            raise AnsibleActionFail(str(error)) from error
        return {
            "changed": bool(certificates.made),
            "diff": [{"prepared": f"{line}\n"} for line in certificates.made],
        }
