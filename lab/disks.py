#!/usr/bin/env python3
"""Disks of the lab's machines, from which the power can be cut: a file with a file system in it, mounted over loop.

    disks.py make FOLDER HOST IMAGE    a disk with what the image has in /etc, /opt, /usr/local and /var/lib; mounted
    disks.py remove FOLDER             unmounts and removes all of them

A copy of the file has what has reached the disk at that moment, and nothing of what the kernel still has in memory: a
machine that starts from the copy has lost its power then. It has to be of one moment. A copy that reads from the front
to the back has writes that came later and lacks earlier ones, which no disk does. So the files lie in an XFS, which
clones one (FICLONE) while writes to it wait. Mounting needs root, or sudo without a password.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

DIRECTORIES = ("etc", "opt", "usr/local", "var/lib")
SIZE_BYTES = 3 << 30
# What is not written takes no room.
STORE_BYTES = 64 << 30
HERE = Path(__file__).resolve().parent
MAKE = {
    # At once, or the kernel would do it in the background, and a copy would have other parts of it each time.
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
FILE_SYSTEM = os.environ.get("ROVERWATCH_LAB_FILE_SYSTEM", "ext4")
# A machine that was switched off lets go of its disk within moments.
BUSY_SECONDS = 20.0
REPAIRED = 1  # e2fsck's exit status: the journal was replayed, and all is well


@dataclass(frozen=True)
class Disk:
    """The disk of a machine. Its file is on the controller's own file system, and as large as what is in it."""

    folder: Path
    host: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.host}.img"

    @property
    def mount_point(self) -> Path:
        return self.folder / self.host

    def make(self, image: str) -> bool:
        """Have it mounted, with the content of an image if it is new; whether it was."""
        _mount_store(self.folder)
        new = not self.file.exists()
        self.mount_point.mkdir(parents=True, exist_ok=True)
        if new:
            arriving = self.file.with_suffix(".new")
            with arriving.open("wb") as stream:
                stream.truncate(SIZE_BYTES)
            run(*MAKE[FILE_SYSTEM], str(arriving))
            arriving.rename(self.file)
        if not self.mount_point.is_mount():
            self.mount()
        if new:
            self._fill(image)
        return new

    def _fill(self, image: str) -> None:
        container = run("docker", "create", image, "true").strip()
        try:
            with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as exported:
                as_root("tar", "-x", "-C", str(self.mount_point), *DIRECTORIES, stdin=exported.stdout)
        finally:
            run("docker", "rm", container)
        as_root("sync", "--file-system", str(self.mount_point))

    def mount(self) -> None:
        as_root("mount", "-o", "loop", str(self.file), str(self.mount_point))

    def unmount(self) -> None:
        """Raises CalledProcessError where somebody still has it after some seconds."""
        deadline = time.monotonic() + BUSY_SECONDS
        while self.mount_point.is_mount():
            try:
                as_root("umount", str(self.mount_point))
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def copy(self, name: str) -> Path:
        """What is on the disk now, as a file beside it."""
        target = self.folder / f"{name}.copy"
        run("cp", "--reflink=always", str(self.file), str(target))
        return target

    def replace(self, crashed: Path) -> str:
        """Mount a copy in its place, after a check of its file system; what the check said."""
        self.unmount()
        run("cp", "--reflink=always", str(crashed), str(self.file))
        said = ""
        if FILE_SYSTEM == "ext4":
            done = subprocess.run(["e2fsck", "-fp", str(self.file)], capture_output=True, text=True, check=False)
            said = done.stdout.replace(f"{self.file}: ", "").strip()
            if done.returncode > REPAIRED:
                raise RuntimeError(f"e2fsck exits with {done.returncode}: {said} {done.stderr}")
        self.mount()
        return said


def _store(folder: Path) -> Path:
    return folder.with_suffix(".xfs")


def _mount_store(folder: Path) -> None:
    """Have the file system in which the disks are."""
    if folder.is_mount():
        return
    folder.mkdir(parents=True, exist_ok=True)
    store = _store(folder)
    if not store.exists():
        as_root(str(HERE / "packages.sh"), "mkfs.xfs=xfsprogs")
        with store.open("wb") as stream:
            stream.truncate(STORE_BYTES)
        run("mkfs.xfs", "-q", str(store))
    as_root("mount", "-o", "loop", str(store), str(folder))
    as_root("chown", str(os.geteuid()), str(folder))


def remove(folder: Path) -> None:
    """Remove the disks of a folder, and their copies."""
    for file in folder.glob("*.img"):
        Disk(folder, file.stem).unmount()
    if folder.is_mount():
        as_root("umount", str(folder))
    folder.rmdir()
    _store(folder).unlink(missing_ok=True)


def run(*command: str, stdin: object = None) -> str:
    """What a command printed. Raises CalledProcessError."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        command, stdin=stdin, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )  # type: ignore[call-overload]
    text: str = done.stdout
    return text


def as_root(*command: str, stdin: object = None) -> str:
    if os.geteuid() == 0:
        return run(*command, stdin=stdin)
    if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode != 0:
        sys.exit(
            "mounting a disk needs root: run this as root, allow sudo without a password, or leave out the stage power "
            "(make test ONLY=…)"
        )
    return run("sudo", "-n", *command, stdin=stdin)


def main() -> None:
    parser = argparse.ArgumentParser(description="Disks of the lab's machines.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("folder", type=Path)
    make.add_argument("host")
    make.add_argument("image")
    commands.add_parser("remove").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        print("made" if Disk(args.folder, args.host).make(args.image) else "is there")
    else:
        remove(args.folder)


if __name__ == "__main__":
    main()
