"""A full disk is named, with its numbers, and only once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import filesystems

MIB = 1 << 20


class Disks:
    """What statvfs says of a directory's file system; each directory is a mount of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = root / "data"
        self.queue = self.data / "vmagent"
        self.opt = root / "opt"
        self.queue.mkdir(parents=True)
        self.opt.mkdir()
        self.mountinfo = root / "mountinfo"
        self.mountinfo.write_text("".join(f"1 2 0:3 / {path} rw - x y rw\n" for path in ("/", self.data, self.queue)))
        self.known: dict[Path, os.statvfs_result] = {}
        self.devices = {self.data: 1, self.queue: 2, self.opt: 3}
        for path in self.devices:
            self.set(path)
        stat = Path.stat
        monkeypatch.setattr(os, "statvfs", lambda path: self.known[Path(path)])
        monkeypatch.setattr(Path, "stat", lambda path, **more: self._stat(path, stat(path, **more)))

    def _stat(self, path: Path, real: os.stat_result) -> os.stat_result:
        return os.stat_result([*real[:2], self.devices[path], *real[3:10]]) if path in self.devices else real

    def set(
        self, path: Path, free: int = 4096 * MIB, size: int = 8192 * MIB, inodes: int = 5000, flags: int = 0
    ) -> None:
        total = 10000 if inodes >= 0 else 0
        self.known[path] = os.statvfs_result(
            (4096, 4096, size // 4096, free // 4096, free // 4096, total, max(inodes, 0), max(inodes, 0), flags, 255)
        )

    def full(self) -> list[tuple[str, str]]:
        found = filesystems.full(self.data, [self.opt], self.mountinfo)
        return [(str(disk.mount), disk.what) for disk in found]


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disks:
    return Disks(tmp_path, monkeypatch)


def test_room_is_nothing_to_tell(disks: Disks) -> None:
    disks.set(disks.opt, free=33 * MIB)
    disks.set(disks.data, free=7 * MIB, size=64 * MIB)  # a small one, of which a tenth and more is left
    disks.set(disks.queue, inodes=-1)  # btrfs
    assert disks.full() == []


def test_a_full_disk_has_its_path_and_its_numbers(disks: Disks) -> None:
    disks.set(disks.data, free=0, size=60 * MIB)
    assert disks.full() == [(str(disks.data), f"is full: 0 of 60M are free; {disks.data} is on it")]


def test_a_disk_of_one_service_and_one_that_is_mounted_above(disks: Disks) -> None:
    disks.set(disks.queue, free=MIB)
    disks.set(disks.opt, free=31 * MIB)
    assert disks.full() == [
        (str(disks.queue), f"is full: 1M of 8G are free; {disks.queue} is on it"),
        ("/", f"is full: 31M of 8G are free; {disks.opt} is on it"),
    ]


def test_a_disk_that_has_several_of_them_is_told_once(disks: Disks) -> None:
    disks.devices[disks.opt] = disks.devices[disks.data]
    for path in (disks.data, disks.opt):
        disks.set(path, free=0)
    assert len(disks.full()) == 1


def test_inodes_run_out_as_well(disks: Disks) -> None:
    disks.set(disks.data, inodes=12)
    assert disks.full()[0][1].startswith("is full: 12 of 10000 inodes are free")


def test_a_disk_that_the_kernel_has_made_read_only(disks: Disks) -> None:
    disks.set(disks.data, flags=os.ST_RDONLY)
    disks.set(disks.opt, flags=os.ST_RDONLY)  # as an operator may like it
    assert disks.full() == [(str(disks.data), f"is mounted read-only; {disks.data} is on it")]


def test_what_is_not_on_this_machine_is_left_out(tmp_path: Path) -> None:
    assert filesystems.full(tmp_path, [tmp_path / "docker"]) == []
