"""What runs of a service on a machine: what it lacks, what it puts in place, what its units say, and what must go.

What systemd makes of it is tested on the lab's machines.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

MODULES = Path(__file__).resolve().parents[3] / "plugins" / "modules"
CONTENT = b"\x7fELF of a kind"
ARCH = platform.machine()
BINARY = {
    "name": "vmagent",
    "unit": "roverwatch-vmagent",
    "description": "scrapes",
    "version": "1.0",
    "memory_max": "48M",
    "port": 8429,
    "ready_path": "/health",
    "job": "vmagent",
}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The machine's directories, and no systemd: units are neither asked for nor made."""
    services = load("binary_service").deployment
    monkeypatch.setattr(services.installed, "ROOT", tmp_path / "opt")
    monkeypatch.setattr(services.units, "UNITS", tmp_path / "units")
    monkeypatch.setattr(services.units, "CONFIG", tmp_path / "etc")
    monkeypatch.setattr(services.systemd, "show", lambda *_: {"ActiveState": "inactive"})
    # The disk of the machine underneath would be waited for, with all that others write to it.
    monkeypatch.setattr(services.disk, "sync", lambda *_: None)
    services.units.UNITS.mkdir()
    return services


@pytest.fixture
def module(places):
    """The module that brings a program and runs nothing, so that a test has to do with the artifact alone."""
    return load("artifact")


@pytest.fixture
def staged(tmp_path):
    path = tmp_path / "staged"
    path.write_bytes(CONTENT)
    return path


def entry(version: str = "1.0", content: bytes = CONTENT, **different: Any) -> dict[str, Any]:
    return {
        "name": "vmagent",
        "version": version,
        "kind": "binary",
        "file": f"vmagent/{version}/{ARCH}/vmagent",
        "sha256": hashlib.sha256(content).hexdigest(),
        **different,
    }


def call(module: Any, capsys: Any, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
    with patch_module_args({"_ansible_check_mode": check_mode, **arguments}), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


def ask(module: Any, capsys: Any, what: dict[str, Any], staged: Path | None = None, **more: Any) -> dict[str, Any]:
    brought = {"staged": {"vmagent": str(staged)}} if staged else {}
    return call(module, capsys, name="vmagent", candidates={"vmagent": {ARCH: what}}, **brought, **more)


def test_it_says_what_is_missing_then_installs_then_is_content(module, capsys, staged, places):
    target = places.installed.ROOT / "vmagent" / "1.0" / "vmagent"

    asked = ask(module, capsys, entry())
    assert asked["missing"] == ["vmagent"]
    assert not asked["changed"]
    assert not target.exists()

    brought = ask(module, capsys, entry(), staged)
    assert (brought["changed"], brought["version"], brought["path"]) == (True, "1.0", str(target))
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in target.parent.iterdir()) == [places.installed.RECORD, "vmagent"]

    assert not ask(module, capsys, entry())["changed"]


def test_the_old_version_stays_beside_the_new(module, capsys, staged, places):
    for version in ("1.0", "1.1"):
        ask(module, capsys, entry(version), staged)
    assert sorted(path.name for path in (places.installed.ROOT / "vmagent").iterdir()) == ["1.0", "1.1"]


def test_a_file_that_was_damaged_on_the_way_is_refused_by_the_machine(module, capsys, staged, places):
    staged.write_bytes(CONTENT + b"!")
    result = ask(module, capsys, entry(), staged)
    assert result["failed"]
    for word in ("sha256", entry()["sha256"], "Nothing was changed"):
        assert word in result["msg"]
    assert not places.installed.ROOT.exists()


def test_a_file_that_was_damaged_on_the_machine_is_brought_again(module, capsys, staged, places):
    ask(module, capsys, entry(), staged)
    (places.installed.ROOT / "vmagent" / "1.0" / "vmagent").write_bytes(b"rotten")
    assert ask(module, capsys, entry())["missing"] == ["vmagent"]


def test_another_architectures_artifact_is_not_this_machines(module, capsys):
    result = call(module, capsys, name="vmagent", candidates={"vmagent": {"s390x": entry()}})
    assert (result["unknown"], result["arch"], result["changed"]) == (["vmagent"], ARCH, False)


def test_an_image_needs_its_engine(places, staged, monkeypatch):
    monkeypatch.setattr(places.engine.shutil, "which", lambda _: None)
    image = entry(kind="image", reference="localhost/roverwatch/vmagent:1.0", image_id="sha256:1")
    with pytest.raises(places.installed.ArtifactError, match="vmagent is an image, and there is no podman on this"):
        places.installed.ensure({"vmagent": {ARCH: image}}, {"vmagent": str(staged)}, "podman", False)


def test_only_what_is_missing_is_asked_for_and_nothing_else_is_done(places, capsys, staged):
    ask(load("artifact"), capsys, entry(), staged)
    candidates = {"vmagent": {ARCH: entry()}, "amtool": {ARCH: entry(name="amtool")}}
    tools = [{"name": "amtool", "version": "1.0"}]
    result = call(load("binary_service"), capsys, **BINARY, tools=tools, candidates=candidates)
    assert result["missing"] == ["amtool"]
    assert list(places.units.UNITS.iterdir()) == []
    assert not places.units.CONFIG.exists()


def test_a_cap_that_is_no_size_is_an_error(places, capsys):
    result = call(load("binary_service"), capsys, **{**BINARY, "memory_max": "48MB"}, candidates={})
    assert result["failed"]
    assert "vmagent: nothing was changed: memory_max: '48MB' is no size" in result["msg"]


def test_a_list_of_metrics_that_is_no_pattern_is_an_error(places, capsys):
    result = call(load("binary_service"), capsys, **BINARY, metrics_keep="(vmagent", candidates={})
    assert result["failed"]
    assert "nothing was changed: <role>_metrics_keep is no regular expression" in result["msg"]


def binary(**different: Any) -> dict[str, Any]:
    """The unit of a binary service, from options as a role gives them."""
    options = {
        "args": [],
        "tools": [],
        "start_pre": [],
        "files": [],
        "record": {},
        "secrets": {},
        "allow_from": [],
        "egress": False,
        "protect_clock": True,
        "sees_mounts": False,
        "address_families": ["AF_INET"],
        "ready_timeout": 30,
        "metrics_keep": "vmagent_.+",
        "sample_limit": 20,
        "series_limit": 40,
        "replaces": [],
    }
    wanted = {**BINARY, **options, "memory_max": 48 << 20, **different}
    properties = {"vmagent": {"version": wanted["version"], "path": "/opt/vmagent"}, "amtool": {"path": "/opt/amtool"}}
    return load("binary_service").instance(wanted, properties)


def test_a_command_line_is_flat_and_has_the_address_of_those_who_may_reach_it():
    args = ["-listen={listen}:1", ["-url=a", ["-url=b"]], "", "-tcp6={listen_ipv6}"]
    for allow_from, listen, ipv6 in [
        ([], "127.0.0.1", "false"),
        (["10.0.0.0/8"], "0.0.0.0", "false"),
        (["fd00::/8"], "[::]", "true"),
    ]:
        unit = binary(args=args, allow_from=allow_from)["unit"]
        line = " \\\n  ".join(["/opt/vmagent", f"-listen={listen}:1", "-url=a", "-url=b", f"-tcp6={ipv6}"])
        assert f"ExecStart=/usr/local/sbin/roverwatch-no-thp {line}\n" in unit


def test_a_service_that_opens_no_connections_is_kept_to_those_who_may_reach_it():
    assert "IPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.0/8\n" in binary(allow_from=["10.0.0.0/8"])["unit"]
    assert "IPAddress" not in binary(egress=True)["unit"]


def settings(unit: str) -> dict[str, str]:
    """What holds of a unit's settings: the last one, where there are several."""
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))


def test_a_service_that_measures_file_systems_has_nothing_mounted_over_them():
    own, machines = settings(binary()["unit"]), settings(binary(sees_mounts=True)["unit"])
    assert {name: (own[name], machines[name]) for name in own if own[name] != machines[name]} == {
        "ProtectHome": ("yes", "read-only"),
        "ProtectProc": ("invisible", "default"),
        "PrivateTmp": ("yes", "no"),
    }


def test_the_cap_is_the_kernels_in_bytes_and_health_checks_know_what_runs():
    its = binary(record={"hubs": []})
    assert f"MemoryMax={48 << 20}\n" in its["unit"]
    assert its["service"] == {
        "kind": "binary",
        "version": "1.0",
        "exe": "/opt/vmagent",
        "memory_max": 48 << 20,
        "ready_url": "http://127.0.0.1:8429/health",
        "hubs": [],
    }


def file(**different: Any) -> dict[str, Any]:
    return {"path": "/etc/a", "content": "{vmagent}", "validate": [], "version_pattern": "", **different}


def test_what_validates_a_file_is_the_program_that_will_run():
    found = binary(files=[file(validate=["{vmagent}", "{amtool}", "-dryRun={}"])])["files"][0]
    assert found["validate"] == ["/opt/vmagent", "/opt/amtool", "-dryRun={}"]
    # What a program reads is the operator's text, and none of ours.
    assert found["content"] == "{vmagent}"


@pytest.mark.parametrize(("version", "there"), [("0.25.0-1+b3", True), ("0.28.1", False)])
def test_a_file_can_belong_to_some_versions_only(version, there):
    assert bool(binary(version=version, files=[file(version_pattern="-")])["files"]) == there


def container(number: int, **different: Any) -> dict[str, Any]:
    """The unit of an instance of a container service, from options as a role gives them."""
    options = {
        "name": "sensor",
        "unit": "roverwatch-sensor",
        "engine": "podman",
        "run_options": ["--tmpfs=/a"],
        "devices": [],
        "args": ["--config", "c"],
        "secrets": {},
        "config": "listen = :@port@",
        "config_check": [],
        "user_id": 65532,
        "ready_timeout": 30,
        "port": 8000,
        "metrics_keep": "sensor_.+",
        "sample_limit": 20,
        "series_limit": 40,
    }
    its = {"version": "1.0", "reference": "localhost/roverwatch/sensor:1.0", "image_id": "sha256:1"}
    return load("container_service").instance({**BINARY, **options, "memory_max": 80 << 20, **different}, number, its)


def test_each_instance_has_its_own_name_port_config_and_container():
    second = container(2)
    assert second["name"] == "roverwatch-sensor-2"
    assert [(str(f["path"]), f["content"]) for f in second["files"]] == [
        ("/etc/roverwatch/sensor/roverwatch-sensor-2.toml", "listen = :8001")
    ]
    assert second["service"]["cid_file"] == "/run/roverwatch/roverwatch-sensor-2.cid"
    assert second["service"]["ready_url"] == "http://127.0.0.1:8001/health"
    assert second["scrape"] == container(1, port=8001)["scrape"]


PODMAN = "/usr/bin/podman --cgroup-manager=systemd"


def test_podman_is_told_what_the_machine_may_have_set_otherwise():
    unit = container(1)["unit"]
    assert "--userns=host" in unit
    calls = [line for line in unit.splitlines() if "/usr/bin/podman" in line]
    assert len(calls) == 3
    assert all(PODMAN in line for line in calls)


def started(directory: Path, engine: str, devices: list[str]) -> list[str]:
    """What an engine is told by the unit's own command line, without systemd."""
    unit = container(1, engine=engine, devices=devices)["unit"]
    client = PODMAN if engine == "podman" else "/usr/bin/docker"
    line = next(part for part in unit.replace("\\\n", "").splitlines() if f"{client} run" in part and "=" in part)
    command = line.partition("=")[2].replace("$$", "$").replace("%%", "%").replace(client, str(directory / "engine"))
    (directory / "engine").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (directory / "engine").chmod(0o755)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_a_service_starts_with_the_devices_that_are_there(tmp_path, engine, places):
    cdi = places.units.CDI[0]
    (tmp_path / "ttyUSB1").touch()
    devices = [f"{tmp_path}/ttyUSB0", f"{tmp_path}/ttyUSB1:/dev/ttyUSB0:rw", "/dev/null", "nvidia.com/gpu=all"]
    words = started(tmp_path, engine, devices)
    assert [word for word in words if word.startswith("--device=")] == [
        "--device=/dev/null",
        f"--device={tmp_path}/ttyUSB1:/dev/ttyUSB0:rw",
    ], cdi
    (environment,) = [word for word in words if "ROVERWATCH_DEVICES" in word]
    environ = f"A=1\0{environment.removeprefix('--env=')}\0".encode()
    assert words[0] == "run"
    assert words.index(environment) < words.index("localhost/roverwatch/sensor:1.0")
    assert words[-2:] == ["--config", "c"]
    assert not places.units.lacks_device(environ, devices)
    (tmp_path / "ttyUSB0").touch()
    assert places.units.lacks_device(environ, devices), "the next run takes it in"
    (tmp_path / "ttyUSB1").unlink()
    assert not places.units.lacks_device(environ, devices[1:]), "one that went is no reason to restart"
    assert started(tmp_path, engine, devices).count(f"--device={devices[0]}") == 1


def test_a_service_without_devices_needs_no_shell():
    assert "/bin/sh" not in container(1)["unit"]
    assert "devices" not in container(1)["service"]


def test_a_gpu_is_there_once_its_file_is(tmp_path, monkeypatch, places):
    monkeypatch.setattr(places.units, "CDI", (str(tmp_path / "no"), str(tmp_path)))
    assert not places.units.device_is_there("nvidia.com/gpu=all")
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n")
    assert places.units.device_is_there("nvidia.com/gpu=all")
    assert not places.units.device_is_there("intel.com/gpu=all")


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_a_container_is_in_the_slice_under_its_cap_with_nothing_but_what_is_said(engine):
    unit = container(1, engine=engine)["unit"]
    start = unit[unit.index({"podman": f"{PODMAN} run ", "docker": "/usr/bin/docker run "}[engine]) :]
    words = start[: start.index("\nExec")].replace("\\\n", "").split()
    for word in ["--pull=never", "--cgroup-parent=roverwatch.slice", f"--memory={80 << 20}", "--cap-drop=all"]:
        assert word in words
    assert words[-4:] == ["--tmpfs=/a", "localhost/roverwatch/sensor:1.0", "--config", "c"]
    assert not any("secrets" in word for word in words)
    assert "/etc/roverwatch/secrets:ro" in container(1, engine=engine, secrets={"a": "b"})["unit"]


def test_the_image_checks_its_configuration_under_its_cap():
    assert container(1)["files"][0]["validate"] == []
    command = container(1, config_check=["--check"])["files"][0]["validate"]
    assert command[:3] == [*PODMAN.split(), "run"]
    assert container(1, engine="docker", config_check=["--check"])["files"][0]["validate"][:2] == ["docker", "run"]
    assert f"--memory={80 << 20}" in command
    assert command[-2:] == ["localhost/roverwatch/sensor:1.0", "--check"]


def test_instances_of_a_service_are_found_and_nobody_elses(places):
    for name in ("vmagent", "vmagent-2", "vmagent-12", "vmagent-canary", "vmagent2", "other-3"):
        (places.units.UNITS / f"roverwatch-{name}.service").touch()
    assert places.units.instances("roverwatch-vmagent") == [
        "roverwatch-vmagent-12",
        "roverwatch-vmagent-2",
        "roverwatch-vmagent",
    ]


def test_removing_takes_every_version_and_changes_nothing_in_check_mode(places, capsys, staged):
    ask(load("artifact"), capsys, entry(), staged)
    (places.units.CONFIG / "vmagent").mkdir(parents=True)
    there = [places.installed.ROOT / "vmagent", places.units.CONFIG / "vmagent"]
    absent = {"name": "vmagent", "unit": "roverwatch-vmagent", "state": "absent"}
    service = load("binary_service")
    assert call(service, capsys, check_mode=True, **absent)["changed"]
    assert all(path.exists() for path in there)
    assert call(service, capsys, **absent)["changed"]
    assert not any(path.exists() for path in there)
    assert not call(service, capsys, **absent)["changed"]
