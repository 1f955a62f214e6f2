"""The places where a run writes are tried, on file systems of their own; nothing is left there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact import installed
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import places
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import requirements

ROOT = Path(__file__).resolve().parents[3]
MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")

TRY = """
import json, sys
sys.path.insert(0, "collections")
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import places
uid = int(sys.argv[2])
stage = {"path": sys.argv[1], "uid": uid, "gid": uid, "user": "nobody" if uid else "root"}
found = places._as_user(stage, lambda: places._tried(sys.argv[1], runs=True))
print(json.dumps(found))
"""


def tried(path: Path, *mounts: str, uid: int = 0) -> dict[str, Any]:
    """What is found of a directory, with these mounts, which are gone afterwards."""
    script = " && ".join([*mounts, 'exec "$0" "$@"'])
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, "-c", TRY, str(path), str(uid)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_root
def test_a_directory_that_is_read_only_or_full(tmp_path: Path) -> None:
    sound = tried(tmp_path)
    assert (sound["error"], sound["noexec"], sound["no_inodes"]) == ("", False, False)
    assert sound["free"] > MIB
    read_only = tried(tmp_path, f"mount --bind {tmp_path} {tmp_path}", f"mount -o remount,bind,ro {tmp_path}")
    assert read_only["error"] == "Read-only file system"
    full = f"dd if=/dev/zero of={tmp_path}/x bs=4k count=999 status=none || true"
    assert tried(tmp_path, f"mount -t tmpfs -o size=64k x {tmp_path}", full)["error"] == "No space left on device"
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_a_directory_from_which_nothing_starts_or_without_inodes(tmp_path: Path) -> None:
    small = tried(tmp_path, f"mount -t tmpfs -o size=4m,noexec,nr_inodes=1 x {tmp_path}")
    assert (small["noexec"], small["no_inodes"], small["free"]) == (True, True, 4 * MIB)


@needs_root
def test_what_is_not_there_yet_is_made_in_what_is(tmp_path: Path) -> None:
    found = tried(tmp_path / "a" / "b", f"mount -t tmpfs -o size=4m x {tmp_path}")
    assert (found["path"], found["free"]) == (str(tmp_path / "a" / "b"), 4 * MIB)
    (tmp_path / "file").write_text("")
    assert tried(tmp_path / "file" / "a")["error"] == ""


@needs_root
def test_the_user_who_logs_in_is_the_one_who_writes(tmp_path: Path) -> None:
    for directory in (tmp_path, *list(tmp_path.parents)[:-2]):
        directory.chmod(0o755)
    assert tried(tmp_path)["error"] == ""
    assert tried(tmp_path, uid=65534)["error"] == "Permission denied"
    tmp_path.chmod(0o777)
    assert tried(tmp_path, uid=65534)["error"] == ""


def test_nothing_is_left(tmp_path: Path) -> None:
    assert disk.refusal(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
    assert disk.refusal(tmp_path / "gone") == "No such file or directory"


def test_where_what_is_brought_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    root = {"path": "/root/.ansible/tmp", "uid": 0, "gid": 0, "user": "root"}
    assert places.staging("~/.ansible/tmp", "root") == root
    assert places.staging("~root/.ansible/tmp", "root") == root
    assert places.staging("/mnt/tmp", "root")["path"] == "/mnt/tmp"
    monkeypatch.setenv("SUDO_USER", "daemon")
    assert places.staging("~/.ansible/tmp", "root")["path"] == "/usr/sbin/.ansible/tmp"
    monkeypatch.setenv("SUDO_USER", "nobody-known")
    assert places.staging("~/.ansible/tmp", "")["uid"] == os.getuid()


def test_an_engines_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORAGE_CONF", "CONTAINERS_CONF", "DOCKER_CONF"):
        monkeypatch.setattr(places, name, tmp_path / name)
    assert places.engine_places("podman") == {"storage": "/var/lib/containers/storage", "temporary": "/var/tmp"}
    assert places.engine_places("docker") == {"storage": "/var/lib/docker", "temporary": "/var/lib/docker"}
    (tmp_path / "STORAGE_CONF").write_text('[storage]\n# graphroot = "/no"\ngraphroot = "/data/containers"\n')
    (tmp_path / "CONTAINERS_CONF").write_text('[engine]\n image_copy_tmp_dir="/data/tmp"\n')
    (tmp_path / "DOCKER_CONF").write_text('{"data-root": "/data/docker"}')
    assert places.engine_places("podman") == {"storage": "/data/containers", "temporary": "/data/tmp"}
    assert places.engine_places("docker")["storage"] == "/data/docker"
    (tmp_path / "DOCKER_CONF").write_text("{")
    assert places.engine_places("docker")["storage"] == "/var/lib/docker", "Docker itself says what is wrong"


ACCEPT = '[{"type": "insecureAcceptAnything"}]'
REJECT = '[{"type": "reject"}]'


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (f'{{"default": {ACCEPT}}}', ""),
        (f'{{"default": {REJECT}}}', "reject"),
        (f'{{"default": {REJECT}, "transports": {{"docker-archive": {{"": {ACCEPT}}}}}}}', ""),
        (f'{{"default": {ACCEPT}, "transports": {{"docker-archive": {{"": [{{"type": "signedBy"}}]}}}}}}', "signedBy"),
        (f'{{"default": {ACCEPT}, "transports": {{"docker": {{"": {REJECT}}}}}}}', ""),
        ("", "it is no policy"),
        ("[]", "it is no policy"),
        (None, "it is not there"),
    ],
)
def test_a_policy_that_lets_no_image_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str | None, says: str
) -> None:
    (tmp_path / "podman").touch(mode=0o755)
    monkeypatch.setattr(places, "SEARCHED", str(tmp_path))
    monkeypatch.setattr(places, "POLICY", tmp_path / "policy.json")
    if policy is not None:
        (tmp_path / "policy.json").write_text(policy)
    assert places.policy("podman") == says
    assert places.policy("docker") == places.policy(None) == ""
    problems = requirements.image_policy(says)
    assert len(problems) == bool(says)
    assert all(f"policy.json: {says}. " in problem and ACCEPT in problem for problem in problems)
    (tmp_path / "podman").unlink()
    assert places.policy("podman") == "", "its package brings one"


def test_an_artifact_that_is_there_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "ROOT", tmp_path / "opt")
    monkeypatch.setattr(places, "engine_places", lambda engine: {"storage": str(tmp_path / engine), "temporary": "/"})
    for name, record in {
        "tool": {},
        "gone": {},
        "sensor": {"image_id": "sha256:1"},
        "old": {"image_id": "sha256:2"},
    }.items():
        directory = tmp_path / "opt" / name / "1.0"
        directory.mkdir(parents=True)
        (directory / "installed.json").write_text(json.dumps({"sha256": name, **record}))
    (tmp_path / "opt" / "tool" / "1.0" / "tool").write_text("")
    (tmp_path / "podman" / "overlay-images").mkdir(parents=True)
    (tmp_path / "podman" / "overlay-images" / "images.json").write_text('[{"id": "1"}]')
    docker = tmp_path / "docker" / "image" / "overlay2" / "imagedb" / "content" / "sha256"
    docker.mkdir(parents=True)
    (docker / "2").write_text("")
    names = {engine: sorted(one["name"] for one in places.here(engine)) for engine in ("podman", "docker", None)}
    assert names == {"podman": ["sensor", "tool"], "docker": ["old", "tool"], None: ["tool"]}
    (tmp_path / "podman" / "overlay-images" / "images.json").write_text("")
    assert [one["name"] for one in places.here("podman")] == ["tool"]


@pytest.mark.parametrize(("programs", "due"), [([], False), (["sh"], False), (["sh", "no-such-engine"], True)])
def test_where_a_package_goes_is_tried_only_if_one_is_due(programs: list[str], due: bool) -> None:
    assert ("packages" in places.tried(None, programs, places.staging("/tmp", "root"))) == due


def test_devices_that_are_not_there(tmp_path: Path) -> None:
    listed = ["/dev/null", "/dev/null:/dev/x:r", f"{tmp_path}/ttyUSB0", f"{tmp_path}/ttyUSB1:/dev/ttyUSB0"]
    assert places.missing_devices(listed) == listed[2:]


# --- what is said of it

NEEDS = {"/opt/roverwatch": 30 * MIB, "staging": 90 * MIB, "storage": 60 * MIB, "temporary": 60 * MIB}


def place(path: str, device: int = 1, free: int = 100 * MIB, **different: Any) -> dict[str, Any]:
    return {"path": path, "device": device, "free": free, "no_inodes": False, "noexec": False, "error": "", **different}


@pytest.mark.parametrize(
    ("use", "different", "words"),
    [
        ("/usr/local/sbin", {"error": "Read-only file system"}, ["cannot be written: Read-only", "mount --bind"]),
        (
            "staging",
            {"error": "Permission denied", "user": "rover"},
            ["by rover: Permission denied", "ansible_remote_tmp"],
        ),
        ("/tmp", {"error": "No space left on device"}, ["cannot be written: No space", "Free some"]),
        ("/opt/roverwatch", {"noexec": True}, ["noexec", "remount,exec"]),
        ("packages", {"error": "Read-only file system"}, ["packages of the container engine", "in the system's image"]),
        ("storage", {"no_inodes": True}, ["without a free inode", "df -i", "where the container engine keeps images"]),
    ],
)
def test_each_place_is_said_with_what_to_do(use: str, different: dict[str, Any], words: list[str]) -> None:
    found = {use: place("/somewhere", **different), "/run/roverwatch": place("/run/roverwatch")}
    (problem,) = requirements.written(found, NEEDS)
    assert problem.startswith("/somewhere ")
    for word in words:
        assert word in problem


def test_where_nothing_passes_through_nothing_has_to() -> None:
    broken = {use: place("/x", error="Read-only file system") for use in ("staging", "temporary")}
    assert len(requirements.written(broken, NEEDS)) == 2
    assert requirements.written(broken, {**NEEDS, "staging": 0, "temporary": 0}) == []


def test_room_is_counted_on_each_file_system() -> None:
    uses = {use: place(f"/{number}", device=number) for number, use in enumerate(NEEDS)}
    assert requirements.room(uses, NEEDS) == []
    (problem,) = requirements.room({**uses, "staging": place("/home/rover/.ansible/tmp", 9, 12 * MIB)}, NEEDS)
    assert problem.startswith("12M are free for /home/rover/.ansible/tmp, 90M are needed")
    assert "ansible_remote_tmp" in problem


def test_places_on_one_file_system_need_the_sum() -> None:
    one = {use: place(f"/{use}", free=200 * MIB) for use in NEEDS}
    (problem,) = requirements.room(one, NEEDS)
    assert "200M are free" in problem
    assert "240M are needed" in problem
    for use in ("staging", "storage", "temporary"):
        assert f"/{use} (where" in problem
    assert requirements.room(one, {**NEEDS, "staging": 0, "storage": 0, "temporary": 0}) == []


def test_what_opt_alone_lacks_is_said_elsewhere() -> None:
    assert requirements.room({"/opt/roverwatch": place("/opt/roverwatch", free=1)}, NEEDS) == []
