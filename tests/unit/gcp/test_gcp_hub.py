"""A hub's VM in Google Cloud: made once, never made again, and taken away without its history.

The plan is tested by itself; the role and the two playbooks with google.cloud's own modules, against a fake of the API.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp import vm as gcp_hub
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp.vm import Hub
from compute_api.instances import HOST_KEY, boot, instances, metadata_of, put_vm
from compute_api.resources import Api, Json

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "roles" / "gcp_hub" / "files" / "data-disk.sh"
PUBLIC_KEY = f"ssh-ed25519 {HOST_KEY} ops@controller"
ADDRESS = "projects/demo/regions/europe-west1/addresses/hub-1"
DISK = "projects/demo/zones/europe-west1-b/disks/hub-1-data"
VM = "projects/demo/zones/europe-west1-b/instances/hub-1"

# --- what is asked for ----------------------------------------------------------------------------------------

HUB = Hub("demo", "europe-west1-b", "hub-1", "e2-medium", 50, "lyon", "pickers", "ops", PUBLIC_KEY, "#!/bin/sh")


def test_a_hub_as_it_should_be_has_no_problem() -> None:
    assert gcp_hub.problems(HUB) == []
    assert gcp_hub.problems(replace(HUB, site="", fleet="", ssh_public_key="sk-ssh-ed25519@openssh.com AAAA")) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"project": ""}, "gcp_project is empty: name the project in inventory/gcp_compute.yml"),
        ({"zone": ""}, "gcp_zone is ''"),
        ({"zone": "europe-west1"}, "gcp_zone is 'europe-west1'"),
        ({"name": "Hub-1"}, "gcp_hub_name is 'Hub-1'"),
        ({"name": "h" * 59}, "gcp_hub_name is"),
        ({"name": "hub-"}, "gcp_hub_name is 'hub-'"),
        ({"site": "Lyon"}, "gcp_hub_site is 'Lyon'"),
        ({"fleet": "a.b"}, "gcp_hub_fleet is 'a.b'"),
        ({"disk_gb": 9}, "gcp_hub_disk_gb is 9"),
        ({"ssh_user": "me:root"}, "gcp_hub_ssh_user is 'me:root'"),
        ({"ssh_public_key": ""}, "gcp_hub_ssh_public_key is no file of one public key"),
        ({"ssh_public_key": f"{PUBLIC_KEY}\nroot:{PUBLIC_KEY}"}, "gcp_hub_ssh_public_key is no file of one public key"),
        ({"ssh_public_key": "-----BEGIN OPENSSH PRIVATE " + "KEY-----"}, "is a private key, which stays with you"),
    ],
)
def test_what_is_wrong_is_said_with_its_variable(change: dict[str, Any], says: str) -> None:
    problems = gcp_hub.problems(replace(HUB, **change))
    assert len(problems) == 1
    assert says in problems[0]


# --- what is there --------------------------------------------------------------------------------------------

Found = dict[str, Json | None]


def found() -> Found:
    """All of it, as it was made."""
    link = "https://www.googleapis.com/compute/v1/"
    return {
        "address": {"address": "203.0.113.9", "description": HUB.description, "users": [link + VM]},
        "disk": {"sizeGb": "50", "description": HUB.description, "users": [link + VM]},
        "instance": {
            "status": "RUNNING",
            "labels": dict(HUB.labels),
            "machineType": link + "projects/demo/zones/europe-west1-b/machineTypes/e2-medium",
            "disks": [
                {"boot": True, "autoDelete": True, "source": link + "projects/demo/zones/europe-west1-b/disks/hub-1"},
                {"deviceName": "roverwatch", "autoDelete": False, "source": link + DISK},
            ],
            "networkInterfaces": [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "203.0.113.9"}]}],
            "metadata": {"items": [{"key": key, "value": value} for key, value in HUB.metadata.items()]},
            "tags": {"items": ["roverwatch-hub"]},
        },
    }


NOTHING: Found = {"address": None, "disk": None, "instance": None}


def test_what_is_missing_is_made_in_the_order_in_which_it_is_needed() -> None:
    assert gcp_hub.missing(NOTHING) == ["address", "disk", "instance"]
    assert gcp_hub.missing(found() | {"instance": None}) == ["instance"]
    assert gcp_hub.missing(found()) == []


def test_what_is_as_asked_for_is_left_without_a_word() -> None:
    assert gcp_hub.differences(HUB, found()) == []
    assert gcp_hub.strangers(HUB, found()) == []
    assert gcp_hub.will_tell(HUB, found())


def vm(change: Callable[[Json], object]) -> Callable[[Found], object]:
    return lambda there: change(there["instance"] or {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda there: there["disk"].update(sizeGb="20"), "disks resize hub-1-data --size 50 --project demo"),
        (lambda there: there["disk"].update(sizeGb="100"), "a disk cannot shrink, so set gcp_hub_disk_gb: 100"),
        (vm(lambda it: it.update(status="TERMINATED")), "the VM is TERMINATED: gcloud compute instances start hub-1"),
        (vm(lambda it: it.update(machineType="x/e2-small")), "the VM is of type e2-small"),
        (vm(lambda it: it["disks"].pop()), "is not attached as roverwatch"),
        (vm(lambda it: it["disks"][1].update(deviceName="disk-1")), "is not attached as roverwatch"),
        (vm(lambda it: it["disks"][1].update(autoDelete=True)), "set-disk-auto-delete hub-1 --no-auto-delete"),
        (
            vm(lambda it: it["networkInterfaces"][0].pop("accessConfigs")),
            "the VM has the address none, not 203.0.113.",
        ),
        (vm(lambda it: it["tags"].update(items=["http-server"])), "add-tags hub-1"),
        (vm(lambda it: it["labels"].update(site="hamburg")), "--labels site=lyon"),
        (vm(lambda it: it["metadata"]["items"].pop(0)), "the VM's metadata startup-script is not what"),
    ],
)
def test_each_difference_is_said_with_the_command_for_it(change: Callable[[Found], object], says: str) -> None:
    there = found()
    change(there)
    (line,) = gcp_hub.differences(HUB, there)
    assert says in line
    assert gcp_hub.missing(there) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (vm(lambda it: it["labels"].pop("roverwatch")), "the VM hub-1 of demo is no hub"),
        (lambda there: there["address"].update(description="a website"), "the address hub-1 of demo was not made for"),
        (lambda there: there["disk"].pop("description"), "the data disk hub-1-data of demo was not made for"),
        (lambda there: there["disk"].update(users=[".../instances/hub-2"]), "hub-1-data of demo is in use by hub-2"),
    ],
)
def test_what_is_not_ours_is_neither_used_nor_removed(change: Callable[[Found], object], says: str) -> None:
    there = found()
    change(there)
    for lines in (gcp_hub.strangers(HUB, there), gcp_hub.in_the_way(HUB, there, with_disk=True)):
        assert [says in line for line in lines] == [True]


def test_the_history_goes_only_if_it_is_said() -> None:
    assert gcp_hub.removable(found(), with_disk=False) == ["instance", "address"]
    assert gcp_hub.removable(found(), with_disk=True) == ["instance", "disk", "address"]
    assert gcp_hub.removable(NOTHING, with_disk=True) == []
    there = found()
    vm(lambda it: it["disks"][1].update(autoDelete=True))(there)
    (line,) = gcp_hub.in_the_way(HUB, there, with_disk=False)
    assert "hub-1-data would go with the VM. To keep it: gcloud compute instances set-disk-auto-delete" in line
    assert gcp_hub.in_the_way(HUB, there, with_disk=True) == []


def test_a_vm_that_is_protected_is_not_removed() -> None:
    there = found()
    vm(lambda it: it.update(deletionProtection=True))(there)
    assert "--no-deletion-protection" in gcp_hub.in_the_way(HUB, there, with_disk=True)[0]


def test_only_a_vm_that_runs_our_script_is_waited_for() -> None:
    assert gcp_hub.will_tell(HUB, NOTHING)
    for change in (
        vm(lambda it: it.update(status="TERMINATED")),
        vm(lambda it: it["metadata"]["items"].pop(0)),
        vm(lambda it: it["metadata"]["items"].pop()),
    ):
        there = found()
        change(there)
        assert not gcp_hub.will_tell(HUB, there)


def test_the_newest_kind_of_host_key_is_taken() -> None:
    keys = {"ssh-rsa": "R", "ssh-ed25519": "E", "ecdsa-sha2-nistp256": "C"}
    assert gcp_hub.host_key(keys) == "ssh-ed25519 E"
    assert gcp_hub.host_key({"ssh-rsa": "R"}) == "ssh-rsa R"
    assert gcp_hub.host_key({}) == ""


# --- the disk -------------------------------------------------------------------------------------------------


class Machine:
    """Where the VM's startup script runs: a file for a disk, real file systems, and no mount."""

    def __init__(self, directory: Path) -> None:
        self.disk, self.folder, self.fstab = directory / "disk", directory / "folder", directory / "fstab"
        self.said, self.calls, programs = directory / "said", directory / "calls", directory / "programs"
        self.fstab.write_text("UUID=1 / ext4 defaults 0 1\n")
        self.calls.touch()
        with self.disk.open("wb") as file:
            file.truncate(8 << 20)
        programs.mkdir()
        mounted = directory / "mounted"
        for name, does in {
            "curl": f'for one; do [ "$before" = --data ] && echo "$one" >>{self.said}; before=$one; done; true',
            "mountpoint": f"[ -e {mounted} ]",
            "mount": f"dumpe2fs -h {self.disk} >/dev/null 2>&1 && touch {mounted}",
            "chattr": "true",
            "systemctl": "true",
            "sleep": "true",
        }.items():
            (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{self.calls}\nbefore=\n{does}\n')
            (programs / name).chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"
        text = SCRIPT.read_text().replace("/dev/disk/by-id/google-roverwatch", str(self.disk))
        self.script = text.replace("/var/lib/roverwatch", str(self.folder)).replace("/etc/fstab", str(self.fstab))

    def start(self) -> str:
        """What the script says to the controller."""
        self.said.write_text("")
        subprocess.run(["sh", "-c", self.script], env={"PATH": self.path}, capture_output=True, check=False)
        return self.said.read_text().rstrip("\n")

    def file_system(self) -> str:
        """The UUID and the blocks of what is on the disk."""
        done = subprocess.run(
            ["dumpe2fs", "-h", self.disk], env={"PATH": self.path}, capture_output=True, text=True, check=False
        )
        return " ".join(re.findall(r"(?m)^(?:Filesystem UUID|Block count): +(\S+)", done.stdout))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    for program in ("mkfs.ext4", "dumpe2fs", "resize2fs"):
        if not shutil.which(program, path=machine.path):
            pytest.skip(f"this machine has no {program}: install e2fsprogs")
    return machine


def test_an_empty_disk_gets_a_file_system_once_and_a_line_in_fstab_once(machine: Machine) -> None:
    assert machine.start() == "ready"
    made = machine.file_system()
    assert made
    lines = machine.fstab.read_text()
    assert lines.count("\n") == 2
    assert f"{machine.disk} {machine.folder} ext4 discard,nofail," in lines
    # The empty folder below the mount is closed before the mount, or whatever is written there in between is lost.
    assert [call.split()[0] for call in machine.calls.read_text().splitlines()] == [
        "mountpoint",
        "chattr",
        "systemctl",
        "mount",
        "curl",
    ]
    assert machine.start() == "ready"
    assert machine.file_system() == made
    assert machine.fstab.read_text() == lines
    assert machine.calls.read_text().count("\nmount ") == 1


def test_a_disk_of_the_hub_before_keeps_what_is_on_it_and_grows(machine: Machine) -> None:
    subprocess.run(["mkfs.ext4", "-q", machine.disk], env={"PATH": machine.path}, check=True)
    uuid, blocks = machine.file_system().split()
    with machine.disk.open("r+b") as file:
        file.truncate(16 << 20)
    assert machine.start() == "ready"
    assert machine.file_system().split()[0] == uuid
    assert int(machine.file_system().split()[1]) == 2 * int(blocks)


@pytest.mark.parametrize("offset", [0, 512, 1024, 65600, 1048575], ids=["xfs", "partitions", "ext4", "btrfs", "last"])
def test_a_disk_with_anything_on_it_is_not_touched(machine: Machine, offset: int) -> None:
    with machine.disk.open("r+b") as file:
        file.seek(offset)
        file.write(b"\1")
    before = machine.disk.read_bytes()
    assert machine.start() == f"failed: {machine.disk} could not be mounted on {machine.folder}: is it ext4?"
    assert machine.disk.read_bytes() == before


def test_a_disk_that_is_not_there_is_said(machine: Machine) -> None:
    machine.disk.unlink()
    assert machine.start() == f"failed: {machine.disk} is not there"


def test_files_that_the_mount_would_hide_are_said_and_left(machine: Machine) -> None:
    machine.folder.mkdir()
    (machine.folder / "history").touch()
    assert machine.start().startswith(f"failed: {machine.folder} has files on the disk of the system")
    assert "mount " not in machine.calls.read_text().replace("mountpoint", "")


# --- the role and the playbooks -------------------------------------------------------------------------------


# The role gcp_firewall takes seconds for each rule, and has tests of its own.
ONE_RULE = '{"firewall_rules": [{"name": "gateway", "groups": ["hubs"], "ports": [8427], "sources": []}]}'


class Operator:
    """Runs the playbooks with the inventory of this repository, and a hub that is named."""

    def __init__(self, api: Api) -> None:
        self.api = api
        directory = api.directory / "inventory"
        directory.mkdir()
        (directory / "group_vars").symlink_to(ROOT / "group_vars")
        self.inventory = directory / "gcp_compute.yml"
        text = (ROOT / "inventory" / "gcp_compute.yml").read_text()
        self.inventory.write_text(
            text.replace("my-project", "demo").replace("auth_kind: application", "auth_kind: accesstoken")
        )
        self.with_rules = False
        self.role = api.directory / "role.yml"
        interpreter = "ansible_python_interpreter: '{{ ansible_playbook_python }}'"
        self.role.write_text(
            f"[{{hosts: localhost, connection: local, gather_facts: false, vars: {{{interpreter}}}, roles: [gcp_hub]}}]"
        )
        self.known_hosts = api.directory / "known_hosts"
        key = api.directory / "key.pub"
        key.write_text(PUBLIC_KEY + "\n")
        self.variables = {
            "gcp_hub_name": "hub-1",
            "gcp_zone": "europe-west1-b",
            "gcp_hub_ssh_public_key": str(key),
            "gcp_known_hosts": str(self.known_hosts),
        }

    def __call__(self, playbook: str | Path, *arguments: str, **variables: str) -> tuple[int, str]:
        """How it ended, and all that was printed. What was asked and written before is forgotten."""
        self.api.requests.clear()
        file = playbook if isinstance(playbook, Path) else ROOT / "playbooks" / f"{playbook}.yml"
        given = [f"-e{name}={value}" for name, value in (self.variables | variables).items()]
        if not self.with_rules:
            given.append(f"-e{ONE_RULE}")
        environment = self.api.environment | {"GCP_ACCESS_TOKEN": self.api.token}
        command = ["ansible-playbook", "-i", self.inventory, file, *given, *arguments]
        done = ansible_runs.run(*command, environment=environment)
        assert self.api.token not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def written(self) -> list[str]:
        """What was written of VMs, disks and addresses."""
        writes = [f"{one.method} {one.path.partition('/')[2].partition('/')[2]}" for one in self.api.writes]
        return [line for line in writes if "firewalls" not in line]


@pytest.fixture
def operator(compute_api: Api) -> Operator:
    return Operator(compute_api)


MADE = [
    "POST regions/europe-west1/addresses",
    "POST zones/europe-west1-b/disks",
    "POST zones/europe-west1-b/instances",
]


def test_a_hub_is_made_once_with_all_that_it_needs(operator: Operator) -> None:
    api = operator.api
    instances(api).boots_slowly = 1
    operator.with_rules = True

    rc, output = operator("gcp", "--check", "--diff")
    assert rc == 0, output
    assert not api.writes
    for line in ("address hub-1", "data disk hub-1-data", "VM hub-1"):
        assert f"would make the {line} in demo" in output
        assert f"+make the {line}" in output
    assert not operator.known_hosts.exists()

    rc, output = operator("gcp", "-vvv", site="lyon")
    assert rc == 0, output
    assert operator.written() == MADE
    assert "hub-1 starts; waiting until its data disk is mounted" in output
    vm, disk, address = api.store[VM], api.store[DISK], api.store[ADDRESS]
    assert vm["status"] == "RUNNING"
    assert vm["labels"] == {"roverwatch": "hub", "site": "lyon"}
    assert vm["machineType"].endswith("/e2-medium")
    assert vm["tags"]["items"] == ["roverwatch-hub"]
    assert vm["networkInterfaces"][0]["accessConfigs"][0]["natIP"] == address["address"]
    assert "serviceAccounts" not in vm
    assert set(vm["shieldedInstanceConfig"].values()) == {True}
    assert metadata_of(vm) == {
        "startup-script": SCRIPT.read_text().rstrip("\n"),
        "ssh-keys": f"ops:{PUBLIC_KEY}",
        "block-project-ssh-keys": "TRUE",
        "enable-oslogin": "FALSE",
        "enable-guest-attributes": "TRUE",
    }
    first, second = vm["disks"]
    assert first["boot"]
    assert first["autoDelete"]
    assert "debian-12" in first["licenses"][0]
    assert (second["deviceName"], second["autoDelete"], second["source"]) == ("roverwatch", False, disk["selfLink"])
    assert (disk["sizeGb"], disk["type"].rpartition("/")[2]) == ("50", "pd-balanced")
    assert operator.known_hosts.read_text() == f"{address['address']} ssh-ed25519 {HOST_KEY}\n"
    assert "playbooks/site.yml -u ops" in output
    assert any("/firewalls/" in path for path in api.store)

    before = copy.deepcopy(api.store)
    rc, output = operator("gcp", site="lyon")
    assert rc == 0, output
    assert not api.writes
    assert "changed=0" in output
    assert not re.search(r"changed=[1-9]", output)
    assert api.store == before

    # Asked for otherwise: said, and left alone.
    rc, output = operator("gcp", site="lyon", gcp_hub_machine_type="e2-standard-2", gcp_hub_disk_gb="100")
    assert rc == 0, output
    assert not api.writes
    words = " ".join(output.split())
    assert "is not as asked for, and was left alone: the data disk has 50 GB, gcp_hub_disk_gb is 100" in words
    assert "the VM is of type e2-medium, gcp_hub_machine_type is e2-standard-2" in words


def test_what_breaks_is_tried_again_or_said_and_the_next_run_makes_the_rest(operator: Operator) -> None:
    api = operator.api
    api.fail("GET", "*/addresses/hub-1", 503)
    api.fail("POST", "*/addresses", 429)
    api.deny("compute.disks.create")
    rc, output = operator(operator.role)
    assert rc != 0
    assert "The Compute API answers 503: The service is currently unavailable" in output
    assert "FAILED - RETRYING: [localhost]: Have the static address" in output
    assert f"Required 'compute.disks.create' permission for '{DISK}'" in output
    assert "roles/compute.instanceAdmin.v1" in output
    assert "RETRYING: [localhost]: Have the data disk" not in output
    address = api.store[ADDRESS]["address"]

    api._denied.clear()
    instances(api).boot = lambda vm: boot(vm) | {"roverwatch/disk": "failed: is it ext4?"}
    rc, output = operator(operator.role)
    assert rc != 0
    assert operator.written() == MADE[1:]
    assert "The data disk of hub-1 is not mounted, so nothing may be installed there:" in output
    assert "- failed: is it ext4?" in output

    instances(api).boot = boot
    rc, output = operator(operator.role)
    assert rc == 0, output
    assert operator.written() == []
    assert api.store[ADDRESS]["address"] == address


def test_a_way_back_that_keeps_the_history(operator: Operator) -> None:
    api = operator.api
    put_vm(api, "robot-1", labels={"roverwatch": "robot"})
    assert operator(operator.role)[0] == 0
    disk = api.store[DISK]["id"]
    other = f"203.0.113.200 ssh-ed25519 {HOST_KEY}\n"
    operator.known_hosts.write_text(f"{api.store[ADDRESS]['address']} ssh-ed25519 {HOST_KEY}\n{other}")

    rc, output = operator("gcp_remove")
    assert rc != 0
    assert "Not confirmed, nothing was removed" in output
    assert not api.writes

    rc, output = operator("gcp_remove", "--check")
    assert rc == 0, output
    assert not api.writes
    assert "would remove the VM hub-1 in demo" in output
    assert "would remove the address hub-1 in demo" in output
    assert "the data disk" not in output

    rc, output = operator("gcp_remove", gcp_remove_confirm="yes")
    assert rc == 0, output
    assert operator.written() == [
        "DELETE zones/europe-west1-b/instances/hub-1",
        "DELETE regions/europe-west1/addresses/hub-1",
    ]
    assert operator.known_hosts.read_text() == other
    left = {path for path in api.store if "/networks/" not in path}
    zone = "projects/demo/zones/europe-west1-b"
    assert left == {DISK, f"{zone}/instances/robot-1", f"{zone}/disks/robot-1"}

    # The next hub has the disk of the last one.
    assert operator(operator.role)[0] == 0
    assert operator.written() == [MADE[0], MADE[2]]
    assert api.store[DISK]["id"] == disk
    assert api.store[DISK]["users"] == [api.store[VM]["selfLink"]]

    rc, output = operator("gcp_remove", gcp_remove_confirm="yes", gcp_hub_remove_disk="true")
    assert rc == 0, output
    assert DISK not in api.store


def test_a_vm_of_somebody_else_is_refused_and_one_without_host_keys_is_a_warning(operator: Operator) -> None:
    put_vm(operator.api, "hub-1", labels={"team": "tools"})
    put_vm(operator.api, "robot-1", labels={"roverwatch": "robot"})
    for playbook, variables in (("gcp", {}), ("gcp_remove", {"gcp_remove_confirm": "yes"})):
        rc, output = operator(playbook, **variables)
        assert rc != 0
        assert "- the VM hub-1 of demo is no hub" in output
        assert not operator.api.writes

    rc, output = operator("gcp", gcp_hub_name="")
    assert rc == 0, output
    assert operator.written() == []
    assert "The SSH host keys of robot-1 are not known: it has not published them" in " ".join(output.split())


def test_a_login_that_is_wrong_and_a_zone_that_does_not_exist_say_what_to_set(operator: Operator) -> None:
    # The inventory is a list of hosts here, so that the role is what asks first.
    operator.inventory = operator.inventory.with_name("robots.yml")
    operator.inventory.write_text("robots: {hosts: {robot-9: {}}}\n")
    project = {"gcp_project": "demo", "gcp_auth_kind": "accesstoken"}
    rc, output = operator("gcp", **project, gcp_zone="europe-west9-z")
    assert rc != 0
    assert "'projects/demo/regions/europe-west9' was not found" in output
    assert "Is gcp_project (demo) right, and the zone (gcp_zone)?" in output

    operator.api.deny("compute.addresses.get")
    rc, output = operator("gcp", **project)
    assert f"Required 'compute.addresses.get' permission for '{ADDRESS}'" in output
    assert "role with this permission in project demo, such as roles/compute.instanceAdmin.v1" in output

    operator.api.tokens = {"another"}
    operator.api.environment["GCP_ACCESS_TOKEN"] = "ya29.of-yesterday"
    rc, output = operator("gcp", **project, gcp_access_token="ya29.of-yesterday")
    assert rc != 0
    assert "No login at Google Cloud with gcp_auth_kind accesstoken" in output
    assert "gcloud auth print-access-token" in output
