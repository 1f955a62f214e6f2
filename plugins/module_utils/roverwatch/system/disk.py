"""What is written has reached the disk: it is there also when the power goes in the next second.

`write`, `copy`, `make_directory`, `remove` and `rename` return when that is so. What another program has written (an
engine, systemd, vmbackup) is followed by `sync`, before anything says that it is there.

Owner, group and mode of what is written are always set, whatever the umask and the directory would make of them: it
belongs to who runs this, which is root, unless an owner is named. What services read lies in directories that are open
to all (`OURS`). Somebody may have left them closed: `is_open` sees that, `place` and `open_to_all` put it right.

It imports nothing of the collection: what ends a backup has a copy of it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Callable, List, Union

DIRECTORY_MODE = 0o755
# Directories that this collection makes. Those above them are the system's; those below, on the way to a file of a
# service, are open to all. What is closed in them (secrets, a service's own data) has a mode of its own.
OURS = [Path("/etc/roverwatch"), Path("/opt/roverwatch"), Path("/var/lib/roverwatch"), Path("/usr/share/prometheus")]
# Who runs this.
SELF = -1
# Some file systems keep room for the first block of a file that is empty.
TRIAL_BYTES = 4096


def way(path: Path) -> List[Path]:
    """The directories of ours that lead to a path, the topmost first."""
    return [above for above in reversed(path.parents) if any(root in (above, *above.parents) for root in OURS)]


def is_as(path: Path, mode: int, owner: int = SELF, group: int = SELF) -> bool:
    """Whether a path is there with this mode, owner and group."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, *_ids(owner, group))


def is_open(path: Path, mode: int) -> bool:
    """Whether a path has this mode, is of who runs this, and whoever may read it gets there."""
    return is_as(path, mode) and all(is_as(above, DIRECTORY_MODE) for above in way(path))


def open_way(path: Path) -> None:
    """Have the directories of ours that lead to a path, open to all."""
    for above in way(path):
        if not is_as(above, DIRECTORY_MODE):
            make_directory(above)


def open_to_all(path: Path, mode: int) -> None:
    """Have a file that is there as `is_open` wants it."""
    open_way(path)
    os.chown(str(path), *_ids(SELF, SELF))
    path.chmod(mode)
    fsync(path)


def place(path: Path, content: Union[str, bytes], mode: int = 0o644) -> None:
    """As `write`, and the way there is open."""
    open_way(path)
    write(path, content, mode)


def _ids(owner: int, group: int) -> "tuple[int, int]":
    return (os.geteuid() if owner == SELF else owner, os.getegid() if group == SELF else group)


def write(path: Path, content: Union[str, bytes], mode: int = 0o644, owner: int = SELF) -> None:
    """Put a file in place as a whole: a reader sees the old content or the new one. `owner` is a user's id."""
    data = content.encode() if isinstance(content, str) else content
    _replace(path, mode, owner, lambda stream: stream.write(data))


def copy(source: Path, path: Path, mode: int = 0o644) -> None:
    """As `write`, with the content of another file."""
    with source.open("rb") as arrived:
        _replace(path, mode, SELF, lambda stream: shutil.copyfileobj(arrived, stream, 1 << 20))


def _replace(path: Path, mode: int, owner: int, fill: Callable[[BinaryIO], object]) -> None:
    if not path.parent.is_dir():
        make_directory(path.parent)
    arriving = path.with_name("." + path.name + ".new")
    with arriving.open("wb") as stream:
        os.fchown(stream.fileno(), *_ids(owner, SELF))
        os.fchmod(stream.fileno(), mode)  # before there is anything to read in it
        fill(stream)
        stream.flush()
        os.fsync(stream.fileno())
    arriving.replace(path)
    fsync(path.parent)


def refusal(directory: Path) -> str:
    """Why nothing can be written in a directory; empty where it can. What is tried has no name, and is gone at once."""
    try:
        with TemporaryFile(dir=str(directory)) as trial:
            trial.write(b"\0" * TRIAL_BYTES)
            trial.flush()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return ""


def make_directory(path: Path, mode: int = DIRECTORY_MODE, owner: int = SELF, group: int = SELF) -> None:
    """Have a directory with this mode, owner and group; those above it that are missing get mode 0755."""
    if not path.parent.is_dir():
        make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    os.chown(str(path), *_ids(owner, group))
    path.chmod(mode)
    fsync(path)
    fsync(path.parent)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; one that is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    else:
        path.unlink(missing_ok=True)
    if path.parent.is_dir():
        fsync(path.parent)


def rename(path: Path, target: Path) -> None:
    """Give a file or a directory another name in the same file system. What is in it is not synced."""
    path.rename(target)
    for parent in {path.parent, target.parent}:
        fsync(parent)


def fsync(path: Path) -> None:
    """Have a file's content on the disk, or what was made, renamed and removed in a directory."""
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(*paths: Path) -> None:
    """Have all that was written to the file systems of these paths on the disk, whoever wrote it.

    A path that is not there stands for the nearest directory above it. Raises OSError with the error that the disk had
    meanwhile: syncfs(2) reports it since Linux 5.8.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    done = set()
    for path in paths:
        there = next(above for above in (path, *path.parents) if above.exists())
        descriptor = os.open(str(there), os.O_RDONLY)
        try:
            device = os.fstat(descriptor).st_dev
            if device in done:
                continue
            done.add(device)
            if libc.syncfs(descriptor) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), str(there))
        finally:
            os.close(descriptor)
