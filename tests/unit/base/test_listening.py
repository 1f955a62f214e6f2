"""Who holds a port: the kernel is asked, with sockets of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import listening
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import ports
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_defaults import DEFAULTS

SERVE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as server:
    server.bind((sys.argv[1], 0))
    server.listen()
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""
EVERY_DEFAULT = {name: value for values in DEFAULTS.values() for name, value in values.items()}
HAS_IPV6 = Path("/proc/net/if_inet6").exists()


@contextlib.contextmanager
def stranger(address: str) -> Iterator[tuple[int, int]]:
    """A program of somebody else's that listens: its port and its process."""
    command = [sys.executable, "-c", SERVE, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()


def held(port: int, address: str) -> list[dict[str, Any]]:
    return listening.held([{"port": port, "address": address}])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.2", "0.0.0.0"),
        pytest.param("::", "127.0.0.1", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
        pytest.param("127.0.0.1", "[::]", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
        pytest.param("::1", "[::]", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
    ],
)
def test_who_is_in_the_way_is_named(theirs: str, ours: str) -> None:
    with stranger(theirs) as (port, pid):
        (found,) = held(port, ours)
    assert (found["port"], found["in_use"]) == (port, True)
    (holder,) = found["holders"]
    assert (holder["address"], holder["pid"]) == (theirs, pid)
    assert holder["program"].startswith("python")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.2", "127.0.0.1"),
        pytest.param("::1", "127.0.0.1", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
        pytest.param("::1", "0.0.0.0", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
    ],
)
def test_an_address_beside_ours_is_in_nobodys_way(theirs: str, ours: str) -> None:
    with stranger(theirs) as (port, _):
        assert held(port, ours) == []


def test_looking_opens_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert held(port, "127.0.0.1") == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_an_address_that_the_machine_lacks_is_another_reason() -> None:
    (found,) = held(9100, "192.0.2.1")
    assert (found["in_use"], found["reason"]) == (False, "Cannot assign requested address")


def test_a_port_that_a_connection_has_is_in_use_without_a_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", 0))
        port = client.getsockname()[1]
        client.connect(server.getsockname())
        (found,) = held(port, "127.0.0.1")
    assert (found["in_use"], found["holders"]) == (True, [])


ID = "0123456789abcdef" * 4
CGROUPS = {
    # v2, v1 and hybrid; a robot that is a container itself; a user's own unit; containers of both engines.
    "0::/system.slice/prometheus-node-exporter.service": ("prometheus-node-exporter.service", ""),
    "9:memory:/x\n1:name=systemd:/docker/" + ID[::-1] + "/system.slice/ssh.service\n0::/y": (
        "ssh.service",
        "",
    ),
    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service": ("web.service", ""),
    f"0::/machine.slice/libpod-{ID}.scope/container": (f"libpod-{ID}.scope", ID[:12]),
    f"0::/system.slice/docker-{ID}.scope": (f"docker-{ID}.scope", ID[:12]),
    f"0::/docker/{ID}": ("", ID[:12]),
    "0::/init.scope": ("init.scope", ""),
}


def holder_in(tmp_path: Path, cgroup: str, program: str = "x", words: str = "x") -> listening.Holder:
    process = tmp_path / "7"
    process.mkdir()
    (process / "cgroup").write_text(cgroup + "\n")
    (process / "comm").write_text(program + "\n")
    (process / "cmdline").write_text("\0".join([*words.split(), ""]))
    return listening._holder(listening.Sock("0.0.0.0", 9100, "1"), 7, tmp_path)


@pytest.mark.parametrize("cgroup", CGROUPS)
def test_the_unit_and_the_container_of_a_process(tmp_path: Path, cgroup: str) -> None:
    found = holder_in(tmp_path, cgroup)
    assert (found.unit, found.container) == CGROUPS[cgroup]


def test_a_container_of_ours_is_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "RUN", tmp_path)
    (tmp_path / "roverwatch-sensor-2.cid").write_text(ID)
    found = holder_in(tmp_path, f"0::/docker/{ID[::-1]}/roverwatch.slice/libpod-{ID}.scope/container")
    assert found.unit == "roverwatch-sensor-2.service"


def test_whom_a_port_is_published_for(tmp_path: Path) -> None:
    found = holder_in(tmp_path, "0::/machine.slice/libpod-conmon-1.scope", "conmon", "conmon --api-version 1 -n web -s")
    assert found.container == "web"


# --- what is said of it

VALUES = {**EVERY_DEFAULT, "sensor_service_instances": 2, "node_exporter_allow_from": []}
PLACES = ports.places(["sensor_service", "node_exporter"], {**VALUES, "sensor_service_allow_from": ["10.0.0.0/8"]})


def said(port: int, unit: str, pid: int = 812, **holder: Any) -> list[str]:
    there = {"address": "0.0.0.0", "pid": pid, "program": "x", "unit": unit, "container": "", **holder}
    address = next(place.address for place in PLACES if place.port == port)
    return ports.taken(
        PLACES, [{"port": port, "address": address, "in_use": True, "reason": "used", "holders": [there]}]
    )


def test_where_services_listen() -> None:
    assert [(place.unit, place.port, place.address) for place in PLACES] == [
        ("roverwatch-sensor", 8000, "0.0.0.0"),
        ("roverwatch-sensor-2", 8001, "0.0.0.0"),
        ("roverwatch-node-exporter", 9100, "127.0.0.1"),
    ]
    hub = ports.places(rules.SERVICES["hubs"], {**EVERY_DEFAULT, "vmauth_allow_from": ["2001:db8::/64"]})
    assert {place.port: place.address for place in hub}[8427] == "[::]"
    assert {place.port for place in hub} >= {8425, 8426, 8880, 9093}


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        (
            {"unit": "prometheus-node-exporter.service", "program": "prometheus-node"},
            "port 9100 is held by prometheus-node-exporter.service (pid 812, on all addresses): stop it, or set "
            "node_exporter_port",
        ),
        ({"unit": "session-3.scope", "program": "python3"}, "held by python3 (pid 812, session-3.scope, on all"),
        ({"unit": "init.scope", "pid": 1, "program": "systemd"}, "stop the socket unit"),
        ({"unit": "docker.service", "program": "docker-proxy"}, "docker ps --filter publish=9100"),
        ({"unit": "x.scope", "program": "conmon", "container": "web"}, "for the container web): stop the container"),
        ({"unit": "", "pid": 0}, "something without a process"),
    ],
)
def test_a_stranger_is_named_with_the_way_out(holder: dict[str, Any], words: str) -> None:
    (line,) = said(9100, **holder)
    assert words in line


def test_our_own_unit_on_its_own_port_is_right() -> None:
    assert said(9100, "roverwatch-node-exporter.service") == []


def test_our_own_units_that_change_places() -> None:
    """The sensor service is deployed first, its instances in turn: who leaves a port before it is wanted is in nobody's
    way.
    """
    assert said(9100, "roverwatch-sensor.service") == []
    assert said(9100, "roverwatch-sensor-3.service") == []
    assert said(8001, "roverwatch-sensor.service") == []
    (line,) = said(8000, "roverwatch-node-exporter.service")
    assert "systemctl stop roverwatch-node-exporter, then run this again" in line
    (line,) = said(8000, "roverwatch-sensor-2.service")
    assert "systemctl stop roverwatch-sensor-2" in line
    (line,) = said(8000, "roverwatch-other.service")
    assert "stop it, or set sensor_service_port" in line


def test_two_services_on_one_port_are_refused_without_a_machine() -> None:
    values = {**EVERY_DEFAULT, "sensor_service_instances": 2, "node_exporter_port": 8001}
    for role in ("sensor_service", "node_exporter"):
        values[f"{role}_allow_from"] = []
    (line,) = ports.clashes(ports.places(["sensor_service", "node_exporter"], values))
    assert line.startswith("port 8001 is for roverwatch-sensor-2 (sensor_service_port) and roverwatch-node-exporter")
    (line,) = ports.clashes(ports.places(["node_exporter"], {**values, "node_exporter_port": 70000}))
    assert "70000" in line


def test_a_unit_is_called_like_its_role() -> None:
    root = Path(__file__).resolve().parents[3]
    for role in {role for roles in rules.SERVICES.values() for role in roles}:
        assert f"unit: {ports.unit(role)}\n" in (root / "roles" / role / "tasks" / "main.yml").read_text()


def test_it_is_cheap_where_nothing_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is read"))
    assert held(port, "127.0.0.1") == []
