"""Artifacts on a machine: verified by the machine itself, beside what runs, in place at once.

An *entry* is a line of the store's manifest (`store.Entry.to_dict`). A binary lands in
``/opt/roverwatch/<name>/<version>/<name>``; an image is loaded into the container engine under its own tag.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .store import sha256_file

ROOT = Path("/opt/roverwatch")
IMAGE_PREFIX = "localhost/roverwatch/"


class ArtifactError(Exception):
    """An artifact cannot be put in place; the text says why."""


class Lacking(Exception):
    """The machine lacks artifacts, and nothing was changed. `answer` is what the action plugin goes by."""

    def __init__(self, **answer: Any) -> None:
        super().__init__(answer)
        self.answer = {"changed": False, **answer}


def binary_path(entry: Mapping[str, str]) -> Path:
    return ROOT / entry["name"] / entry["version"] / entry["name"]


def image_id(engine: Optional[str], reference: str) -> Optional[str]:
    """The identifier of an image in the engine, or None where the image or the engine is not there."""
    if engine is None or not shutil.which(engine):
        return None
    inspect = [engine, "image", "inspect", reference]
    done = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    found: str = json.loads(done.stdout)[0]["Id"]
    return "sha256:" + found.removeprefix("sha256:")


def is_there(entry: Mapping[str, str], engine: Optional[str]) -> bool:
    if entry["kind"] == "image":
        return image_id(engine, entry["reference"]) == entry["image_id"]
    path = binary_path(entry)
    return path.is_file() and sha256_file(path) == entry["sha256"]


def _properties(entry: Mapping[str, str]) -> Dict[str, str]:
    """What a unit may want to know of its artifact: `version`, and `path` or `reference` and `image_id`."""
    if entry["kind"] == "image":
        return {key: entry[key] for key in ("version", "reference", "image_id")}
    return {"version": entry["version"], "path": str(binary_path(entry))}


def ensure(
    candidates: Mapping[str, Mapping[str, Mapping[str, str]]],
    staged: Mapping[str, str],
    engine: Optional[str],
    check_mode: bool,
) -> Tuple[Dict[str, Dict[str, str]], List[str]]:
    """Have every artifact on the machine: the properties of each by name, and the names of those that were not there.

    `candidates` are entries by name and architecture, `staged` are files that were brought, by name. Raises Lacking
    where one is neither there nor brought (`missing`) or where the store has none for the machine (`unknown`), and
    ArtifactError.
    """
    arch = platform.machine()
    unknown = [name for name, known in candidates.items() if arch not in known]
    if unknown:
        raise Lacking(arch=arch, unknown=unknown)
    entries = {name: known[arch] for name, known in candidates.items()}
    for name, path in staged.items():
        _install(entries[name], engine, Path(path))
    missing = [name for name, entry in entries.items() if name not in staged and not is_there(entry, engine)]
    if missing and not check_mode:
        raise Lacking(arch=arch, missing=missing)
    return {name: _properties(entry) for name, entry in entries.items()}, [*staged, *missing]


def _install(entry: Mapping[str, str], engine: Optional[str], staged: Path) -> None:
    """Put a file that was brought in place. Raises ArtifactError, with nothing changed, if it is another one."""
    found = sha256_file(staged)
    if found != entry["sha256"]:
        raise ArtifactError(
            "{} arrived with sha256 {}, but the manifest says {}. Nothing was changed; run this again".format(
                entry["file"], found, entry["sha256"]
            )
        )
    if entry["kind"] == "image":
        _load_image(entry, engine, staged)
    else:
        _install_binary(entry, staged)


def _install_binary(entry: Mapping[str, str], staged: Path) -> None:
    target = binary_path(entry)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    arriving = target.with_name(target.name + ".new")
    with staged.open("rb") as source, arriving.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
        os.fsync(sink.fileno())
    arriving.chmod(0o755)
    arriving.replace(target)


def _load_image(entry: Mapping[str, str], engine: Optional[str], staged: Path) -> None:
    if engine is None or not shutil.which(engine):
        raise ArtifactError(
            "{} is an image, and there is no {} on this machine".format(entry["name"], engine or "engine")
        )
    # Unpacked here: podman 4.3 on Debian 12 does not know a compressed archive from a broken one. It lies beside the
    # staged file, in the directory that Ansible removes.
    archive = staged.with_name(staged.name + ".tar")
    with gzip.open(staged) as packed, archive.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    _output([engine, "load", "--input", str(archive)])
    found = image_id(engine, entry["reference"])
    if found != entry["image_id"]:
        raise ArtifactError(
            "{} loaded {} as {}, but the manifest says {}".format(engine, entry["reference"], found, entry["image_id"])
        )


def remove(name: str, engine: Optional[str], check_mode: bool) -> bool:
    """Remove every version of an artifact; says whether there was any."""
    folder = ROOT / name
    images: List[str] = []
    if engine and shutil.which(engine):
        listed = _output(
            [engine, "image", "ls", "--quiet", "--no-trunc", "--filter", "reference=" + IMAGE_PREFIX + name]
        )
        images = sorted(set(listed.split()))
    found = folder.exists() or bool(images)
    if not check_mode:
        if folder.exists():
            shutil.rmtree(folder)
        if engine and images:
            _output([engine, "image", "rm", "--force", *images])
    return found


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ArtifactError("{}: {}".format(" ".join(command), done.stderr.strip()))
    return done.stdout
