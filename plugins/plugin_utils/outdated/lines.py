"""Versions and their lines: of releases, of image tags and of the actions of a workflow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Version = tuple[int, ...]


def version(text: str) -> Version | None:
    """1.150.0 and v1.150.0; None for all else, such as 1.150.0-rc1 and v1.150.0-cluster."""
    found = re.fullmatch(r"v?(\d+(?:\.\d+)*)", text)
    return _numbers(found.group(1)) if found else None


def text_of(found: Version) -> str:
    """As it is pinned: 1.150.0."""
    return ".".join(map(str, found))


@dataclass(frozen=True)
class Releases:
    """What a repository has beside a pinned release; None where it has nothing newer."""

    newest: Version  # of the pinned major version
    patch: Version | None  # of the pinned minor version, where that is another one: lines with long support
    major: Version | None  # of a later major version


def releases(pinned: Version, tags: Iterable[str]) -> Releases:
    """The newest releases beside a pinned one. The pinned release is the newest of its line if no tag is newer."""
    newer = {found for found in map(version, tags) if found and len(found) == len(pinned) and found > pinned}
    line = {found for found in newer if found[0] == pinned[0]}
    newest = max(line | {pinned})
    patches = {found for found in line if found[:2] == pinned[:2]} - {newest}
    return Releases(newest, max(patches, default=None), max(newer - line, default=None))


def newest_reference(pinned: str, tags: Iterable[str]) -> str | None:
    """The newest version, written as `pinned` is: v6 for v5, v6.0.1 for v5.2.0. None where `pinned` is no version."""
    own = version(pinned)
    if not own:
        return None
    known = {found[: len(own)] for found in map(version, tags) if found and len(found) >= len(own)}
    return ("v" if pinned.startswith("v") else "") + text_of(max(known | {own}))


@dataclass(frozen=True)
class Tag:
    """An image's tag that has a version, such as 3.13.7-alpine3.22."""

    version: Version
    flavour: str  # alpine
    release: Version  # of the flavour: 3.22

    def __str__(self) -> str:
        suffix = self.flavour + text_of(self.release)
        return text_of(self.version) + (f"-{suffix}" if suffix else "")


def tag(text: str) -> Tag | None:
    """None where a tag has no version (bookworm-slim), or is a release candidate."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)(?:-([a-z][a-z-]*)(\d+(?:\.\d+)*)?)?", text)
    return Tag(_numbers(found[1]), found[2] or "", _numbers(found[3]) if found[3] else ()) if found else None


def tags(pinned: Tag, names: Iterable[str]) -> tuple[Tag, Tag | None]:
    """The newest tag of the line (3.13.*-alpine3.22), and the newest on a later release of its flavour (alpine3.23)."""
    known = [
        found
        for found in map(tag, names)
        if found
        and found.version[:2] == pinned.version[:2]
        and (len(found.version), found.flavour, len(found.release))
        == (len(pinned.version), pinned.flavour, len(pinned.release))
    ]
    newest = max(
        [pinned, *(found for found in known if found.release == pinned.release)], key=lambda found: found.version
    )
    later = [found for found in known if found.release > pinned.release]
    return newest, max(later, key=lambda found: (found.release, found.version), default=None)


def _numbers(text: str) -> Version:
    return tuple(map(int, text.split(".")))
