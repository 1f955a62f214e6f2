"""The module `artifact_fetch` as a playbook calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_release
import pytest

TOP = Path(__file__).parents[2]


def call(folder: Path, module: str, arguments: dict[str, Any], *options: str) -> dict[str, Any]:
    """The result of one call of a module, in a playbook of its own."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [
            {module: arguments, "register": "result", "ignore_errors": True},
            {
                "ansible.builtin.copy": {
                    "content": "{{ result | to_json }}",
                    "dest": str(folder / "result"),
                    "mode": "0644",
                },
                "check_mode": False,
            },
        ],
    }
    (folder / "play.yml").write_text(json.dumps([play]))
    command = [
        Path(sys.executable).with_name("ansible-playbook"),
        "-i",
        "localhost,",
        *options,
        folder / "play.yml",
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")}
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "result").read_text())
    return result


def test_it_fills_then_changes_nothing_then_repairs(tmp_path: Path) -> None:
    with fake_release.served() as release:
        arguments = {"store": str(tmp_path / "store"), "bundle": release.bundle(), "arch": "x86_64"}
        planned = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments, "--check")
        assert planned["changed"]
        assert "would fetch" in planned["msg"]
        assert release.requests == []

        first = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments)
        assert first["changed"]
        assert first["source_used"] == "upstream"
        assert sorted(entry["name"] for entry in first["entries"]) == ["victoriametrics", "vmagent"]

        release.requests.clear()
        second = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments)
        assert not second["changed"]
        assert second["source_used"] == "store"
        assert release.requests == []

        (tmp_path / "store" / first["entries"][0]["file"]).write_bytes(b"malware")
        third = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments)
        assert third["changed"]
        assert "was changed after it entered" in third["warnings"][0]


def test_a_checksum_that_does_not_match_fails_the_task(tmp_path: Path) -> None:
    with fake_release.served() as release:
        release.files[release.path("vmutils-linux-amd64-v1.150.0.tar.gz")] = b"malware"
        arguments = {"store": str(tmp_path / "store"), "bundle": release.bundle(), "arch": "x86_64"}
        result = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments)
    assert result["failed"]
    assert "has sha256" in result["msg"]
    assert "Debian" not in result["msg"]


@pytest.mark.parametrize(
    ("optional", "error", "failed"),
    [
        (True, "Failed to fetch http://debian.invalid/", False),
        (False, "Failed to fetch http://debian.invalid/", True),
        (True, "Unable to locate package x", True),
    ],
)
def test_what_no_service_needs_is_a_warning_where_its_source_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optional: bool, error: str, failed: bool
) -> None:
    mmdebstrap = tmp_path / "mmdebstrap"
    mmdebstrap.write_text(f"#!/bin/sh\necho 'E: {error}' >&2\nexit 1\n")
    mmdebstrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    debian = {"suite": "sid", "package": "x", "minimum_version": "1", "files": {"x": "usr/bin/x"}}
    bundle = {"bundle": "x", "version": "1", "optional": optional, "debian": debian}
    arguments = {"store": str(tmp_path / "store"), "bundle": bundle, "arch": "x86_64"}
    result = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments)
    assert result["failed"] == failed
    assert error in result["msg"]
    if not failed:
        assert (result["changed"], result["entries"]) == (False, [])
        assert result["msg"].startswith("x 1 x86_64: not there, and no service needs it: ")
        assert result["warnings"] == [result["msg"]]


@pytest.mark.parametrize("wrong", [{"arch": "amd64"}, {"source": "both"}])
def test_a_choice_that_there_is_not(tmp_path: Path, wrong: dict[str, str]) -> None:
    bundle = {"bundle": "x", "version": "1", "upstream": []}
    arguments = {"store": str(tmp_path / "store"), "bundle": bundle, "arch": "x86_64", **wrong}
    result = call(tmp_path, "roverwatch.fleet.artifact_fetch", arguments)
    assert result["failed"]
    assert "value of " in result["msg"]
