"""Bad input and unfit machines: each is named, with the remedy, before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import requirements

MACHINE: dict[str, Any] = {
    "user": "root",
    "architecture": "x86_64",
    "init": "systemd",
    "cgroup_version": 2,
    "model": "",
    "disk_free": 10 << 30,
    "time": 1000.0,
}
OPTIONS = {
    "vmagent_port": {"type": "int"},
    "vmagent_labels": {"type": "dict"},
    "vmagent_memory_max": {"type": "str"},
    "vmagent_mode": {"type": "str", "choices": ["push", "pull"]},
    "vmagent_hub_password": {"type": "str", "no_log": True, "choices": ["right"]},
    "vmagent_logins": {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str"}, "token": {"type": "str", "no_log": True}},
    },
}
HUB = {"name": "hub-1", "url": "https://hub-1:8427"}


def machine(**different: Any) -> list[str]:
    return requirements.machine({**MACHINE, **different}, 1 << 30, 1000.0, 60)


@pytest.mark.parametrize(
    "device", ["/dev/ttyUSB0", "/dev/serial/by-id/usb-FTDI_x-if00:/dev/lidar:r", "nvidia.com/gpu=all"]
)
def test_a_device(device):
    assert requirements.devices([device]) == []


@pytest.mark.parametrize("device", ["ttyUSB0", "/dev/x y", "/dev/$(reboot)", "/dev/'x'", "/dev/x:rwx"])
def test_what_is_no_device(device):
    (problem,) = requirements.devices([device])
    assert repr(device) in problem


def test_of_many_machines_a_few_are_named():
    copies = [f"robot-{number}" for number in range(1, 400)]
    assert "also that of robot-1 and robot-2 and robot-3 and 396 others, another" in requirements.same_disk(copies)
    assert "x and robot-1 are the same machine" in requirements.same_machine("x", copies[:1], True)


def test_a_fit_machine_has_no_problems():
    assert machine() == []
    assert machine(architecture="aarch64", cgroup_version=1, time=1059.0) == []


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"architecture": "armv7l"}, ["armv7l", "x86_64 and aarch64"]),
        ({"user": "rover"}, ["the run is rover on the machine, not root", "ansible_become"]),
        ({"init": "openrc-init"}, ["openrc-init", "systemd"]),
        ({"cgroup_version": 0}, ["memory controller", "cgroup_enable=memory", "reboot"]),
        (
            {"cgroup_version": 0, "model": "Raspberry Pi 4 Model B Rev 1.4"},
            ["cgroup_enable=memory cgroup_memory=1", "/boot/firmware/cmdline.txt", "reboot"],
        ),
        ({"disk_free": 5 << 20}, ["5M are free", "1G are needed", "base_disk_reserve"]),
        ({"time": 1500.0}, ["500 s ahead of", "base_clock_skew_max", "timedatectl"]),
        ({"time": 0.0}, ["1000 s behind", "timedatectl"]),
    ],
)
def test_an_unfit_machine_is_told_why_and_what_to_do(different, words):
    (problem,) = machine(**different)
    for word in words:
        assert word in problem


def test_caps_must_fit_into_the_budget():
    fits = {"a_memory_max": ["200M"], "b_memory_max": ["50M", "50M"]}
    assert requirements.budget("300M", fits) == []
    (problem,) = requirements.budget("300M", {**fits, "c_memory_max": ["1M"]})
    for word in (
        "301M",
        "memory_budget",
        "300M",
        "a_memory_max 200M",
        "b_memory_max 50M + 50M",
        "c_memory_max 1M",
    ):
        assert word in problem


@pytest.mark.parametrize("wrong", ["80Mb", "-1", 0, ""])
def test_a_cap_must_be_a_size(wrong):
    (problem,) = requirements.budget("300M", {"vmagent_memory_max": [wrong]})
    assert "vmagent_memory_max" in problem
    assert "such as 80M" in problem
    (problem,) = requirements.budget(wrong, {"vmagent_memory_max": ["48M"]})
    assert "memory_budget" in problem


def test_caps_and_artifacts_are_found_by_the_roles_variables():
    roles = ["base", "sensor_service", "vmagent"]
    values = {
        "sensor_service_memory_max": "80M",
        "sensor_service_instances": 2,
        "sensor_service_artifact": "sensor",
        "sensor_service_version": "0.1.0",
        "vmagent_memory_max": "48M",
        "vmagent_version": "1.150.0",
    }
    assert requirements.caps(roles, values) == {
        "sensor_service_memory_max": ["80M", "80M"],
        "vmagent_memory_max": ["48M"],
    }
    assert requirements.artifacts(roles, values) == {"sensor": "0.1.0", "vmagent": "1.150.0"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vmagent_port": "eighty"}, ["role vmagent", "vmagent_port", "int"]),
        ({"vmagent_labels": "robot"}, ["vmagent_labels", "dict"]),
        ({"vmagent_mode": "both"}, ["vmagent_mode", "push, pull", "both"]),
        ({"vmagent_memory_mx": "48M"}, ["vmagent_memory_mx", "did you mean vmagent_memory_max?"]),
        ({"vmagent_colour": "red"}, ["no variable vmagent_colour"]),
    ],
)
def test_a_wrong_variable_is_named(values, words):
    right, (problem,) = requirements.variables("vmagent", OPTIONS, values | {"vmagent_memory_max": "48M"})
    for word in words:
        assert word in problem
    # What is wrong is left out, so that what is computed from the others can still be said.
    assert right == {"vmagent_memory_max": "48M"}


def test_all_wrong_variables_are_named():
    _, problems = requirements.variables("vmagent", OPTIONS, {"vmagent_port": "x", "vmagent_mode": "y", "vmagent_z": 1})
    assert len(problems) == 3


def test_right_variables_have_their_types():
    found = requirements.variables("vmagent", OPTIONS, {"vmagent_port": "8429", "vmagent_mode": "push"})
    assert found == ({"vmagent_port": 8429, "vmagent_mode": "push"}, [])


@pytest.mark.parametrize(
    "values",
    [
        {"vmagent_hub_password": "s3cr3t"},
        {"vmagent_hub_password": {"s3cr3t": 1}},
        {"vmagent_logins": "s3cr3t"},
        {"vmagent_logins": [{"name": "a", "tokn": "s3cr3t"}]},
        {"vmagent_logins": ["s3cr3t"]},
    ],
)
def test_a_value_that_must_not_be_shown_is_not(values):
    right, (problem,) = requirements.variables("vmagent", OPTIONS, values)
    assert right == {}
    assert "s3cr3t" not in problem
    assert next(iter(values)) in problem


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ["not set", "ansible-vault encrypt_string --name fleet_secret", "openssl rand -hex 32"]),
        ("", ["not set", "openssl rand -hex 32"]),
        ("s3cr3t" * 5, ["has 30 characters", "at least 32", "openssl rand -hex 32"]),
        (12345678901234567890123456789012, ["no text", "quotes"]),
    ],
)
def test_a_fleet_secret_that_is_none(value, words):
    (problem,) = requirements.fleet_secret(value)
    for word in ["fleet_secret", *words]:
        assert word in problem
    assert not value or str(value) not in problem


def test_a_fleet_secret():
    assert requirements.fleet_secret("0" * 32) == []


def test_hubs():
    assert requirements.hubs([]) == []
    assert requirements.hubs([HUB, {"name": "hub-2", "url": "https://10.0.0.2:8427/"}]) == []


@pytest.mark.parametrize(
    ("hub", "words"),
    [
        ({"name": "hub-2", "url": "http://hub-2:8428"}, ["hub hub-2", "'http://hub-2:8428' is no https://host:port"]),
        ({"name": "hub-2", "url": "https://hub-2:8427/api/v1/write"}, ["hub hub-2", "is no https://host:port"]),
        ({"name": "hub-2", "url": "https://hub-2:port"}, ["hub hub-2", "is no https://host:port"]),
        ({"url": "https://hub-2:8427"}, ["each hub needs a name"]),
        ({"name": "hub-2"}, ["each hub needs a url"]),
        (HUB | {"name": "hub-2"}, ["two hubs have the url https://hub-1:8427"]),
        (HUB | {"url": "https://hub-2:8427"}, ["two hubs have the name hub-1"]),
    ],
)
def test_what_is_no_hub(hub, words):
    (problem,) = requirements.hubs([HUB, hub])
    for word in ["vmagent_hubs", *words]:
        assert word in problem


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (gateway.NAME, ["does not resolve", "hub_address of hub-1"]),
        (gateway.REFUSED, ["why", "site.yml --limit hub-1", "hub_address of hub-1", "robot_networks"]),
        (gateway.TIMEOUT, ["why", "site.yml --limit hub-1", "hub_address of hub-1", "robot_networks"]),
        (gateway.NETWORK, ["why", "hub_address"]),
        (gateway.AUTHORITY, ["not signed by vmagent_hub_ca (/ca.pem): why", "vmauth_tls_cert"]),
        (gateway.HOSTNAME, ["not for this name: why", "vmauth_tls_names of hub-1", "hub_address"]),
        (gateway.EXPIRED, ["expired", "site.yml --limit hub-1", "vmauth_tls_cert"]),
        (gateway.NOT_YET_VALID, ["not valid yet", "timedatectl"]),
        (gateway.TLS, ["does not speak TLS: why", "vmauth_port"]),
    ],
)
def test_a_hub_that_cannot_be_used_is_told_by_what_is_wrong(kind, words):
    line = requirements.reached("hub-1", "https://hub-1:8427", kind, "why", "/ca.pem")
    for word in ["hub hub-1", "https://hub-1:8427", *words]:
        assert word in line


def test_without_authorities_of_its_own_the_system_is_named():
    line = requirements.reached("hub-1", "https://hub-1:8427", gateway.AUTHORITY, "why", "")
    assert "not signed by an authority that the system trusts" in line
