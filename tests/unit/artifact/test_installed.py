"""What a machine believes of its artifacts: what a power cut has emptied is missed, and comes again."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import fake_engine
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact import engine, installed

ARCH = platform.machine()
BASE, OLD, NEW = b"what both versions stand on", b"the old program", b"the new program"


class Machine:
    """One with an engine, which a test can cut off from power."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        self.synced: list[str] = []
        programs = folder / "bin"
        programs.mkdir()
        (programs / "podman").symlink_to(Path(fake_engine.__file__))
        Path(fake_engine.__file__).chmod(0o755)
        monkeypatch.setenv("FAKE_ENGINE", str(self.storage))
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setattr(installed, "ROOT", folder / "opt")
        monkeypatch.setattr(installed, "BOOT_ID", folder / "boot_id")
        monkeypatch.setattr(engine, "PODMAN_STORAGE", self.storage)
        monkeypatch.setattr(installed.disk, "sync", lambda *paths: self.synced.extend(map(str, paths)))
        self.boot()

    def boot(self) -> None:
        installed.BOOT_ID.write_text(os.urandom(4).hex())

    def calls(self) -> list[str]:
        """What the engine was asked since the last time."""
        file = self.storage / "calls"
        found = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [call.split()[0] if call.split()[0] != "image" else " ".join(call.split()[:2]) for call in found]

    def layer(self, content: bytes) -> Path:
        return self.storage / "layers" / f"{hashlib.sha256(content).hexdigest()}.tar"

    def image(self, version: str, program: bytes) -> tuple[dict[str, Any], Path]:
        """An image of the store: its entry, and its file."""
        plain, packed = self.folder / f"{version}.tar", self.folder / f"{version}.tar.gz"
        reference = f"localhost/roverwatch/sensor:{version}"
        identifier = fake_engine.archive(plain, reference, [BASE, program])
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        about = {"name": "sensor", "version": version, "kind": "image", "file": "sensor.tar.gz"}
        digest = hashlib.sha256(packed.read_bytes()).hexdigest()
        return {**about, "sha256": digest, "reference": reference, "image_id": identifier}, packed

    def binary(self, content: bytes) -> tuple[dict[str, Any], Path]:
        staged = self.folder / "staged"
        staged.write_bytes(content)
        about = {"name": "vmagent", "version": "1.0", "kind": "binary", "file": "vmagent"}
        return {**about, "sha256": hashlib.sha256(content).hexdigest()}, staged

    def bring(self, entry: dict[str, Any], file: Path) -> None:
        installed.ensure({entry["name"]: {ARCH: entry}}, {entry["name"]: str(file)}, "podman", False)

    def lacks(self, entry: dict[str, Any], check_mode: bool = False) -> bool:
        try:
            _, brought = installed.ensure({entry["name"]: {ARCH: entry}}, {}, "podman", check_mode)
        except installed.Lacking:
            return True
        return bool(brought)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def record(entry: dict[str, Any]) -> Path:
    return installed.ROOT / entry["name"] / entry["version"] / installed.RECORD


def test_an_image_is_synced_before_it_is_written_down(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, file = machine.image("1", OLD)
    seen = []
    monkeypatch.setattr(
        installed.disk, "sync", lambda *paths: seen.append((list(map(str, paths)), record(entry).exists()))
    )
    machine.bring(entry, file)
    assert seen
    assert all(seen_before == ([str(machine.storage)], False) for seen_before in seen)
    assert json.loads(record(entry).read_text())["image_id"] == entry["image_id"]


def test_what_was_found_whole_is_not_read_again_in_this_boot_and_once_in_the_next(machine: Machine) -> None:
    entry, file = machine.image("1", OLD)
    machine.bring(entry, file)
    machine.calls()
    assert not machine.lacks(entry)
    assert machine.calls() == ["image inspect"]
    machine.boot()
    assert not machine.lacks(entry)
    assert "save" in machine.calls()
    assert not machine.lacks(entry)
    assert machine.calls() == ["image inspect"]


def test_check_mode_reads_and_writes_nothing_down(machine: Machine) -> None:
    entry, file = machine.image("1", OLD)
    machine.bring(entry, file)
    machine.boot()
    before = record(entry).read_text()
    assert not machine.lacks(entry, check_mode=True)
    assert record(entry).read_text() == before
    machine.layer(OLD).write_bytes(b"")
    assert machine.lacks(entry, check_mode=True)


@pytest.mark.parametrize("content", [b"", b"another program"], ids=["empty", "another"])
def test_an_image_whose_files_a_power_cut_has_emptied_is_missed_and_comes_whole(
    machine: Machine, content: bytes
) -> None:
    entry, file = machine.image("1", OLD)
    machine.bring(entry, file)
    machine.layer(OLD).write_bytes(content)
    machine.boot()
    assert machine.lacks(entry)
    machine.bring(entry, file)
    assert machine.layer(OLD).read_bytes() == OLD
    assert not machine.lacks(entry)


def test_without_a_record_nothing_is_believed(machine: Machine) -> None:
    entry, file = machine.image("1", OLD)
    machine.bring(entry, file)
    record(entry).write_bytes(b"")
    machine.layer(OLD).write_bytes(b"")
    assert machine.lacks(entry)


def test_a_layer_that_another_version_has_as_well_is_repaired_with_it(machine: Machine) -> None:
    old, old_file = machine.image("1", OLD)
    machine.bring(old, old_file)
    machine.layer(BASE).write_bytes(b"")
    machine.boot()
    new, new_file = machine.image("2", NEW)
    machine.bring(new, new_file)
    assert machine.layer(BASE).read_bytes() == BASE
    assert not machine.lacks(new)
    assert machine.lacks(old)


def test_an_image_that_is_loaded_is_read_only_where_one_before_it_is_in_doubt(machine: Machine) -> None:
    machine.bring(*machine.image("1", OLD))
    assert "save" not in machine.calls()
    machine.bring(*machine.image("2", NEW))
    assert "save" not in machine.calls()
    machine.boot()
    machine.bring(*machine.image("3", b"a third program"))
    assert "save" in machine.calls()


def test_what_cannot_be_repaired_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.bring(*machine.image("1", OLD))
    machine.boot()
    entry, file = machine.image("2", NEW)

    def damaged(*_: str) -> None:
        raise engine.Damaged("file integrity checksum failed")

    monkeypatch.setattr(engine, "check", damaged)
    with pytest.raises(installed.ArtifactError, match="does not keep it whole: file integrity checksum failed"):
        machine.bring(entry, file)
    assert not record(entry).exists()


def test_no_room_to_look_is_no_damage(machine: Machine, tmp_path: Path) -> None:
    podman = tmp_path / "bin" / "podman"
    podman.unlink()
    podman.write_text("#!/bin/sh\necho 'Error: writing: no space left on device' >&2\nexit 125\n")
    podman.chmod(0o755)
    with pytest.raises(engine.EngineError, match="no space left"):
        engine.check("podman", "localhost/roverwatch/sensor:1")


def test_another_image_of_the_same_name_is_not_removed_first(machine: Machine) -> None:
    """Of another controller's store: what runs of it goes on until it is replaced."""
    other, other_file = machine.image("1", NEW)
    machine.bring(other, other_file)
    entry, file = machine.image("1", OLD)
    machine.calls()
    plain = file.with_suffix("")
    engine.load("podman", plain, entry["reference"], entry["image_id"])
    assert "image rm" not in machine.calls()


def test_podman_forgets_a_network_backend_that_a_power_cut_has_emptied(machine: Machine) -> None:
    entry, file = machine.image("1", OLD)
    machine.storage.mkdir()
    backend = machine.storage / engine.NETWORK_BACKEND
    backend.write_text("netavark")
    machine.bring(entry, file)
    assert backend.read_text() == "netavark"
    backend.write_text("")
    machine.bring(entry, file)
    assert not backend.exists()


def test_a_binary_is_read_again_where_it_looks_otherwise_and_in_the_next_boot(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, file = machine.binary(b"program")
    machine.bring(entry, file)
    read: list[Path] = []
    hashed = installed.sha256_file
    monkeypatch.setattr(installed, "sha256_file", lambda path: (read.append(path), hashed(path))[1])
    path = installed.binary_path(entry)
    assert not machine.lacks(entry)
    assert not read
    os.utime(path, ns=(1, 1))
    assert not machine.lacks(entry)
    assert read == [path]
    machine.boot()
    assert not machine.lacks(entry)
    assert read == [path, path]
    path.write_bytes(b"")
    assert machine.lacks(entry)
    assert path.stat().st_size == 0
    machine.bring(entry, file)
    assert path.read_bytes() == b"program"
    assert not machine.lacks(entry)


def test_a_binary_is_synced_before_it_is_written_down(machine: Machine) -> None:
    entry, file = machine.binary(b"program")
    machine.bring(entry, file)
    assert machine.synced == [str(installed.binary_path(entry))]


def test_removing_takes_every_version_and_what_is_written_down(machine: Machine) -> None:
    for version, content in (("1", OLD), ("2", NEW)):
        machine.bring(*machine.image(version, content))
    assert installed.remove("sensor", "podman", check_mode=True)
    assert len(list((machine.storage / "images").iterdir())) == 2
    assert installed.remove("sensor", "podman", check_mode=False)
    assert not list((machine.storage / "images").iterdir())
    assert not (installed.ROOT / "sensor").exists()
    assert not installed.remove("sensor", "podman", check_mode=False)
