"""Bad input on a running robot: an error that names the host, the variable and the remedy, and nothing changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fleet
import pytest

testinfra_hosts = ["ansible://robot-1"]


# What is wrong, and what has to be said of it, of the robot that has it.
WRONG = [
    (
        {"sensor_service_memory_max": "200M"},
        ["HOST: the caps add up to 408M", "memory_budget", "300M", "sensor_service_memory_max 200M", "Lower a cap"],
    ),
    ({"vmagent_memory_max": "80Mb"}, ["HOST: vmagent_memory_max: '80Mb' is no size", "such as 80M"]),
    ({"memory_budget": "-1"}, ["HOST: memory_budget: '-1' is no size"]),
    ({"vmagent_scrape_interval": "5parsecs"}, ["HOST: vmagent_scrape_interval: '5parsecs' is no duration"]),
    ({"vmagent_port": "eighty"}, ["HOST: role vmagent", "vmagent_port", "int"]),
    ({"vmagent_memory_mx": "48M"}, ["no variable vmagent_memory_mx", "did you mean vmagent_memory_max?"]),
    (
        {"vmagent_version": "9.9.9"},
        ["HOST: vmagent 9.9.9 for x86_64 is not in the artifact store", "ansible-playbook playbooks/artifacts.yml"],
    ),
    ({"base_disk_reserve": "900T"}, ["HOST:", "are free for /opt/roverwatch", "base_disk_reserve"]),
    ({"container_engine": "lxc"}, ["HOST: role container_engine", "podman, docker", "lxc"]),
    ({"node_exporter_port": 22}, ["HOST: port 22 is held by ssh.service (sshd, pid ", "set node_exporter_port"]),
    (
        {"node_exporter_port": 8429},
        ["HOST: port 8429 is for roverwatch-node-exporter", "roverwatch-vmagent (vmagent_port)"],
    ),
    ({"site": 7, "sensor_service_devices": ["ttyUSB0"]}, ["HOST: vmagent_labels: site is 7", "'ttyUSB0' is no device"]),
    # Each is robot-1 under another name.
    ({}, ["HOST: this machine was deployed as robot-1", "base_previous_name=robot-1", "are the same machine"]),
    (
        {"vmagent_port": "eighty", "memory_budget": "lots", "vmagent_version": "9.9.9"},
        ["vmagent_port", "'lots' is no size", "vmagent 9.9.9"],
    ),
]
# What an inventory says of robot-1, so that the same machine is there under another name as well.
REACHED = ("ansible_host", "ansible_port", "ansible_user", "ansible_ssh_private_key_file", "ansible_ssh_common_args")
SAME = {name: f"{{{{ hostvars['robot-1'].{name} }}}}" for name in (*REACHED, "lab_addresses", "lab_networks")}


def refused(hosts, *args: str, inventory: Path = fleet.INVENTORY) -> fleet.Run:
    """A run that must fail without a change to these robots."""
    before = [(fleet.main_pids(host), container(host)) for host in hosts]
    run = fleet.playbook("site.yml", *args, inventory=inventory)
    assert run.rc != 0, run.output
    assert run.changed() == {}
    assert [(fleet.main_pids(host), container(host)) for host in hosts] == before
    return run


def container(host) -> str:
    """Which container runs since when, and from which configuration."""
    inspect = "podman inspect --format '{{.Id}} {{.State.StartedAt}}' roverwatch-sensor"
    return host.check_output(f"{inspect} && sha256sum /etc/roverwatch/sensor/roverwatch-sensor.toml")


def said_of(run: fleet.Run, name: str) -> str:
    """What Ansible prints where a task fails on a host."""
    assert run.recap[name]["failed"] == 1, run.output
    [said] = re.findall(rf"^fatal: \[{name}\]: .*\n(?:(?!^\S).*\n)*", run.output, re.MULTILINE)
    return " ".join(said.split())


@pytest.fixture(scope="module")
def refusals(host, tmp_path_factory) -> fleet.Run:
    """One run for all of them: each is a robot of its own, by its name, and all are the same machine."""
    wrong = {f"wrong-{number}": {**SAME, **variables} for number, (variables, _) in enumerate(WRONG)}
    return refused([host], "-i", robots(tmp_path_factory.mktemp("wrong"), wrong), "--limit", "wrong-*", "--forks", "3")


def robots(folder: Path, variables: Mapping[str, Mapping[str, Any]]) -> str:
    """An inventory that adds variables to robots, and robots."""
    path = folder / "robots.json"
    # The lab says where its keys are by the place of the inventory that names a robot, which is this one now.
    hosts = {robot: {"lab_state_dir": str(fleet.STATE), **own} for robot, own in variables.items()}
    path.write_text(json.dumps({"all": {"children": {group: {"hosts": hosts} for group in ("robots", "lab")}}}))
    return str(path)


@pytest.mark.parametrize("number", range(len(WRONG)), ids=["+".join(variables) for variables, _ in WRONG])
def test_a_wrong_variable_is_refused_before_anything_is_touched(refusals, number):
    """All that is wrong is said at once, of the robot that has it."""
    name, words = f"wrong-{number}", WRONG[number][1]
    said = said_of(refusals, name)
    for word in words:
        assert word.replace("HOST", name) in said


def test_a_tampered_artifact_never_leaves_the_store(host, tmp_path):
    store = tmp_path / "artifacts"
    shutil.copytree(fleet.ROOT / "artifacts", store, ignore=shutil.ignore_patterns(".*"))
    tampered = next(store.glob("vmagent/*/*/*"))
    content = bytearray(tampered.read_bytes())
    content[-1] ^= 1
    tampered.write_bytes(content)
    said = said_of(refused([host], "--limit", "robot-1", "-e", f"artifacts_dir={store}"), "robot-1")
    for word in ("robot-1:", tampered.name, "sha256", "playbooks/artifacts.yml"):
        assert word in said


def test_a_misspelt_group_is_an_error_and_not_a_run_that_does_nothing(host, tmp_path):
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("robotz: {hosts: {robot-1: {}}}\n")
    said = " ".join(refused([host], inventory=inventory).output.split())
    for word in ("No robots", "robotz", str(inventory), "Name the group robots"):
        assert word in said


REFUSED_BY_ITS_PROGRAM = [
    ({"vmagent_labels": {"robot": ["robot-1"]}}, ["scrape.yml is invalid, and nothing was changed", "vmagent says"]),
    (
        {"sensor_service_sources": [{"type": "simulated", "interval_seconds": -1}]},
        [
            "roverwatch-sensor.toml is invalid, and nothing was changed",
            "sources[0].interval_seconds = -1: must be a number from 0.1 to 3600",
        ],
    ),
    (
        {"sensor_service_sources": [{"type": "cgroup", "options": {"slize": "a.slice"}}, {"type": "process"}]},
        ["sources[0].options.slize = 'a.slice': unknown key; known here: containers_dir, root, slice"],
    ),
    (
        {"sensor_service_sources": [{"type": "lidar"}, {"type": "process"}, {"type": "process"}]},
        ["sources[0].type = 'lidar': must be a string out of cgroup, ", "sources[2].type = 'process': may occur once"],
    ),
    (
        {"sensor_service_secrets": {"../passwd": "hunter2", "mqtt_password": 1234}},
        ["nothing was changed", "secret '../passwd': a name is 1 to 63 of", "secret 'mqtt_password': must be text"],
    ),
]
ROBOTS = ("robot-1", "robot-2")


def test_a_configuration_that_its_program_refuses_never_lands(host, tmp_path):
    """Both robots take one at a time, each with its own."""
    hosts = [host, host.get_host("ansible://robot-2", ansible_inventory=str(fleet.INVENTORY), sudo=True)]
    for first in range(0, len(REFUSED_BY_ITS_PROGRAM), len(ROBOTS)):
        cases = REFUSED_BY_ITS_PROGRAM[first : first + len(ROBOTS)]
        wrong = {robot: variables for robot, (variables, _) in zip(ROBOTS, cases, strict=False)}
        run = refused(hosts, "-i", robots(tmp_path, wrong), "--limit", ",".join(wrong))
        for robot, (_, words) in zip(ROBOTS, cases, strict=False):
            for word in words:
                assert word in said_of(run, robot)


def test_health_says_what_is_down_and_what_to_do(host):
    host.check_output("systemctl stop roverwatch-node-exporter")
    run = fleet.playbook("health.yml", "--limit", "robot-1")
    host.check_output("systemctl start roverwatch-node-exporter")
    assert run.rc != 0
    assert "roverwatch-node-exporter is inactive" in run.output
    assert "on robot-1: journalctl -u roverwatch-node-exporter" in run.output
