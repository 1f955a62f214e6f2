"""Artifacts on a machine: verified by the machine itself, beside what runs, in place at once, and on the disk.

An *entry* is a line of the store's manifest (`store.Entry.to_dict`). A binary lands in
``/opt/roverwatch/<name>/<version>/<name>``; an image is loaded into the container engine under its own tag.

What was found whole, and has reached the disk, is written down beside it (`RECORD`). It is believed for as long as the
machine has not started anew: nothing empties files in the middle of a boot. In the next one it is read again, once.
"""

from __future__ import annotations

import gzip
import json
import platform
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..system import disk
from . import engine
from .store import sha256_file

ROOT = Path("/opt/roverwatch")
RECORD = "installed.json"
BINARY_MODE = 0o755
IMAGE_PREFIX = "localhost/roverwatch/"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ArtifactError(Exception):
    """An artifact cannot be put in place; the text says why."""


class Lacking(Exception):
    """The machine lacks artifacts, and nothing was changed. `answer` is what the action plugin goes by."""

    def __init__(self, **answer: Any) -> None:
        super().__init__(answer)
        self.answer = {"changed": False, **answer}


def binary_path(entry: Mapping[str, str]) -> Path:
    return ROOT / entry["name"] / entry["version"] / entry["name"]


def is_whole(entry: Mapping[str, str], container_engine: Optional[str], check_mode: bool) -> bool:
    """Whether an artifact is there with all of its content."""
    seen = _look(entry, container_engine)
    if seen is None:
        return False
    if _json(_record_path(entry)) == seen:
        return True
    try:
        _read(entry, container_engine)
    except engine.Damaged:
        return False
    if not check_mode:
        _record(entry, container_engine, seen)
    return True


def _look(entry: Mapping[str, str], container_engine: Optional[str]) -> Optional[Dict[str, Any]]:
    """What can be seen of an artifact without reading it, and the boot in which it was; None where it is not there."""
    seen: Dict[str, Any] = {"boot_id": BOOT_ID.read_text().strip(), "sha256": entry["sha256"]}
    if entry["kind"] == "image":
        found = engine.image_id(container_engine, entry["reference"])
        return {**seen, "engine": container_engine, "image_id": found} if found == entry["image_id"] else None
    path = binary_path(entry)
    if not path.is_file():
        return None
    status = path.stat()
    return {**seen, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _read(entry: Mapping[str, str], container_engine: Optional[str]) -> None:
    """Compare its content with what it has to be. Raises engine.Damaged."""
    if entry["kind"] == "image":
        assert container_engine is not None
        engine.check(container_engine, entry["reference"])
    else:
        found = sha256_file(binary_path(entry))
        if found != entry["sha256"]:
            raise engine.Damaged("its sha256 is {}".format(found))


def _record_path(entry: Mapping[str, str]) -> Path:
    return ROOT / entry["name"] / entry["version"] / RECORD


def _json(path: Path) -> Any:
    """What a record says; None where there is none, or an empty one."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _record(entry: Mapping[str, str], container_engine: Optional[str], seen: Mapping[str, Any]) -> None:
    """Write down that it is whole, after it is on the disk."""
    if entry["kind"] == "image":
        assert container_engine is not None
        disk.sync(*engine.storage(container_engine))
    else:
        disk.sync(binary_path(entry))
    disk.write(_record_path(entry), json.dumps(seen, indent=2) + "\n")


def _properties(entry: Mapping[str, str]) -> Dict[str, str]:
    """What a unit may want to know of its artifact: `version`, and `path` or `reference` and `image_id`."""
    if entry["kind"] == "image":
        return {key: entry[key] for key in ("version", "reference", "image_id")}
    return {"version": entry["version"], "path": str(binary_path(entry))}


def ensure(
    candidates: Mapping[str, Mapping[str, Mapping[str, str]]],
    staged: Mapping[str, str],
    container_engine: Optional[str],
    check_mode: bool,
) -> Tuple[Dict[str, Dict[str, str]], List[str]]:
    """Have every artifact on the machine: the properties of each by name, and the names of those that were not there
    or could not be read by all.

    `candidates` are entries by name and architecture, `staged` are files that were brought, by name. Raises Lacking
    where one is neither there nor brought (`missing`) or where the store has none for the machine (`unknown`),
    ArtifactError and engine.EngineError.
    """
    arch = platform.machine()
    unknown = [name for name, known in candidates.items() if arch not in known]
    if unknown:
        raise Lacking(arch=arch, unknown=unknown)
    entries = {name: known[arch] for name, known in candidates.items()}
    for name, path in staged.items():
        _install(entries[name], container_engine, Path(path))
    missing = [
        name
        for name, entry in entries.items()
        if name not in staged and not is_whole(entry, container_engine, check_mode)
    ]
    if missing and not check_mode:
        raise Lacking(arch=arch, missing=missing)
    there = [name for name in entries if name not in (*staged, *missing)]
    closed = {
        path: mode for name in there for path, mode in _modes(entries[name]).items() if not disk.is_open(path, mode)
    }
    if not check_mode:
        for closed_path, mode in closed.items():
            disk.open_to_all(closed_path, mode)
    mended = [name for name in there if closed.keys() & _modes(entries[name]).keys()]
    return {name: _properties(entry) for name, entry in entries.items()}, [*staged, *missing, *mended]


def _modes(entry: Mapping[str, str]) -> Dict[Path, int]:
    """The files of an artifact that is there, with their modes. What is in an image is the engine's matter."""
    found = {_record_path(entry): 0o644}
    if entry["kind"] != "image":
        found[binary_path(entry)] = BINARY_MODE
    # Check mode writes no record.
    return {path: mode for path, mode in found.items() if path.exists()}


def _install(entry: Mapping[str, str], container_engine: Optional[str], staged: Path) -> None:
    """Put a file that was brought in place. Raises ArtifactError, with nothing changed, if it is another one."""
    found = sha256_file(staged)
    if found != entry["sha256"]:
        raise ArtifactError(
            "{} arrived with sha256 {}, but the manifest says {}. Nothing was changed; run this again".format(
                entry["file"], found, entry["sha256"]
            )
        )
    if entry["kind"] == "image":
        _load_image(entry, container_engine, staged)
    else:
        disk.open_way(binary_path(entry))
        disk.copy(staged, binary_path(entry), BINARY_MODE)
    seen = _look(entry, container_engine)
    assert seen is not None
    _record(entry, container_engine, seen)


def _load_image(entry: Mapping[str, str], container_engine: Optional[str], staged: Path) -> None:
    if container_engine is None or not engine.is_there(container_engine):
        raise ArtifactError(
            "{} is an image, and there is no {} on this machine: the role container_engine installs it "
            "(container_engine_name)".format(entry["name"], container_engine or "engine")
        )
    # Unpacked here: podman 4.3 on Debian 12 does not know a compressed archive from a broken one. It lies beside the
    # staged file, in the directory that Ansible removes.
    archive = staged.with_name(staged.name + ".tar")
    with gzip.open(staged) as packed, archive.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    reference, wanted = entry["reference"], entry["image_id"]
    doubted = _doubted(entry["name"], container_engine)
    engine.load(container_engine, archive, reference, wanted)
    if doubted:
        _check_loaded(entry, container_engine, archive)
    found = engine.image_id(container_engine, reference)
    if found != wanted:
        raise ArtifactError(
            "{} loaded {} as {}, but the manifest says {}. Build it again: ansible-playbook playbooks/artifacts.yml, "
            "then deploy".format(container_engine, reference, found, wanted)
        )


def _doubted(name: str, container_engine: str) -> bool:
    """Whether there is an image of an artifact that was not found whole in this boot: the next one may share layers."""
    boot_id = BOOT_ID.read_text().strip()
    try:
        there = engine.ids(container_engine, IMAGE_PREFIX + name)
    except engine.EngineError:
        return True  # it cannot even list them
    records = [_json(path) for path in (ROOT / name).glob("*/" + RECORD)]
    return not set(there) <= {record["image_id"] for record in records if record and record["boot_id"] == boot_id}


def _check_loaded(entry: Mapping[str, str], container_engine: str, archive: Path) -> None:
    """Read an image that was just loaded; without all older versions, if one of them has emptied layers of it."""
    reference = entry["reference"]
    try:
        engine.check(container_engine, reference)
        return
    except engine.Damaged:
        engine.remove(container_engine, engine.ids(container_engine, IMAGE_PREFIX + entry["name"]))
    engine.load(container_engine, archive, reference, entry["image_id"])
    try:
        engine.check(container_engine, reference)
    except engine.Damaged as error:
        raise ArtifactError(
            "{0} has loaded {1}, and does not keep it whole: {2}. Images of others share its layers, or the disk "
            "fails: see dmesg, and the runbook's section on power cuts".format(container_engine, reference, error)
        ) from error


def remove(name: str, container_engine: Optional[str], check_mode: bool) -> bool:
    """Remove every version of an artifact; says whether there was any."""
    folder = ROOT / name
    images: List[str] = []
    if container_engine and engine.is_there(container_engine):
        if not check_mode:
            # One that the engine cannot open may keep it from listing the others.
            for record in folder.glob("*/" + RECORD):
                engine.forget(container_engine, IMAGE_PREFIX + name + ":" + record.parent.name)
        images = engine.ids(container_engine, IMAGE_PREFIX + name)
    found = folder.exists() or bool(images)
    if not check_mode:
        if container_engine and images:
            engine.remove(container_engine, images)
        disk.remove(folder)
    return found
