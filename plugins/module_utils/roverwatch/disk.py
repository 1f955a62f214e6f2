"""What is written has reached the disk: it is there also when the power goes in the next second.

`write`, `copy`, `make_directory`, `remove` and `rename` return when that is so. What another program has written (an
engine, systemd, vmbackup) is followed by `sync`, before anything says that it is there.

It imports nothing of the collection: what ends a backup has a copy of it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Callable, Union

DIRECTORY_MODE = 0o755
# Some file systems keep room for the first block of a file that is empty.
TRIAL_BYTES = 4096


def write(path: Path, content: Union[str, bytes], mode: int = 0o644, owner: int = -1) -> None:
    """Put a file in place as a whole: a reader sees the old content or the new one. `owner` is a user's id."""
    data = content.encode() if isinstance(content, str) else content
    _replace(path, mode, owner, lambda stream: stream.write(data))


def copy(source: Path, path: Path, mode: int = 0o644) -> None:
    """As `write`, with the content of another file."""
    with source.open("rb") as arrived:
        _replace(path, mode, -1, lambda stream: shutil.copyfileobj(arrived, stream, 1 << 20))


def _replace(path: Path, mode: int, owner: int, fill: Callable[[BinaryIO], object]) -> None:
    if not path.parent.is_dir():
        make_directory(path.parent)
    arriving = path.with_name("." + path.name + ".new")
    with arriving.open("wb") as stream:
        os.fchmod(stream.fileno(), mode)  # before there is anything to read in it
        os.fchown(stream.fileno(), owner, -1)
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


def make_directory(path: Path, mode: int = DIRECTORY_MODE, owner: int = -1, group: int = -1) -> None:
    """Have a directory with this mode, owner and group; those above it that are missing get mode 0755."""
    if not path.parent.is_dir():
        make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    os.chown(str(path), owner, group)
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
