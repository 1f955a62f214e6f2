"""The action `artifact_fetch`, and the playbook that calls it, as an operator runs them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ansible_runs
import binaries
import fake_release
import pytest
import yaml
from test_sources import make_deb

TOP = Path(__file__).parents[3]
DEBIAN_ONLY = {"suite": "sid", "package": "x", "minimum_version": "1", "files": {"x": "usr/bin/x"}}


def ansible(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return ansible_runs.run("ansible-playbook", "-i", "localhost,", *arguments)


def play(folder: Path, *calls: dict[str, Any]) -> Path:
    """A playbook with these calls, which goes on after each."""
    tasks: list[dict[str, Any]] = []
    for number, arguments in enumerate(calls):
        check = arguments.pop("check_mode", False)
        given = {"store": str(folder / "store"), "architectures": ["x86_64"], **arguments}
        task = {"roverwatch.fleet.artifact_fetch": given, "register": "result", "check_mode": check}
        content = {"content": "{{ result | to_json }}", "dest": str(folder / f"result-{number}"), "mode": "0644"}
        tasks += [{**task, "ignore_errors": True}, {"ansible.builtin.copy": content}]
    python = {"ansible_python_interpreter": sys.executable}
    head = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": python}
    (folder / "play.yml").write_text(json.dumps([{**head, "tasks": tasks}]))
    return folder / "play.yml"


def call(folder: Path, *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """The result of each call."""
    done = ansible(play(folder, *calls))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"result-{number}").read_text()) for number in range(len(calls))]


def test_it_fills_then_changes_nothing_then_repairs(tmp_path: Path, release: fake_release.Release) -> None:
    bundles = [release.bundle()]
    planned, first, second = call(
        tmp_path, {"bundles": bundles, "check_mode": True}, {"bundles": bundles}, {"bundles": bundles}
    )
    assert planned["changed"]
    assert "would fetch" in planned["msg"]
    assert first["changed"]
    (filled,) = first["results"]
    assert (filled["changed"], filled["source_used"], filled["not_as_pinned"]) == (True, "upstream", "")
    assert sorted(entry["name"] for entry in filled["entries"]) == ["victoriametrics", "vmagent"]
    assert not second["changed"]
    assert second["results"][0]["source_used"] == "store"
    assert len(release.requests) == 4, "two archives and their checksums, once"

    (tmp_path / "store" / filled["entries"][0]["file"]).write_bytes(b"malware")
    (third,) = call(tmp_path, {"bundles": bundles})
    assert third["changed"]
    assert "was changed after it entered" in third["warnings"][0]


def test_what_fails_does_not_keep_the_others_from_the_store(tmp_path: Path, release: fake_release.Release) -> None:
    release.add_victoriametrics("1.151.0")
    release.files[release.path("vmutils-linux-amd64-v1.150.0.tar.gz")] = b"malware"
    good = {**release.bundle(), "bundle": "good", "version": "1.151.0"}
    (result,) = call(tmp_path, {"bundles": [release.bundle(), good]})
    assert result["failed"]
    (line,) = result["msg"].splitlines()
    assert line.startswith("victoriametrics 1.150.0 x86_64: ")
    assert "has sha256" in line
    assert "Debian" not in line
    assert '"requested": "1.151.0"' in (tmp_path / "store/manifest.json").read_text()
    assert '"requested": "1.150.0"' not in (tmp_path / "store/manifest.json").read_text()


def test_bundles_are_fetched_beside_each_other(tmp_path: Path, release: fake_release.Release) -> None:
    """Each archive is answered when all bundles' are asked for."""
    versions = ["1.150.0", "1.151.0", "1.152.0"]
    for version in versions[1:]:
        release.add_victoriametrics(version)
    release.meeting = threading.Barrier(len(versions))
    bundles = [{**release.bundle(), "version": version} for version in versions]
    (result,) = call(tmp_path, {"bundles": bundles})
    assert result["msg"].splitlines() == [
        f"victoriametrics {version} x86_64: fetched victoriametrics, vmagent from upstream" for version in versions
    ]
    assert len(json.loads((tmp_path / "store/manifest.json").read_text())["artifacts"]) == 2 * len(versions)


def test_what_takes_long_says_how_far_it_is_and_leaves_the_output_to_the_callback(
    tmp_path: Path, release: fake_release.Release
) -> None:
    path = release.path("vmutils-linux-amd64-v1.150.0.tar.gz")
    release.files[path] = fake_release.archive({"vmagent-prod": os.urandom(4_000_000)})
    sums = release.path("vmutils-linux-amd64-v1.150.0_checksums.txt")
    release.files[sums] = fake_release.sha256sum({path.rpartition("/")[2]: release.files[path]})
    release.seconds[path] = 10.0
    # The timer of ansible.cfg prints a line of its own. Both settings are read when Ansible is imported.
    settings = {"ANSIBLE_STDOUT_CALLBACK": "json", "ANSIBLE_CALLBACKS_ENABLED": "roverwatch.fleet.rollout"}
    command = [Path(sys.executable).with_name("ansible-playbook"), play(tmp_path, {"bundles": [release.bundle()]})]
    done = subprocess.run(command, cwd=TOP, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["stats"]["localhost"]["changed"] == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("victoriametrics 1.150.0 x86_64: ")]
    assert 2 <= len(said) <= 4
    assert all(re.search(r": \d of 4 MB \(vmutils-linux-amd64-v1\.150\.0\.tar\.gz\)$", line) for line in said)


def test_a_login_is_nowhere_to_be_seen(tmp_path: Path, release: fake_release.Release) -> None:
    release.login = "fleet:hunter2"
    bundle = release.bundle("fleet:hunter2")
    wrong = release.bundle("fleet:hunter2and3")
    calls = [
        {"bundles": [bundle]},
        {"bundles": [{**wrong, "version": "1.151.0"}]},
        {"bundles": [bundle], "source": "x"},
    ]
    done = ansible("-vvv", play(tmp_path, *calls))
    for said in (
        "fetched victoriametrics, vmagent from",
        "does not accept the login",
        "value of source must be one of",
    ):
        assert said in done.stdout
    kept = "".join(file.read_text() for file in [tmp_path / "store/manifest.json", *tmp_path.glob("result-*")])
    for secret in ("hunter2", base64.b64encode(b"fleet:hunter2").decode()[:-2]):
        assert secret not in done.stdout + done.stderr + kept


def debian_says(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have another mmdebstrap in place of the real one."""
    mmdebstrap = folder / "bin/mmdebstrap"
    mmdebstrap.parent.mkdir()
    mmdebstrap.write_text(f"#!/bin/bash\n{script}\n")
    mmdebstrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mmdebstrap.parent}:{os.environ['PATH']}")


def test_what_no_service_needs_is_a_warning_where_its_source_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_says(tmp_path, monkeypatch, 'echo "E: ${@: -2:1}" >&2; exit 1')  # what stands for the suite

    def bundles(optional: bool, error: str) -> dict[str, Any]:
        return {
            "bundles": [
                {"bundle": "x", "version": "1", "optional": optional, "debian": {**DEBIAN_ONLY, "suite": error}}
            ]
        }

    unreachable, unknown = "Failed to fetch http://debian.invalid/", "Unable to locate package x"
    warned, needed, wrong = call(
        tmp_path, bundles(True, unreachable), bundles(False, unreachable), bundles(True, unknown)
    )
    assert not warned["failed"]
    (missing,) = warned["results"]
    assert (missing["changed"], missing["entries"]) == (False, [])
    assert missing["msg"].startswith("x 1 x86_64: not there, and no service needs it: ")
    assert missing["not_as_pinned"].startswith("x 1 x86_64 (not there, because ")
    assert warned["warnings"] == [missing["msg"]]
    for failure, error in ((warned, unreachable), (needed, unreachable), (wrong, unknown)):
        assert error in failure["msg"]
    assert needed["failed"]
    assert wrong["failed"]


def test_a_choice_that_there_is_not(tmp_path: Path) -> None:
    both = {"bundle": "x", "version": "1", "source": "both", "debian": DEBIAN_ONLY}
    said = {
        "value of architectures must be one or more of": {"bundles": [], "architectures": ["amd64"]},
        "value of source must be one of": {"bundles": [], "source": "both"},
        "bundle x in group_vars/all/artifacts.yml: source is 'both'; it must be one of auto, upstream, debian": {
            "bundles": [both]
        },
    }
    for text, result in zip(said, call(tmp_path, *said.values()), strict=True):
        assert result["failed"]
        assert text in result["msg"]


# --- playbooks/artifacts.yml


def fill(folder: Path, **variables: Any) -> str:
    """The output of the playbook, without what it says of time and of Ansible."""
    (folder / "vars.json").write_text(
        json.dumps({"artifacts_dir": str(folder / "store"), "artifacts_images": [], **variables})
    )
    done = ansible("playbooks/artifacts.yml", "-e", f"@{folder / 'vars.json'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_pin_is_at_upstreams_pages(
    tmp_path: Path, release: fake_release.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pins of this repository, through a proxy, at pages of upstream's own layout."""
    pins = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())
    pins["artifacts_binaries"] = [bundle for bundle in pins["artifacts_binaries"] if bundle.get("upstream")]
    versions = {bundle["bundle"]: bundle["version"] for bundle in pins["artifacts_binaries"]}
    exporter = binaries.find("node_exporter").read_bytes()
    release.files.clear()
    release.add_victoriametrics(versions["victoriametrics"])
    release.add_prometheus("node_exporter", versions["node_exporter"], {"node_exporter": exporter})
    tools = {name: fake_release.program(name) for name in ("alertmanager", "amtool")}
    release.add_prometheus("alertmanager", versions["alertmanager"], tools)
    with release.proxy() as proxy:
        proxy.login = "fleet:secret"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://fleet:secret@"))
        first = fill(tmp_path, **{**pins, "artifacts_images": [], "artifacts_architectures": ["x86_64"]})
        assert "changed=1" in first
        assert "not as pinned" not in first
        asked = len(proxy.hosts)
        second = fill(tmp_path, **{**pins, "artifacts_images": [], "artifacts_architectures": ["x86_64"]})
        assert "changed=0" in second
        assert len(proxy.hosts) == asked
    (program,) = tmp_path.glob("store/node_exporter/*/x86_64/node_exporter")
    assert subprocess.run([program, "--version"], capture_output=True, check=True).stdout.startswith(b"node_exporter")


def test_the_playbook_ends_with_what_is_not_as_pinned(
    tmp_path: Path, release: fake_release.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_deb(tmp_path, "victoria-metrics", "1.145.0+ds1-2", ["victoria-metrics", "vmagent"])
    debian_says(tmp_path, monkeypatch, f'mkdir -p "${{@: -1}}" && cp {package} "${{@: -1}}"')
    pins = {"artifacts_binaries": [release.bundle()], "artifacts_architectures": ["x86_64"], "artifacts_source": "auto"}
    address, release.address = release.address, "https://127.0.0.1:1"
    unreachable = {**pins, "artifacts_binaries": [release.bundle()]}
    line = (
        "not as pinned: victoriametrics 1.150.0 x86_64 (1.145.0+ds1-2 stands in, because upstream is not reachable "
        "(127.0.0.1:1: Connection refused))"
    )
    for changed in (1, 0):
        said = fill(tmp_path, **unreachable)
        assert f"changed={changed}" in said
        assert said.partition("PLAY RECAP")[0].rstrip().endswith(line)
    release.address = address
    said = fill(tmp_path, **pins)
    assert "changed=1" in said
    assert "not as pinned" not in said
