"""Which engines and hosts the lab runs on, and how its machines are made there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
# What real engines said to Docker's client 28.2 (podman-docker: to podman in its place), shortened.
ENGINES = Path(__file__).parent / "engines"
DEFAULT = "unix:///var/run/docker.sock"


@dataclass
class Client:
    """A `docker` in front of PATH that says what another one said."""

    folder: Path

    def says(self, name: str, changes: Mapping[str, Any] | None = None, endpoint: str = "", platform: str = "") -> None:
        said = json.loads((ENGINES / f"{name}.json").read_text())
        said["info"].update(changes or {})
        if endpoint:
            said["context inspect"][0]["Endpoints"]["docker"]["Host"] = endpoint
        if platform:
            said["version"]["Server"]["Platform"]["Name"] = platform
        for command, answer in said.items():
            (self.folder / command.split()[0]).write_text(json.dumps(answer))

    def run(self, *command: str, docker_host: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        env.pop("DOCKER_HOST", None)
        if docker_host:
            env["DOCKER_HOST"] = docker_host
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)

    def judged(self, docker_host: str = "") -> tuple[int, str]:
        done = self.run(sys.executable, str(TOP / "lab/engine.py"), docker_host=docker_host)
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.fixture
def client(tmp_path: Path) -> Client:
    folder = tmp_path / "bin"
    folder.mkdir()
    docker = folder / "docker"
    # The last word of what it says on stderr is the answer to a command that fails.
    docker.write_text(
        f'#!/bin/sh\n[ -e {folder}/error ] && cat {folder}/error >&2\n[ "$1" = ps ] || cat "{folder}/$1"\n'
    )
    docker.chmod(0o755)
    return Client(folder)


def refused(client: Client, *words: str, docker_host: str = "") -> None:
    """It ends with 1 and one line, which says what is wrong and what to do."""
    status, line = client.judged(docker_host)
    assert status == 1
    assert line.count("\n") == 1
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", ["docker-20.10", "docker-26.1", "docker-28.5"])
def test_a_plain_engine_can_carry_the_lab(client: Client, name: str) -> None:
    client.says(name)
    version = json.loads((ENGINES / f"{name}.json").read_text())["info"]["ServerVersion"]
    assert client.judged() == (0, f"Docker {version}, cgroup v1\n")


def test_a_hosted_runner_can_carry_the_lab(client: Client) -> None:
    """Ubuntu 24.04 with Docker's own packages: cgroup v2 by systemd, AppArmor on."""
    changes = {
        "ServerVersion": "28.0.4",
        "OperatingSystem": "Ubuntu 24.04.3 LTS",
        "KernelVersion": "6.11.0-1018-azure",
        "CgroupDriver": "systemd",
        "CgroupVersion": "2",
        "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    }
    client.says("docker-28.5", changes, platform="Docker Engine - Community")
    assert client.judged() == (0, "Docker 28.0.4, cgroup v2\n")


@pytest.mark.parametrize("name", ["podman-4.3", "podman-5.4", "podman-docker-4.3"])
def test_podman_is_told_from_docker(client: Client, name: str) -> None:
    client.says(name)
    refused(client, "podman", "plain Docker Engine", docker_host="unix:///run/podman/podman.sock")


def test_a_rootless_engine_is_refused(client: Client) -> None:
    client.says("docker-20.10-rootless")
    refused(client, "rootless", "plain Docker Engine")


def test_a_rootless_engine_is_refused_even_where_it_limits_memory(client: Client) -> None:
    """As on cgroup v2, where systemd delegates the controllers."""
    options = ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]
    client.says("docker-28.5", {"CgroupVersion": "2", "CgroupDriver": "systemd", "SecurityOptions": options})
    refused(client, "rootless", "plain Docker Engine")


def test_an_engine_that_maps_users_is_refused(client: Client) -> None:
    client.says("docker-20.10-userns-remap")
    refused(client, "userns-remap", "/etc/docker/daemon.json")


@pytest.mark.parametrize(
    ("changes", "platform"),
    [
        ({"OperatingSystem": "Docker Desktop", "KernelVersion": "6.10.0-linuxkit"}, "Docker Desktop 4.33.0 (160616)"),
        # In a distribution of WSL 2, whose kernel is that of the engine.
        ({"OperatingSystem": "Docker Desktop", "KernelVersion": "5.10.102.1-microsoft-standard-WSL2"}, ""),
    ],
)
def test_docker_desktop_is_refused_however_it_is_reached(
    client: Client, changes: dict[str, str], platform: str
) -> None:
    client.says("docker-28.5", changes, endpoint="unix:///home/user/.docker/desktop/docker.sock", platform=platform)
    refused(client, "Docker Desktop", "docker context use default")


def test_windows_containers_are_refused(client: Client) -> None:
    client.says("docker-28.5", {"OSType": "windows", "OperatingSystem": "Windows Server 2022", "CgroupVersion": ""})
    refused(client, "windows containers")


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:2375", "ssh://user@build-1", "tcp://127.0.0.1:2375"])
def test_an_engine_elsewhere_is_refused_before_it_is_asked_anything(client: Client, endpoint: str) -> None:
    client.says("docker-28.5", endpoint=endpoint)
    (client.folder / "info").unlink()
    refused(client, endpoint, "ports", "DOCKER_HOST unset", docker_host=endpoint)


def test_the_engine_of_a_context_is_refused_as_ansible_would_ask_another(client: Client) -> None:
    endpoint = "unix:///run/other.sock"
    client.says("docker-28.5", endpoint=endpoint)
    refused(client, f"export DOCKER_HOST={endpoint}")
    assert client.judged(docker_host=endpoint)[0] == 0


@pytest.mark.parametrize("version", ["19.03.15", "18.09.1-ce", "20.9.0"])
def test_an_old_engine_is_refused(client: Client, version: str) -> None:
    client.says("docker-20.10", {"ServerVersion": version})
    refused(client, f"Docker {version}", "20.10 or newer")


def test_an_engine_without_limits_is_refused(client: Client) -> None:
    """As on a Raspberry Pi, whose kernel comes with the memory controller off."""
    client.says("docker-20.10", {"MemoryLimit": False, "Warnings": ["WARNING: No memory limit support"]})
    refused(client, "no memory limits", "cgroup_enable=memory")
    client.says("docker-20.10", {"CpuCfsQuota": False})
    refused(client, "no cpu limits")


# Docker's clients up to 26 end with 0 where nothing answers, and 20.10 leaves out what the engine would have said.
@pytest.mark.parametrize("info", [{}, {"ServerVersion": "", "OSType": "", "MemoryLimit": False}])
def test_an_engine_that_does_not_answer_may_be_started(client: Client, info: dict[str, Any]) -> None:
    client.says("docker-28.5")
    (client.folder / "info").write_text(
        json.dumps({**info, "ServerErrors": [f"Cannot connect to the Docker daemon at {DEFAULT}. Is the …?"]})
    )
    status, line = client.judged()
    assert (status, line.count("\n")) == (3, 1)
    assert "sudo systemctl start docker" in line


def test_an_engine_elsewhere_on_this_machine_is_not_ours_to_start(client: Client) -> None:
    client.says("docker-28.5", endpoint="unix:///run/other.sock")
    (client.folder / "info").write_text("")
    (client.folder / "error").write_text("Cannot connect to the Docker daemon at unix:///run/other.sock.\n")
    refused(client, "no engine answers at unix:///run/other.sock", docker_host="unix:///run/other.sock")


def test_an_error_of_docker_is_shown(client: Client) -> None:
    client.says("docker-28.5")
    (client.folder / "info").write_text("")
    (client.folder / "error").write_text("client version 1.41 is too old. Minimum supported API version is 1.44\n")
    refused(client, "client version 1.41 is too old")


def test_what_is_refused_is_said_in_one_line_before_anything_starts(client: Client) -> None:
    client.says("podman-5.4")
    done = client.run(str(TOP / "lab/engine.sh"), "start")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("engine: it is podman")
    assert done.stderr.count("\n") == 1


def test_only_an_engine_is_stopped_and_not_who_has_its_number_now(client: Client, tmp_path: Path) -> None:
    """A reboot leaves the file behind, and gives the number to another process."""
    (tmp_path / "lab").mkdir()
    (tmp_path / ".lab").mkdir()
    script = tmp_path / "lab" / "engine.sh"
    script.write_text((TOP / "lab/engine.sh").read_text())
    with subprocess.Popen(["sleep", "60"]) as process:
        (tmp_path / ".lab" / "dockerd.pid").write_text(f"{process.pid}\n")
        done = client.run("bash", str(script), "stop")
        alive = process.poll() is None
        process.kill()
    assert (done.returncode, alive) == (0, True)
    assert not (tmp_path / ".lab" / "dockerd.pid").exists()


Machine = dict[str, Any]


@dataclass(frozen=True)
class Host:
    """What decides on a machine's options: where the lab runs."""

    cgroup: str
    ipv6: bool = True
    cpus: int = 4


V1, V2 = Host("1"), Host("2")
HOSTS = [V1, V2, Host("1", ipv6=False), Host("2", ipv6=False), Host("2", cpus=1), Host("2", cpus=2)]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[Host, dict[str, Machine]]:
    """The demo's machines by host and name, as the task of playbooks/lab/create.yml decides."""
    folder = tmp_path_factory.mktemp("lab")
    made = yaml.safe_load((TOP / "playbooks/lab/create.yml").read_text())[0]["tasks"]
    (decide,) = [task for task in made if "lab_machines" in task.get("ansible.builtin.set_fact", {})]
    tasks: list[dict[str, Any]] = []
    for number, host in enumerate(HOSTS):
        found = {"host_info": {"CgroupVersion": host.cgroup, "NCPU": host.cpus}}
        tasks += [
            {**decide, "vars": {"lab_ipv6": host.ipv6, "lab_engine": found}},
            {"ansible.builtin.copy": {"content": "{{ lab_machines | to_json }}", "dest": f"{folder}/{number}.json"}},
        ]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": str(TOP / "playbooks/lab/vars.yml"),
        "tasks": tasks,
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    given = ["-i", "localhost,", "-e", f"lab_dir={TOP}/lab lab_name=demo"]
    done = ansible_runs.run("ansible-playbook", *given, folder / "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        host: {machine["host"]: machine for machine in json.loads((folder / f"{number}.json").read_text())}
        for number, host in enumerate(HOSTS)
    }


def options(machine: Machine) -> list[tuple[str, str]]:
    """What stands before the image, by pairs; --cgroupns=host as one, too."""
    argv = machine["argv"]
    before = argv[: argv.index(f"roverwatch-lab/{machine['suite']}:{machine['image']}")]
    found, words = [], iter(before)
    for word in words:
        name, equals, value = word.partition("=")
        found.append((name, value) if equals and name.startswith("--") else (word, next(words)))
    return found


def init(machine: Machine) -> list[str]:
    argv: list[str] = machine["argv"]
    return argv[argv.index(f"roverwatch-lab/{machine['suite']}:{machine['image']}") + 1 :]


Machines = dict[Host, dict[str, Machine]]


@pytest.mark.parametrize("host", HOSTS)
def test_every_machine_has_the_rights_of_a_system_without_being_privileged(machines: Machines, host: Host) -> None:
    """Privileged containers fail where the engine itself lacks CAP_SYS_RESOURCE, and see the host's devices."""
    for machine in machines[host].values():
        found = options(machine)
        assert "--privileged" not in machine["argv"]
        assert ("--cap-add", "ALL") in found
        assert ("--cap-drop", "SYS_RESOURCE") in found
        # AppArmor's profile of Docker forbids the mounts of systemd and podman; podman writes to /proc/sys.
        assert {value for name, value in found if name == "--security-opt"} == {
            "apparmor=unconfined",
            "seccomp=unconfined",
            "systempaths=unconfined",
        }
        # Overlay on overlay does not mount.
        assert {value for name, value in found if name == "--volume"} >= {"/var/lib/containers", "/var/lib/docker"}
        # The robots are for this machine alone.
        assert all(value.startswith("127.0.0.1::") for name, value in found if name == "--publish")


def test_on_a_v1_host_systemd_inside_gets_the_hosts_cgroups(machines: Machines) -> None:
    for machine in machines[V1].values():
        found = options(machine)
        assert ("--cgroupns", "host") in found
        assert ("--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw") in found
        # Without it, crun of Debian 13 cannot write devices.allow.
        assert ("--device-cgroup-rule", "a *:* rwm") in found
        assert init(machine)[:4] == ["sh", "-c", 'mount --make-rshared / && exec /sbin/init "$@"', "init"]


def test_on_a_v1_host_debian_13_is_told_twice_that_this_is_wanted(machines: Machines) -> None:
    arguments = {name: init(machine)[4:] for name, machine in machines[V1].items()}
    legacy = ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "systemd.unified_cgroup_hierarchy=0"]
    assert arguments == {"robot-1": [], "robot-2": legacy, "robot-3": [], "hub-1": []}


def test_on_a_v2_host_a_machine_has_cgroups_of_its_own(machines: Machines) -> None:
    """The host's, as v1 needs them, would let systemd inside take those of the host's systemd for its own."""
    assert {machine["suite"] for machine in machines[V2].values()} == {"bookworm", "trixie"}
    for machine in machines[V2].values():
        found = options(machine)
        assert ("--cgroupns", "private") in found
        assert not [value for _, value in found if "/sys/fs/cgroup" in value]
        assert "--device-cgroup-rule" not in machine["argv"]
        # crun loads a device filter, for which it needs locked memory.
        assert ("--ulimit", "memlock=-1:-1") in found
        # Docker mounts them read-only. Debian 13 gets no arguments for v1.
        prepare = "mount --make-rshared / && mount -o remount,rw /sys/fs/cgroup"
        assert init(machine) == ["sh", "-c", f'{prepare} && exec /sbin/init "$@"', "init"]


@pytest.mark.parametrize("cgroup", ["1", "2"])
def test_ipv6_is_set_only_where_the_kernel_has_it(machines: Machines, cgroup: str) -> None:
    """Without IPv6 there is no such setting, and Docker starts no container that asks for it."""
    wanted = {"net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0"}
    for host, settings in ((Host(cgroup), wanted), (Host(cgroup, ipv6=False), set())):
        for machine in machines[host].values():
            assert {value for name, value in options(machine) if name == "--sysctl"} == settings


def test_only_a_hub_publishes_a_gateway(machines: Machines) -> None:
    for name, machine in machines[V2].items():
        ports = ["127.0.0.1::22", "127.0.0.1::8427"] if name == "hub-1" else ["127.0.0.1::22"]
        assert [value for option, value in options(machine) if option == "--publish"] == ports


@pytest.mark.parametrize(("cpus", "expected"), [(1, "1"), (2, "2"), (4, "2")])
def test_a_machine_gets_no_more_processors_than_the_host_has(machines: Machines, cpus: int, expected: str) -> None:
    """Docker refuses to make a container with more."""
    for machine in machines[Host("2", cpus=cpus)].values():
        assert ("--cpus", expected) in options(machine)


def test_another_kind_of_host_makes_the_machines_anew(machines: Machines) -> None:
    assert len({machines[host]["robot-1"]["recipe"] for host in (V1, V2, Host("1", ipv6=False))}) == 3


def test_more_machines_than_the_kernel_can_bear_are_refused_before_one_is_made(tmp_path: Path) -> None:
    """A machine without an inotify instance left starts half of its services, and says nothing."""
    (check,) = [
        task
        for task in yaml.safe_load((TOP / "playbooks/lab/create.yml").read_text())[0]["tasks"]
        if "ansible.builtin.assert" in task
    ]
    file = tmp_path / "max_user_instances"
    file.write_text("128\n")
    check["vars"]["lab_inotify"] = str(file)
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [check]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))

    def made(machines: int) -> subprocess.CompletedProcess[str]:
        given = json.dumps({"lab_hosts": ["one"] * machines})
        return ansible_runs.run("ansible-playbook", "-i", "localhost,", "-e", given, tmp_path / "play.yml")

    assert made(9).returncode == 0, "ROBOTS=8 and a hub"
    too_many = made(12)
    assert too_many.returncode != 0
    assert "12 machines may need more than the 128 inotify instances" in too_many.stdout
    assert "sudo sysctl fs.inotify.max_user_instances=1024" in too_many.stdout


def test_the_inventory_asks_the_engine_that_docker_asks(tmp_path: Path) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    done = ansible_runs.run("ansible-inventory", "-i", "inventory/lab.docker.yml", "--list", environment=environment)
    assert done.returncode != 0
    assert "Error connecting" in done.stderr
