"""What a machine is to have beside its services, as the controller knows it: by their content, and by their role."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODULE = "roverwatch.fleet.machine_files"


@dataclass(frozen=True)
class File:
    path: str
    content: str
    mode: str = "0644"


@dataclass(frozen=True)
class MachineFiles:
    """Directories, files and units that are enabled and started."""

    directories: Sequence[str] = ()
    files: Sequence[File] = ()
    enabled: Sequence[str] = ()

    def to_look_for(self) -> dict[str, Any]:
        """The module's arguments for a look: the machine is not sent what it has already."""
        listed = [
            {"path": file.path, "mode": file.mode, "sha256": hashlib.sha256(file.content.encode()).hexdigest()}
            for file in self.files
        ]
        return {"directories": list(self.directories), "files": listed, "enabled": list(self.enabled)}

    def to_apply(self) -> dict[str, Any]:
        """The module's arguments for making it so."""
        wanted = self.to_look_for()
        for listed, file in zip(wanted["files"], self.files, strict=True):
            listed["content"] = file.content
        return wanted | {"apply": True}

    def diffs(self, differences: Mapping[str, Any]) -> list[dict[str, str]]:
        """What would change, as `--diff` shows it, from what a look has found."""
        found = [{"prepared": f"{path}: to be a directory with mode 0755\n"} for path in differences["directories"]]
        for file in self.files:
            if file.path in differences["files"]:
                there = differences["files"][file.path] or {"content": "", "mode": None}
                found.append(
                    {
                        "before_header": file.path,
                        "after_header": file.path,
                        "before": there["content"],
                        "after": file.content,
                    }
                )
                if there["mode"] not in (None, int(file.mode, 8)):
                    found.append({"prepared": f"{file.path}: mode {there['mode']:04o}, to be {file.mode}\n"})
                elif there["content"] == file.content:
                    found.append({"prepared": f"{file.path}: its owner, or the directories above it\n"})
        found += [{"prepared": f"{unit}: systemd has yet to read its file\n"} for unit in differences["reload"]]
        found += [{"prepared": f"{unit}: to be enabled and started\n"} for unit in differences["enabled"]]
        return found
