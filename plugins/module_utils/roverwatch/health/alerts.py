"""What a hub's vmalert says that fires, with what to do about it."""

from __future__ import annotations

import json
from typing import Any

from ..query import probe

UNIT = "roverwatch-vmalert"
# An alert is about a kilobyte, and a fleet whose hub was away has one for each robot.
LIMIT_BYTES = 16 * 1024 * 1024


class AlertsError(Exception):
    """vmalert does not say; the text says why."""


def firing(base_url: str, timeout_seconds: float) -> list[dict[str, Any]]:
    """Each alert that fires: `name`, `severity`, `robot` ("" if it is about none), `summary` and `action`."""
    status, body = probe.http_get(f"{base_url}/api/v1/alerts", timeout_seconds, limit_bytes=LIMIT_BYTES)
    if not probe.is_ready(status):
        raise AlertsError(probe.describe(status, body))
    try:
        found = [alert for alert in json.loads(body)["data"]["alerts"] if alert["state"] == "firing"]
        return [
            {
                "name": alert["name"],
                "severity": alert["labels"].get("severity", ""),
                "robot": alert["labels"].get("robot", ""),
                "summary": alert["annotations"].get("summary", alert["name"]),
                "action": alert["annotations"].get("action", f"docs/runbook.md, {alert['name']}"),
            }
            for alert in found
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AlertsError(f"no answer of its API: {body[:200]}") from error
