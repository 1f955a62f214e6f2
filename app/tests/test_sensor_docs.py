"""The source that docs/sources.md adds, its test and its configuration work when somebody does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sensor_helpers import SOURCE
from sensor_service.sources import SOURCES

DOCUMENT = Path(__file__).parents[2] / "docs/sources.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_can_be_followed(tmp_path: Path) -> None:
    package = tmp_path / "sensor_service"
    shutil.copytree(SOURCE / "sensor_service", package)
    registry = package / "sources/__init__.py"
    (entry,) = re.findall(r'`("thermal": "thermal:ThermalSource")`', DOCUMENT.read_text())
    registry.write_text(registry.read_text().replace("SOURCES = {", f"SOURCES = {{\n    {entry},"))
    (package / "sources/thermal.py").write_text(blocks("python")[0])
    (tmp_path / "test_sensor_thermal.py").write_text(blocks("python")[1])
    (tmp_path / "sensor.toml").write_text(blocks("toml")[0])

    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for command, expected in (
        (["pytest", "-q", "--rootdir", ".", "test_sensor_thermal.py"], "2 passed"),
        (["sensor_service", "--check-config", "sensor.toml"], "sensor.toml: ok"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert expected in done.stdout, done.stdout + done.stderr


def test_every_type_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text().split("## Where")[0], re.MULTILINE)
    assert sorted(listed) == sorted(SOURCES)
