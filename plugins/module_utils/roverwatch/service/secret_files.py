"""Secrets of a service: files that only the service's user can read, in a directory that holds nothing else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping

from ..system import disk

# A random text that is new whenever a secret is. It stands for them in the unit, which everybody can read: from a
# hash, a short password would be found by trying.
GENERATION = ".generation"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class SecretFiles:
    """All secrets of one service; none means that the directory goes. `values` are text, by the files' names."""

    directory: Path
    owner: int
    values: Mapping[str, Any]

    def problems(self) -> List[str]:
        """What is wrong with them, without saying what they are."""
        found = []
        for name, value in self.values.items():
            if not _NAME.fullmatch(name):
                found.append("secret {!r}: a name is 1 to 63 of A-Za-z0-9._- and starts with none of ._-".format(name))
            if not isinstance(value, str) or not value:
                found.append("secret {!r}: must be text that is not empty; put a number into quotes".format(name))
        return found

    def differing(self) -> List[str]:
        """Names of those that are not on the disk as they should be, and of those that should not be there."""
        wanted = {GENERATION, *self.values} if self.values else set()
        there = {path.name for path in self.directory.iterdir()} if self.directory.is_dir() else set()
        if there and not (self._is_closed(self.directory, 0o700) and self._is_reached()):
            return sorted(wanted | there)
        return sorted((wanted ^ there) | {name for name in wanted & there if not self._is_right(name)})

    def generation(self) -> str:
        """The text that stands for these secrets; empty if there are none."""
        if not self.values:
            return ""
        if self.differing():
            return os.urandom(16).hex()
        return (self.directory / GENERATION).read_text()

    def write(self, generation: str) -> None:
        """Put them in place. The generation goes first, so that the next run sees where this one was cut off."""
        if not self.values:
            disk.remove(self.directory)
            return
        disk.open_way(self.directory)
        disk.make_directory(self.directory, 0o700, self.owner)
        for name, text in {GENERATION: generation, **self.values}.items():
            disk.write(self.directory / name, text, 0o400, self.owner)
        for path in self.directory.iterdir():
            if path.name not in (GENERATION, *self.values):
                disk.remove(path)

    def _is_right(self, name: str) -> bool:
        path = self.directory / name
        return self._is_closed(path, 0o400) and (name == GENERATION or path.read_bytes() == self.values[name].encode())

    def _is_reached(self) -> bool:
        """Whether its owner gets to the directory."""
        return all(disk.is_as(above, disk.DIRECTORY_MODE) for above in disk.way(self.directory))

    def _is_closed(self, path: Path, mode: int) -> bool:
        found = path.stat()
        return found.st_uid == self.owner and found.st_mode & 0o7777 == mode
