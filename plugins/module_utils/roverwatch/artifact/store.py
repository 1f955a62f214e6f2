"""The controller's artifact store: every binary and image that goes onto a machine, each with its sha256.

Layout: ``<root>/<name>/<version>/<arch>/<file>`` and ``<root>/manifest.json``. The manifest is what counts: a
file that it does not list is not in the store, and a file whose sha256 differs never leaves the controller.

A *stand-in* is an entry whose ``version`` (what it really is) differs from ``requested`` (what was asked
for): the distribution's package where upstream could not be reached.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..system import disk

SCHEMA = 1
ARCHITECTURES = ("x86_64", "aarch64")
KINDS = ("binary", "image")
FILL = "ansible-playbook playbooks/artifacts.yml"
ABANDONED_AFTER = 86400.0  # seconds; staging that is older belongs to a fill that was killed

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


class StoreError(Exception):
    """The store cannot be read or written as it stands; the text names the file and what is wrong with it."""


class MissingArtifact(StoreError):
    """The store lacks something; the text says what, where it was looked for, and how to fill the store."""


class TamperedArtifact(StoreError):
    """A file is not what the manifest (or its source) says; the text names the file and both checksums."""


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    name: str
    version: str  # what it really is
    requested: str  # what was asked for
    arch: str  # in the words of ansible_facts.architecture
    kind: str  # "binary" or "image"
    file: str  # relative to the store
    size: int  # bytes
    sha256: str
    source: str  # says exactly where it came from
    image_id: str | None = None  # "sha256:…"; images only, as are the rest
    reference: str | None = None
    base_image: str | None = None
    inputs: str | None = None  # sha256 over everything that the image was built from

    @property
    def is_stand_in(self) -> bool:
        """Whether the distribution's binary stands in for the requested version."""
        return self.kind == "binary" and self.version != self.requested

    def to_dict(self) -> dict[str, Any]:
        """The manifest's form, without the fields that do not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        """Read the manifest's form. Raises StoreError when a field is missing, unknown or malformed."""
        known = {field.name for field in fields(cls)}
        optional = {"image_id", "reference", "base_image", "inputs"}
        wrong = sorted((known - optional - set(data)) | (set(data) - known))
        wrong += sorted(key for key in known & set(data) - {"size"} if not isinstance(data[key], str))
        if wrong:
            raise StoreError("fields missing, unknown or no text: {}".format(", ".join(wrong)))
        if not isinstance(data["size"], int) or isinstance(data["size"], bool) or data["size"] < 0:
            raise StoreError("size must be a number of bytes, found {!r}".format(data["size"]))
        if data["arch"] not in ARCHITECTURES or data["kind"] not in KINDS:
            raise StoreError("unknown arch {!r} or kind {!r}".format(data["arch"], data["kind"]))
        if not _SHA256.fullmatch(data["sha256"]):
            raise StoreError("sha256 must be 64 hex digits, found {!r}".format(data["sha256"]))
        parts = str(data["file"]).split("/")
        if len(parts) != 4 or not all(_PATH_PART.fullmatch(part) for part in parts):
            raise StoreError("file must be <name>/<version>/<arch>/<file>, found {!r}".format(data["file"]))
        return cls(**data)


def relative_path(name: str, version: str, arch: str, filename: str) -> str:
    """Where an artifact lies in the store. Raises StoreError when a part is no plain file name."""
    parts = (name, version, arch, filename)
    for part in parts:
        if not _PATH_PART.fullmatch(part):
            raise StoreError(f"{part!r} cannot be part of a path in the artifact store")
    return "/".join(parts)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Store:
    """The artifact store in a folder. The folder is made by the first `add`; reading needs none."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.manifest = self.root / "manifest.json"

    def path(self, entry: Entry) -> Path:
        """The absolute path of an entry's file."""
        return self.root / entry.file

    def entries(self) -> list[Entry]:
        """Everything that the manifest lists, oldest first; nothing when there is no store yet.

        Raises StoreError when the manifest cannot be understood.
        """
        try:
            data = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise StoreError(self._malformed(f"no JSON: {error}")) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise StoreError(self._malformed(f'"schema" must be {SCHEMA}'))
        listed = data.get("artifacts")
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise StoreError(self._malformed('"artifacts" must be a list of objects'))
        entries = []
        for number, item in enumerate(listed, 1):
            try:
                entries.append(Entry.from_dict(item))
            except StoreError as error:
                raise StoreError(self._malformed(f"artifact {number}: {error}")) from error
        return entries

    def find(self, name: str, requested_version: str, arch: str) -> Entry:
        """The artifact that was asked for as `requested_version`, or that really is that version.

        The entry that was added last wins. Raises MissingArtifact.
        """
        candidates = [entry for entry in self.entries() if (entry.name, entry.arch) == (name, arch)]
        for matches in (
            [entry for entry in candidates if entry.requested == requested_version],
            [entry for entry in candidates if entry.version == requested_version],
        ):
            if matches:
                return matches[-1]
        others = sorted({entry.requested for entry in candidates})
        hint = " (it has {})".format(", ".join(others)) if others else ""
        raise MissingArtifact(
            f"{name} {requested_version} for {arch} is not in the artifact store "
            f"{self.root}{hint}. See that group_vars/all/artifacts.yml asks for this version and "
            f"architecture, then run on the controller: {FILL}"
        )

    def verify(self, entry: Entry) -> None:
        """Compare the file with the manifest. Raises MissingArtifact or TamperedArtifact."""
        path = self.path(entry)
        if not path.is_file():
            raise MissingArtifact(
                f"{path} is listed in {self.manifest} but is not there. Run on the controller: {FILL}"
            )
        found = sha256_file(path)
        if found != entry.sha256:
            raise TamperedArtifact(
                f"{path} was changed after it entered the artifact store: expected sha256 {entry.sha256}, "
                f"found {found}. Delete it and run on the controller: {FILL}"
            )

    def add(self, entry: Entry, staged_file: Path) -> None:
        """Move a file from `staging` into the store and list it.

        An entry of the same name, version, request and architecture is replaced. Raises TamperedArtifact,
        with the store as it was, when the file is not what the entry says.
        """
        Entry.from_dict(entry.to_dict())
        found = sha256_file(staged_file)
        if found != entry.sha256:
            raise TamperedArtifact(
                f"{staged_file} does not enter the artifact store {self.root}: "
                f"expected sha256 {entry.sha256}, found {found}"
            )
        staged_file.chmod(0o755 if entry.kind == "binary" else 0o644)
        disk.fsync(staged_file)
        with self._locked():
            kept = [other for other in self.entries() if not _replaces(entry, other)]
            target = self.path(entry)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged_file.replace(target)
            disk.fsync(target.parent)
            self._write([*kept, entry])

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder on the store's own filesystem, gone afterwards."""
        parent = self.root / ".staging"
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another fill is done with it just now
                if time.time() - old.stat().st_mtime > ABANDONED_AFTER:
                    shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, entries: list[Entry]) -> None:
        text = json.dumps({"schema": SCHEMA, "artifacts": [entry.to_dict() for entry in entries]}, indent=2) + "\n"
        disk.write(self.manifest, text)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _malformed(self, reason: str) -> str:
        return f"{self.manifest} is damaged: {reason}. Delete it and run on the controller: {FILL}"


def _replaces(new: Entry, old: Entry) -> bool:
    """Whether `old` goes when `new` comes: the same thing, or another content that was in the same file."""
    same = (new.name, new.version, new.requested, new.arch) == (
        old.name,
        old.version,
        old.requested,
        old.arch,
    )
    return same or (new.file == old.file and new.sha256 != old.sha256)
