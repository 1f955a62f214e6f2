"""Writes every file that is made of the dashboards. tests/unit/test_dashboards.py says when they are out of date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashboards import FLEET, ROBOT, grafana, vmui

ROOT = Path(__file__).resolve().parents[1]
VMUI = Path("roles/victoriametrics/files/dashboards")
GRAFANA = Path("dashboards/grafana")


def generated() -> dict[Path, str]:
    """The content of each file, by its path below the tree's root."""
    files = {
        VMUI / "hub" / "fleet.json": vmui.render(FLEET),
        VMUI / "robot" / "robot.json": vmui.render(ROBOT),
        GRAFANA / "fleet.json": grafana.render(FLEET),
        GRAFANA / "robot.json": grafana.render(ROBOT),
    }
    return {path: _text(content) for path, content in files.items()}


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write them below the tree's root, and print their paths."""
    for path, text in generated().items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
