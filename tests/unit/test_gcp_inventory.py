"""The inventory of VMs: the real plugin of google.cloud with the repository's own file, against a fake of the API."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
import yaml
from ansible.vars.reserved import get_reserved_names
from compute_api.instances import put_vm
from compute_api.resources import Api
from compute_api.server import service_account

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "inventory" / "gcp_compute.yml"
ROBOTS = {
    "robots": {"children": {"hamburg": {"vars": {"site": "hamburg"}, "hosts": {"robot-9": {"ansible_host": "::1"}}}}}
}


class Fleet:
    """An operator's inventory directory, with the file of this repository and the project in it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.directory = api.directory / "inventory"
        self.directory.mkdir()
        (self.directory / "group_vars").symlink_to(ROOT / "group_vars")
        self.file = self.directory / "gcp_compute.yml"
        self.login = {"GCP_ACCESS_TOKEN": api.token}
        self.write(auth_kind="accesstoken")

    def write(self, project: str = "demo", auth_kind: str = "") -> None:
        text = SHIPPED.read_text().replace("my-project", project)
        line = f"auth_kind: {auth_kind}" if auth_kind else ""
        self.file.write_text(re.sub(r"(?m)^auth_kind: .*$", line, text))

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return ansible_runs.run(program, "-i", self.file, *arguments, environment=self.api.environment | self.login)

    def listed(self, *arguments: str | Path) -> dict[str, Any]:
        """What ansible-inventory says, which must have nothing to complain about."""
        done = self.run("ansible-inventory", "--list", *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found: dict[str, Any] = json.loads(done.stdout, object_hook=_plain)
        return found


def _plain(found: dict[str, Any]) -> Any:
    """ansible-inventory marks what comes from the API as text that is no template."""
    return found.get("__ansible_unsafe", found)


@pytest.fixture
def fleet(compute_api: Api) -> Fleet:
    return Fleet(compute_api)


def test_vms_are_robots_and_hubs_by_their_label_and_others_are_not_there(fleet: Fleet) -> None:
    api = fleet.api
    put_vm(api, "robot-1", labels={"roverwatch": "robot", "site": "lyon", "fleet": "pickers"})
    put_vm(api, "robot-2", labels={"roverwatch": "robot"}, zone="us-central1-a", public=False)
    put_vm(api, "robot-3", labels={"roverwatch": "robot"}, status="TERMINATED")
    put_vm(api, "hub-1", labels={"roverwatch": "hub"}, metadata={"startup-script": "echo {{ 1 + 1 }}"})
    put_vm(api, "robot-4", labels={"roverwatch": "robto"})
    put_vm(api, "build-server", labels={"team": "tools"})
    put_vm(api, "database")

    found = fleet.listed()
    assert sorted(found["robots"]["hosts"]) == ["robot-1", "robot-2", "robot-3"]
    assert found["hubs"]["hosts"] == ["hub-1"]
    # A label with a slip of the pen is seen, and is in no play.
    assert found["ungrouped"]["hosts"] == ["robot-4"]
    assert set(found["_meta"]["hostvars"]) == {"robot-1", "robot-2", "robot-3", "robot-4", "hub-1"}

    variables = found["_meta"]["hostvars"]
    first, second = variables["robot-1"], variables["robot-2"]
    assert first["ansible_host"] == first["gce_networkInterfaces"][0]["accessConfigs"][0]["natIP"]
    assert second["ansible_host"] == second["gce_networkInterfaces"][0]["networkIP"]
    assert (first["site"], first["fleet"]) == ("lyon", "pickers")
    assert (first["gce_name"], first["gce_zone"], first["gce_project"]) == ("robot-1", "europe-west1-b", "demo")
    assert "site" not in second
    assert "fleet" not in second

    # The API's own keys collide with nothing: not with Ansible's names, not with a variable of this project.
    ours = {"ansible_host", "site", "fleet"}
    theirs = {name for host in variables.values() for name in host if name.startswith("gce_")}
    assert not theirs & get_reserved_names()
    project = set().union(*(yaml.safe_load(file.read_text()) or {} for file in ROOT.glob("group_vars/**/*.yml")))
    assert {name for name in first if name != "ansible_local"} <= theirs | ours | project
    assert not theirs & project

    # What somebody wrote into a VM's metadata is text.
    assert variables["hub-1"]["gce_metadata"]["startup-script"] == "echo {{ 1 + 1 }}"
    assert not api.writes


def test_a_hub_is_reached_by_robots_at_its_public_address_unless_its_own_variables_say_otherwise(fleet: Fleet) -> None:
    put_vm(fleet.api, "hub-1", labels={"roverwatch": "hub"})
    put_vm(fleet.api, "hub-2", labels={"roverwatch": "hub"})
    (fleet.directory / "host_vars").mkdir()
    (fleet.directory / "host_vars" / "hub-2.yml").write_text("hub_address: hub-2.example.com\n")
    done = fleet.run("ansible", "hubs", "-m", "ansible.builtin.debug", "-a", "var=hub_url")
    assert done.returncode == 0, done.stderr
    assert re.search(r"hub-1 .*\n +hub_url: https://203\.0\.113\.[0-9]+:8427", done.stdout), done.stdout
    assert "hub_url: https://hub-2.example.com:8427" in done.stdout


def test_every_page_of_a_large_project_is_read_and_the_filter_is_the_apis(fleet: Fleet) -> None:
    for number in range(501):
        put_vm(fleet.api, f"robot-{number}", labels={"roverwatch": "robot"}, public=False)
    put_vm(fleet.api, "other")
    assert len(fleet.listed()["robots"]["hosts"]) == 501
    asked = [one.query for one in fleet.api.reads]
    assert [query.get("pageToken") for query in asked] == [None, "page-500"]
    assert all(query["filter"] == "labels.roverwatch:*" for query in asked)


def test_site_yml_has_the_vms_in_the_right_plays_beside_robots_elsewhere(fleet: Fleet) -> None:
    put_vm(fleet.api, "robot-1", labels={"roverwatch": "robot"})
    put_vm(fleet.api, "hub-1", labels={"roverwatch": "hub"})
    elsewhere = fleet.directory / "robots.yml"
    elsewhere.write_text(yaml.safe_dump(ROBOTS))
    done = fleet.run("ansible-playbook", "-i", elsewhere, "playbooks/site.yml", "--list-hosts")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    plays = {
        name: set(hosts.split())
        for name, hosts in re.findall(
            r"play #\d+ \(\S+\): (.+?)\tTAGS.*?hosts \(\d+\):\n((?: {6}\S+\n)*)", done.stdout, re.S
        )
    }
    assert plays["Provision the hubs"] == {"hub-1"}
    assert plays["Provision the robots"] == {"robot-1", "robot-9"}


@pytest.mark.parametrize(
    ("kind", "variable"),
    [("serviceaccount", "GCP_SERVICE_ACCOUNT_FILE"), ("application", "GOOGLE_APPLICATION_CREDENTIALS")],
)
def test_a_service_account_logs_in_with_its_key(fleet: Fleet, kind: str, variable: str) -> None:
    put_vm(fleet.api, "robot-1", labels={"roverwatch": "robot"})
    fleet.login = {variable: str(service_account(fleet.api))}
    fleet.write(auth_kind=kind)
    assert fleet.listed()["robots"]["hosts"] == ["robot-1"]
    assert [one.host for one in fleet.api.requests] == ["oauth2.googleapis.com", "www.googleapis.com"]


def test_without_a_line_in_the_file_the_environment_says_how_to_log_in(fleet: Fleet) -> None:
    put_vm(fleet.api, "robot-1", labels={"roverwatch": "robot"})
    fleet.write()
    fleet.login["GCP_AUTH_KIND"] = "accesstoken"
    assert fleet.listed()["robots"]["hosts"] == ["robot-1"]


def test_a_refusal_names_the_permission_and_no_token_is_shown(fleet: Fleet) -> None:
    fleet.api.deny("compute.instances.list")
    done = fleet.run("ansible-inventory", "--list", "-vvv")
    assert done.returncode != 0
    assert "Required 'compute.instances.list' permission for 'projects/demo'" in done.stderr
    assert "gcp_compute.yml" in done.stderr
    assert fleet.api.token not in done.stdout + done.stderr


def test_a_login_that_is_wrong_is_an_error_and_no_empty_fleet(fleet: Fleet) -> None:
    fleet.login = {"GCP_ACCESS_TOKEN": "ya29.of-yesterday"}
    done = fleet.run("ansible-playbook", "playbooks/site.yml", "--list-hosts")
    assert done.returncode != 0
    assert "refresh the access token" in done.stderr
    assert "Completely failed to parse inventory source" in done.stderr


def test_a_project_that_does_not_exist_leaves_no_robots_and_site_yml_says_where_it_looked(fleet: Fleet) -> None:
    fleet.write(project="dmeo", auth_kind="accesstoken")
    done = fleet.run("ansible-playbook", "playbooks/site.yml")
    assert done.returncode != 0
    assert "No robots: the inventory" in done.stdout
    assert "gcp_compute.yml" in done.stdout


GCP = (
    "gcp_project",
    "gcp_auth_kind",
    "gcp_service_account_file",
    "gcp_access_token",
    "gcp_zone",
    "gcp_network",
)


def variables(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = yaml.safe_load(done.stdout.partition("=>")[2])["msg"]
    return found


@pytest.fixture
def asked(fleet: Fleet) -> list[str]:
    wanted = "{{ {" + ", ".join(f"'{name}': {name}" for name in GCP) + "} }}"
    return ["ansible", "localhost", "-m", "ansible.builtin.debug", "-a", f'msg="{wanted}"']


def test_plays_on_the_controller_know_the_project_from_the_inventory(fleet: Fleet, asked: list[str]) -> None:
    elsewhere = fleet.directory / "robots.yml"
    elsewhere.write_text(yaml.safe_dump(ROBOTS))
    with fleet.file.open("a") as file:
        file.write("zones: [europe-west1-c]\n")
    assert variables(fleet.run(*asked, "-i", elsewhere)) == {
        "gcp_project": "demo",
        "gcp_auth_kind": "accesstoken",
        "gcp_service_account_file": "",
        "gcp_access_token": fleet.api.token,
        "gcp_zone": "europe-west1-c",
        "gcp_network": "default",
    }


def test_without_an_inventory_of_vms_the_environment_counts_and_nothing_asks_the_api(
    fleet: Fleet, asked: list[str]
) -> None:
    fleet.file = fleet.directory / "robots.yml"
    fleet.file.write_text(yaml.safe_dump(ROBOTS))
    fleet.login = {"GCP_PROJECT": "other"}
    found = variables(fleet.run(*asked))
    assert (found["gcp_project"], found["gcp_auth_kind"], found["gcp_zone"]) == ("other", "application", "")
    fleet.login = {}
    assert variables(fleet.run(*asked))["gcp_project"] == ""
    assert not fleet.api.requests
