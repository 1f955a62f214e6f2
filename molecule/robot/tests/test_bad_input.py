"""Bad input on a running robot: an error that names the host, the variable and the remedy, and nothing changed."""

from __future__ import annotations

import json
import shutil

import fleet
import pytest

testinfra_hosts = ["ansible://robot-1"]


def refused(host, *args: str, inventory=fleet.INVENTORY) -> str:
    """What a run says that must fail without a change to the robot."""
    before = fleet.main_pids(host), container(host)
    run = fleet.playbook("site.yml", *args, inventory=inventory)
    assert run.rc != 0, run.output
    assert run.changed() == {}
    assert (fleet.main_pids(host), container(host)) == before
    return " ".join(run.output.split())


def container(host) -> str:
    """Which container runs since when, and from which configuration."""
    inspect = "podman inspect --format '{{.Id}} {{.State.StartedAt}}' roverwatch-sensor"
    return host.check_output(f"{inspect} && sha256sum /etc/roverwatch/sensor/roverwatch-sensor.toml")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"sensor_service_memory_max": "200M"},
            [
                "robot-1: the caps add up to 408M",
                "memory_budget",
                "300M",
                "sensor_service_memory_max 200M",
                "Lower a cap",
            ],
        ),
        ({"vmagent_memory_max": "80Mb"}, ["robot-1: vmagent_memory_max: '80Mb' is no size", "such as 80M"]),
        ({"memory_budget": "-1"}, ["robot-1: memory_budget: '-1' is no size"]),
        ({"vmagent_scrape_interval": "5parsecs"}, ["robot-1: vmagent_scrape_interval: '5parsecs' is no duration"]),
        ({"vmagent_port": "eighty"}, ["robot-1: role vmagent", "vmagent_port", "int"]),
        ({"vmagent_memory_mx": "48M"}, ["no variable vmagent_memory_mx", "did you mean vmagent_memory_max?"]),
        (
            {"vmagent_version": "9.9.9"},
            [
                "robot-1: vmagent 9.9.9 for x86_64 is not in the artifact store",
                "ansible-playbook playbooks/artifacts.yml",
            ],
        ),
        ({"base_disk_reserve": "900T"}, ["robot-1:", "are free for /opt/roverwatch", "base_disk_reserve"]),
        ({"container_engine": "lxc"}, ["robot-1: role container_engine", "podman, docker", "lxc"]),
    ],
)
def test_a_wrong_variable_is_refused_before_anything_is_touched(host, variables, words):
    said = refused(host, "--limit", "robot-1", "-e", json.dumps(variables))
    for word in words:
        assert word in said


def test_everything_that_is_wrong_is_said_at_once(host):
    wrong = {"vmagent_port": "eighty", "memory_budget": "lots", "vmagent_version": "9.9.9"}
    said = refused(host, "--limit", "robot-1", "-e", json.dumps(wrong))
    for word in ("vmagent_port", "'lots' is no size", "vmagent 9.9.9"):
        assert word in said


def test_a_tampered_artifact_never_leaves_the_store(host, tmp_path):
    store = tmp_path / "artifacts"
    shutil.copytree(fleet.ROOT / "artifacts", store, ignore=shutil.ignore_patterns(".*"))
    tampered = next(store.glob("vmagent/*/*/*"))
    content = bytearray(tampered.read_bytes())
    content[-1] ^= 1
    tampered.write_bytes(content)
    said = refused(host, "--limit", "robot-1", "-e", f"artifacts_dir={store}")
    for word in ("robot-1:", tampered.name, "sha256", "playbooks/artifacts.yml"):
        assert word in said


def test_a_misspelt_group_is_an_error_and_not_a_run_that_does_nothing(host, tmp_path):
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("robotz: {hosts: {robot-1: {}}}\n")
    said = refused(host, inventory=inventory)
    for word in ("No robots", "robotz", str(inventory), "Name the group robots"):
        assert word in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"vmagent_labels": {"robot": ["robot-1"]}},
            ["scrape.yml is invalid, and nothing was changed", "vmagent says"],
        ),
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
            [
                "sources[0].type = 'lidar': must be a string out of cgroup, ",
                "sources[2].type = 'process': may occur once",
            ],
        ),
        (
            {"sensor_service_secrets": {"../passwd": "hunter2", "mqtt_password": 1234}},
            ["nothing was changed", "secret '../passwd': a name is 1 to 63 of", "secret 'mqtt_password': must be text"],
        ),
    ],
)
def test_a_configuration_that_its_program_refuses_never_lands(host, variables, words):
    said = refused(host, "--limit", "robot-1", "-e", json.dumps(variables))
    for word in words:
        assert word in said


def test_health_says_what_is_down_and_what_to_do(host):
    host.check_output("systemctl stop roverwatch-node-exporter")
    run = fleet.playbook("health.yml", "--limit", "robot-1")
    host.check_output("systemctl start roverwatch-node-exporter")
    assert run.rc != 0
    assert "roverwatch-node-exporter is inactive" in run.output
    assert "on robot-1: journalctl -u roverwatch-node-exporter" in run.output
