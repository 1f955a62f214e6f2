"""An error that no module knows is told with host, module and where to look."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected

MODULES = sorted((Path(__file__).resolve().parents[3] / "plugins" / "modules").glob("*.py"))
RUN = [path for path in MODULES if "def main()" in path.read_text()]


def load(name: str) -> Any:
    path = next(path for path in RUN if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def syslog(_: object, line: str) -> None:
        if not line.startswith("Invoked with"):  # of Ansible's own
            lines.append(line)

    monkeypatch.setattr(unexpected.syslog, "syslog", syslog)
    return lines


def ends(loaded: Any, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
        unexpected.told(loaded.main)
    assert ended.value.code == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def plant(loaded: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(loaded.examination, "examine", broken)


def test_host_module_cause_and_log_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logged: list[str]
) -> None:
    loaded = load("fleet_health")
    plant(loaded, monkeypatch, TypeError("planted"))
    said = ends(loaded, capsys, host="robot-1")
    assert said["failed"]
    host = re.escape(socket.gethostname())
    assert re.fullmatch(
        rf"{host}: fleet_health met an error that it does not know: TypeError: planted, in test_unexpected.py line "
        rf"\d+. If it stays, report it: journalctl -t roverwatch-module on {host} has all of it, as has -vvv",
        said["msg"],
    )
    assert "Traceback" in said["exception"]
    assert logged[0] == said["msg"]
    assert "TypeError: planted" in logged


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "its disk is full: df -h"), (errno.EROFS, "read-only: mount it writable")]
)
def test_what_a_disk_does_not_let_has_its_path_and_a_remedy(
    number: int,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logged: list[str],
) -> None:
    loaded = load("fleet_health")
    plant(loaded, monkeypatch, OSError(number, "words of the kernel", "/etc/roverwatch/x"))
    said = ends(loaded, capsys, host="robot-1")["msg"]
    assert "fleet_health cannot go on: /etc/roverwatch/x: words of the kernel; " in said
    assert remedy in said
    assert logged[0] == said


def test_what_a_module_says_itself_is_left_alone(capsys: pytest.CaptureFixture[str], logged: list[str]) -> None:
    said = ends(load("promql_gate"), capsys, gates=[{"name": "x"}], updated=[], baseline=[], window_seconds=1)
    assert "does not know" not in said["msg"]
    assert logged == []


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_every_module_ends_with_it(path: Path) -> None:
    assert path.read_text().endswith('if __name__ == "__main__":\n    unexpected.told(main)\n')
