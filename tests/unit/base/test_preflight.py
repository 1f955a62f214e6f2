"""Preflight (`base`, looking only) as Ansible runs it here: what is an error, what a warning, what is never shown."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
import tls
import yaml

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
SECRET = "correct horse battery staple 0123456789"

CA = tls.authority()
# By their group.
MACHINES = {"robots": "robot-1", "hubs": "hub-1"}


class Run:
    """A run of preflight on a host with these variables."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = ""

    def __call__(
        self,
        roles: list[str],
        variables: dict[str, Any],
        *arguments: str,
        store: Path | None = None,
        inventory: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        result = self.directory / "result.json"
        options = {**self.options(store), "roles": roles}
        keep = {"content": "{{ found | to_json }}", "dest": str(result)}
        tasks = [
            {"roverwatch.fleet.base": options, "register": "found", "ignore_errors": True},
            {"ansible.builtin.copy": keep, "check_mode": False, "diff": False},
        ]
        play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
        (self.directory / "play.yml").write_text(yaml.safe_dump([play]))
        hosts = {"hosts": {"robot-1": {}}} if inventory is None else {"children": inventory}
        inventory = {"all": {**hosts, "vars": variables}}
        assert self._run(self.directory / "play.yml", inventory, *arguments) == 0, self.output
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    def options(self, store: Path | None = None) -> dict[str, Any]:
        return {
            "roles": [],
            "memory_budget": "1G",
            "artifacts_dir": str(store or self.directory),
            "disk_reserve": "1M",
            "clock_skew_max": 60,
            "only_look": True,
        }

    def run_all(self, hosts: dict[str, Any], *arguments: str) -> None:
        """Preflight of several hosts, all of which are this machine; it is refused for each or some of them."""
        (self.directory / "play.yml").write_text(
            yaml.safe_dump(
                [{"hosts": "all", "gather_facts": False, "tasks": [{"roverwatch.fleet.base": self.options()}]}]
            )
        )
        assert self._run(self.directory / "play.yml", {"all": {"hosts": hosts}}, *arguments) != 0, self.output

    def site(self, group: str, variables: dict[str, Any], own: dict[str, dict[str, Any]] | None = None) -> str:
        """What site.yml says on a machine of a group, or of each, when it only looks; `own` are variables by group."""
        hosts = {group: {"hosts": {name: (own or {}).get(group, {})}} for group, name in MACHINES.items()}
        inventory: dict[str, Any] = {"all": {"children": hosts, "vars": {**variables, "ansible_become": False}}}
        limit = ["--limit", group] if group else []
        self._run(ROOT / "playbooks" / "site.yml", inventory, "--tags", "preflight", *limit)
        return self.output

    def _run(self, playbook: Path, inventory: dict[str, Any], *arguments: str) -> int:
        """On this machine, which is what each host of the inventory is."""
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory["all"]["vars"] = here | inventory["all"].get("vars", {})
        (self.directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
        files = ["-i", self.directory / "hosts.yml", *arguments, playbook]
        done = ansible_runs.run("ansible-playbook", "-vvv", *files)
        self.output = done.stdout + done.stderr
        return done.returncode


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A robot with a hub that refuses connections."""
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield {
            "fleet_secret": SECRET,
            "vmagent_hubs": [{"name": "hub-1", "url": f"https://localhost:{bound.getsockname()[1]}"}],
            "vmagent_hub_ca": str(tmp_path / "ca.pem"),
        }


def lines(found: dict[str, Any], word: str, where: str = "problems") -> list[str]:
    return [line for line in found.get(where, []) if word in line]


def test_a_hub_that_cannot_be_reached(run: Run, robot: dict[str, Any]) -> None:
    found = run(["vmagent"], robot)
    (problem,) = lines(found, "hub hub-1 cannot be used")
    assert "connection refused" in problem
    assert "vmagent_hubs_required: false" in problem
    assert f"- robot-1: {problem}" in found["msg"]


def test_it_is_a_warning_where_hubs_need_not_be_there(run: Run, robot: dict[str, Any]) -> None:
    for variables, arguments in ((robot, ["--check"]), (robot | {"vmagent_hubs_required": False}, [])):
        found = run(["vmagent"], variables, *arguments)
        assert lines(found, "hub-1") == []
        assert "[WARNING]: robot-1: hub hub-1 cannot be used" in run.output


def test_a_hub_that_can_be_reached(run: Run, robot: dict[str, Any], tmp_path: Path) -> None:
    with tls.serving(tmp_path, tls.server(CA, ["localhost"])) as port:
        url = f"https://localhost:{port}"
        found = run(["vmagent"], robot | {"vmagent_hubs": [{"name": "hub-1", "url": url}]})
    assert found["hubs"] == {url: None}
    assert lines(found, "hub-1") == []


def test_a_list_of_hubs_that_is_none(run: Run, robot: dict[str, Any]) -> None:
    found = run(
        ["vmagent"], robot | {"vmagent_hubs": [{"name": "hub-1"}, {"name": "hub-2", "url": "http://hub-2:8428"}]}
    )
    assert found["hubs"] == {}
    assert len(lines(found, "each hub needs a url")) == len(lines(found, "http://hub-2:8428")) == 1


def test_authorities_that_are_not_there_yet(run: Run, robot: dict[str, Any], tmp_path: Path) -> None:
    gone = robot | {"vmagent_hub_ca": str(tmp_path / "gone.pem")}
    (problem,) = lines(run(["vmagent"], gone), "vmagent_hub_ca")
    assert "gone.pem is not on the controller" in problem
    found = run(["vmagent"], gone, "--check")
    assert lines(found, "vmagent_hub_ca") == lines(found, "hub-1") == []
    assert "[WARNING]: robot-1: vmagent_hub_ca" in run.output


def test_inventories_in_two_directories_have_one_authority(run: Run, tmp_path: Path) -> None:
    """Each would have its own beside it."""
    for group, host in (("hubs", "hub-1"), ("robots", "robot-1")):
        (tmp_path / group).mkdir()
        (tmp_path / group / "hosts.yml").write_text(yaml.safe_dump({group: {"hosts": {host: {}}}}))

    def found(**variables: str) -> list[str]:
        robots = ["-i", str(tmp_path / "robots" / "hosts.yml")]
        hubs = {"hubs": {"hosts": {"hub-1": {}}}}
        result = run(["vmauth"], {"fleet_secret": SECRET, **variables}, *robots, "--limit", "hub-1", inventory=hubs)
        return lines(result, "pki_dir")

    (problem,) = found()
    assert f"{tmp_path}/pki/ca.pem, and robot-1 looks for one in {tmp_path}/robots/pki/ca.pem" in problem
    assert found(pki_dir=str(tmp_path)) == []
    # A copy is as good, as long as it is one.
    for name in ("pki", "robots/pki"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.pem").write_bytes(CA.pem)
    assert found() == []
    (tmp_path / "robots/pki/ca.pem").write_bytes(tls.authority().pem)
    assert len(found()) == 1
    (problem,) = found(vmagent_hub_ca="{{ pki_dir_of_robots }}")
    assert "vmagent_hub_ca of robot-1 cannot be computed: " in problem


RULES = [
    {"name": "gateway", "groups": ["hubs"], "ports": [8427], "sources": ["10.20.0.0/16"]},
    {"name": "metrics", "groups": ["all"], "ports": [8000, 9100], "sources": []},
]


def test_a_list_of_firewall_rules_that_is_wrong(run: Run) -> None:
    listed = [*RULES, {**RULES[0], "groups": ["hubz"], "ports": [70000]}]
    found = run(["host_firewall"], {"firewall_rules": listed, "node_exporter_allow_from": ["10.0.0.0/8"]})
    for word in ("rule gateway: 2 rules", "port 70000", "no group hubz"):
        assert len(lines(found, word)) == 1, found["msg"]
        assert f"- robot-1: {lines(found, word)[0]}" in found["msg"]
    assert lines(found, "allow_from") == [], "what hangs on the list is said once the list is right"


def test_a_service_that_listens_for_whom_no_rule_lets_in(run: Run) -> None:
    alone = {"sensor_service_allow_from": ["10.20.3.0/24"], "node_exporter_allow_from": ["10.0.0.0/8"]}
    wide = [RULES[0], {**RULES[1], "sources": ["10.20.0.0/16"]}]
    found = run(["host_firewall"], {"firewall_rules": wide, **alone})
    (problem,) = lines(found, "allow_from")
    assert "rule metrics" in problem
    assert "node_exporter_allow_from is 10.0.0.0/8" in problem
    assert lines(run(["host_firewall"], {"firewall_rules": wide}), "allow_from") == []
    assert lines(run(["base"], {"firewall_rules": wide, **alone}), "allow_from") == [], "only where the rules are"


def test_a_port_or_a_source_that_is_none_is_said_once(run: Run) -> None:
    wrong = {"node_exporter_port": "ninety", "vmagent_allow_from": "{{ nobody }}"}
    found = run(["host_firewall", "node_exporter"], {"firewall_rules": RULES, **wrong})
    assert len(lines(found, "node_exporter_port")) == len(lines(found, "vmagent_allow_from cannot")) == 1, found["msg"]


def test_no_secret_is_shown(run: Run, robot: dict[str, Any]) -> None:
    short = "s3cr3t-and-short"
    wrong = {
        "sensor_service_secrets": short,
        "vmauth_previous_secret": "{{ '" + short + "' | roverwatch.fleet.to_bytes }}",
    }
    found = run(["sensor_service", "vmagent", "vmauth"], robot | wrong | {"fleet_secret": "{{ '" + short + "' }}"})
    assert lines(found, "fleet_secret has 16 characters")
    assert lines(found, "sensor_service_secrets is not what it should be: dict")
    assert lines(found, "vmauth_previous_secret cannot be computed")
    assert short not in run.output
    assert short not in json.dumps(found)
    run(["vmagent", "vmauth"], robot)
    assert SECRET not in run.output


def test_everything_wrong_is_said_at_once(run: Run, robot: dict[str, Any]) -> None:
    wrong = {
        "fleet_secret": "",
        "vmagent_outage": "99y",
        "vmagent_series": 1500,
        "vmagent_scrape_interval": "15s",
        "vmagent_queue_max": "1G",
        "vmagent_port": "eighty",
        "vmagent_queu_max": "1G",
        "load_test_rat": 1,
        "victoriametrics_retention": "3m",
    }
    found = run(["victoriametrics", "vmagent"], robot | wrong)
    for words in (
        "fleet_secret is not set",
        "hub hub-1 cannot be used",
        "vmagent_outage is 99y",
        "vmagent_port",
        "did you mean vmagent_queue_max?",
        "did you mean load_test_rate?",
        "victoriametrics_retention: '3m' is no retention",
    ):
        assert len(lines(found, words)) == 1, words


def test_the_certificate_of_a_hub(run: Run, tmp_path: Path) -> None:
    pair = tls.server(CA, ["hub-1"])
    (tmp_path / "hub.pem").write_bytes(pair.pem)
    (tmp_path / "hub.key").write_bytes(pair.key_pem())
    (tmp_path / "vault").write_text("open sesame")
    vault = ["--vault-password-file", str(tmp_path / "vault")]
    subprocess.run(
        [BIN / "ansible-vault", "encrypt", *vault, tmp_path / "hub.key"], cwd=ROOT, check=True, capture_output=True
    )
    hub = {
        "fleet_secret": SECRET,
        "vmauth_tls_cert": str(tmp_path / "hub.pem"),
        "vmauth_tls_key": str(tmp_path / "hub.key"),
        "vmauth_tls_names": ["hub-1"],
    }
    assert lines(run(["vmauth"], hub, *vault), "vmauth_tls") == []
    (problem,) = lines(run(["vmauth"], hub | {"vmauth_tls_names": ["hub-2"]}, *vault), "vmauth_tls")
    assert "is not for hub-2, only for hub-1" in problem
    (problem,) = lines(run(["vmauth"], hub | {"vmauth_tls_key": ""}, *vault), "vmauth_tls")
    assert "vmauth_tls_key is empty" in problem
    (problem,) = lines(run(["vmauth"], hub | {"vmauth_tls_key": "/nowhere.key"}, *vault), "vmauth_tls")
    assert "vmauth_tls_key: /nowhere.key on the controller cannot be read" in problem
    assert "PRIVATE KEY" not in run.output


def test_two_names_for_one_machine(run: Run, tmp_path: Path) -> None:
    """By a template as well, and by two ways to it that the inventory does not show to lead to one machine."""
    copied = "{{ hostvars['robot-2'].ansible_host }}"
    hosts = {
        "robot-1": {"ansible_host": "10.0.0.13"},
        "robot-2": {"ansible_host": "10.0.0.11"},
        "robot-3": {"ansible_host": copied},
    }
    run.run_all(hosts, "--forks", "1")  # one after the other, by name
    said = " ".join(run.output.split())
    assert "robot-2: robot-2 and robot-3 are the same machine: the inventory has one address" in said
    assert "robot-2 and robot-1 are the same machine: different addresses lead to it" in said


def test_a_hub_and_a_robot_with_one_address(run: Run) -> None:
    """Before the play of the hubs changes anything, although the robots' is another one."""
    address = {"ansible_host": "10.0.0.11"}
    output = run.site("", {}, {"robots": address, "hubs": address})
    said = " ".join(output.split())
    assert "hub-1: hub-1 and robot-1 are the same machine: the inventory has one address" in said


def test_the_disk(run: Run) -> None:
    many = {"victoriametrics_retention": "99y", "vmagent_series": 10**9, "vmagent_scrape_interval": "15s"}
    found = run(["victoriametrics", "vmagent"], many)
    (problem,) = lines(found, "the disk of /var/lib/roverwatch")
    assert "victoriametrics_retention 99y" in problem
