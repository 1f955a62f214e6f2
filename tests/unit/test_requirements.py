"""Bad input and unfit machines: each is named, with the remedy, before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
from roverwatch import requirements

MACHINE: dict[str, Any] = {
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
}


def machine(**different: Any) -> list[str]:
    return requirements.machine({**MACHINE, **different}, 1 << 30, 1000.0, 60)


def test_a_fit_machine_has_no_problems():
    assert machine() == []
    assert machine(architecture="aarch64", cgroup_version=1, time=1059.0) == []


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"architecture": "armv7l"}, ["armv7l", "x86_64 and aarch64"]),
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
    (problem,) = requirements.variables("vmagent", OPTIONS, values)
    for word in words:
        assert word in problem


def test_right_variables_have_no_problems():
    assert requirements.variables("vmagent", OPTIONS, {"vmagent_port": 8429, "vmagent_mode": "push"}) == []


def test_a_variable_belongs_to_the_role_with_the_longest_name():
    names = ["vmagent_port", "vmagent_extra_port", "victoriametrics_port"]
    assert requirements.owned("vmagent", ["vmagent", "vmagent_extra"], names) == ["vmagent_port"]
    assert requirements.owned("vmagent", ["vmagent"], names) == ["vmagent_port", "vmagent_extra_port"]
