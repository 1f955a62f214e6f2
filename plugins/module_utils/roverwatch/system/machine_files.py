"""Directories, files and units that a machine has beside its services: what of them differs, and making it right.

Whoever wants them knows a file by its sha256; what is in it is sent to machines that do not have it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

from . import disk, systemd, units

# What is wanted, as an option of a module.
SPEC = {
    "directories": {"type": "list", "elements": "path", "default": []},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "mode": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "content": {"type": "str"},
        },
    },
    "enabled": {"type": "list", "elements": "str", "default": []},
}


def look(wanted: Mapping[str, Any]) -> Dict[str, Any]:
    """What is not as wanted; every value is empty where all is.

    Of a file it is `content` and `mode` of what is there, by the path, and None where nothing is. `reload` are units
    whose file systemd has not read since it changed, as after a run that was cut off.
    """
    enabled = wanted["enabled"]
    states = systemd.show_many(
        sorted({*enabled, *_units(wanted)}), ["ActiveState", "UnitFileState", "NeedDaemonReload"]
    )
    return {
        "directories": [path for path in wanted["directories"] if not _is_directory(Path(path))],
        "files": {file["path"]: _there(file) for file in wanted["files"] if not _is_right(file)},
        "reload": sorted(name for name, state in states.items() if state["NeedDaemonReload"] == "yes"),
        "enabled": [
            name
            for name in enabled
            if (states[name]["UnitFileState"], states[name]["ActiveState"]) != ("enabled", "active")
        ],
    }


def apply(wanted: Mapping[str, Any], systemctl: Callable[..., None]) -> None:
    """Make it so. Cut off anywhere, the next `look` sees what is missing."""
    due = look(wanted)
    for path in due["directories"]:
        disk.open_way(Path(path))
        disk.make_directory(Path(path))
    for file in wanted["files"]:
        if file["path"] in due["files"]:
            disk.place(Path(file["path"]), file["content"], int(file["mode"], 8))
    if due["reload"] or any(Path(path).name in _units(wanted) for path in due["files"]):
        systemctl("daemon-reload")
    if due["enabled"]:
        units.clear_enablement(*due["enabled"])
        systemctl("enable", "--quiet", "--now", *due["enabled"])
        disk.sync(units.UNITS)


def _units(wanted: Mapping[str, Any]) -> List[str]:
    """The units among the files."""
    paths = [Path(file["path"]) for file in wanted["files"]]
    return [path.name for path in paths if path.parent == units.UNITS]


def _is_directory(path: Path) -> bool:
    return path.is_dir() and disk.is_open(path, disk.DIRECTORY_MODE)


def _is_right(file: Mapping[str, Any]) -> bool:
    path = Path(file["path"])
    return (
        path.is_file()
        and disk.is_open(path, int(file["mode"], 8))
        and hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
    )


def _there(file: Mapping[str, Any]) -> Any:
    return units.current(units.File(Path(file["path"]), ""))
