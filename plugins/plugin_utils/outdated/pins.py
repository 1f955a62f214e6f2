"""What is pinned, what is asked about each pin, and how the answers are told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..artifact.sources import PINS
from . import lines, programs
from .programs import NotAskedError

DIGESTS = "artifacts_base_digests"
TOGETHER = 8  # pins that are asked about at the same time
COLUMNS = ("WHAT", "PINNED", "NEWEST", "NOTE")
SHOWN = len("sha256:") + 12  # of a digest


@dataclass(frozen=True)
class Answer:
    """What was found about a pin."""

    newest: str
    note: str = ""
    to_do: str = ""  # the file and the value to change; empty where the pin is the newest
    text: str = ""  # of a lock: what it has to hold


@dataclass(frozen=True)
class Pin:
    """A version, a tag, a digest or a lock, and how to ask about it. `ask` may raise NotAskedError."""

    what: str
    pinned: str
    ask: Callable[[], Answer]


@dataclass(frozen=True)
class Row:
    """A line of the table: a pin, and its answer or the reason why there is none."""

    what: str
    pinned: str
    answer: Answer | None
    reason: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        found = self.answer or Answer("?", "not asked, see below")
        return (self.what, _short(self.pinned), _short(found.newest), found.note)


def ask(pins: Sequence[Pin], waiting: Callable[[str], None], patience: float = 10) -> list[Row]:
    """Ask about all pins beside each other. `waiting` is told each `patience` seconds who has not answered yet."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        asked: dict[Future[Answer], Pin] = {pool.submit(pin.ask): pin for pin in pins}
        open_ = set(asked)
        while open_:
            _, open_ = wait(open_, timeout=patience)
            if open_:
                waiting(", ".join(pin.what for future, pin in asked.items() if future in open_))
        return [_row(pin, future) for future, pin in asked.items()]


def _row(pin: Pin, future: Future[Answer]) -> Row:
    try:
        return Row(pin.what, pin.pinned, future.result())
    except NotAskedError as error:
        return Row(pin.what, pin.pinned, None, str(error))


# --- bundles of binaries -------------------------------------------------------------------------------------


def bundle(given: Mapping[str, Any]) -> Pin:
    """A bundle of `artifacts_binaries`."""
    name, pinned = given["bundle"], str(given["version"])

    def answer() -> Answer:
        if not given.get("upstream"):
            return Answer("-", f"comes from Debian {given['debian']['suite']} alone")
        if not given.get("repository"):
            raise NotAskedError(f"give the bundle a `repository` in {PINS}, where its releases are tagged")
        own = lines.version(pinned)
        if not own:
            raise NotAskedError(f"{pinned!r} is no version with numbers alone; correct it in {PINS}")
        found = lines.releases(own, programs.git_tags(given["repository"]))
        notes = []
        if found.patch:
            notes.append(f"{lines.text_of(found.patch)} is the newest of {lines.text_of(own[:2])}")
        if found.major:
            notes.append(f"{lines.text_of(found.major)} is another major version")
        newest = lines.text_of(found.newest)
        to_do = f"{PINS}: version: {newest} in bundle {name}" if found.newest != own else ""
        if found.patch:
            to_do += f" (or {lines.text_of(found.patch)})"
        return Answer(newest, "; ".join(notes), to_do)

    return Pin(f"bundle {name}", pinned, answer)


# --- base images ---------------------------------------------------------------------------------------------


def base(image: str, argument: str, dockerfile: Path, root: Path) -> Pin | None:
    """The tag of a Dockerfile's base; None for one without a version, of which only the digest can change."""
    name, _, text = image.rpartition(":")
    own = lines.tag(text)
    if not own:
        return None

    def answer() -> Answer:
        newest, later = lines.tags(own, programs.image_tags(name))
        note = f"{later} is on a newer {later.flavour}" if later else ""
        to_do = f"{_path(dockerfile, root)}: ARG {argument}={name}:{newest}, then `make lock`" if newest != own else ""
        return Answer(str(newest), note, to_do)

    return Pin(f"image {name}", text, answer)


def locked_images(bases: Sequence[str], digests: Mapping[str, str]) -> list[str]:
    """The images that the lock has to hold: the Dockerfiles' bases, and those of the lab, which no Dockerfile names.

    A tag that a Dockerfile does not name any more is one of another tag of the same image.
    """
    names = {image.rpartition(":")[0] for image in bases}
    return sorted({*bases, *(image for image in digests if image.rpartition(":")[0] not in names)})


def digest(image: str, pinned: str, file: Path, root: Path) -> Pin:
    """The digest that an image's tag is locked to."""

    def answer() -> Answer:
        found = programs.image_digest(image)
        note = "" if found == pinned else "the tag has moved" if pinned else "not locked yet"
        return Answer(found, note, f"{_path(file, root)}: {image}" if note else "", found)

    return Pin(f"digest {image}", pinned or "-", answer)


def lock_of_images(text: str, digests: Mapping[str, str]) -> str:
    """The lock with other digests; what stands above them, its comment, stays."""
    above = re.split(rf"^{DIGESTS}:", text, maxsplit=1, flags=re.MULTILINE)[0]
    return f"{above}{DIGESTS}:\n" + "".join(f"  {image}: {found}\n" for image, found in sorted(digests.items()))


# --- Python --------------------------------------------------------------------------------------------------


def packages(requirements: Path, root: Path) -> Pin:
    """The lock beside a file of requirements."""
    file = requirements.with_suffix(".txt")
    text = file.read_text(encoding="utf-8") if file.exists() else ""

    def answer() -> Answer:
        newest = programs.lock(requirements, root)
        changes = changed_packages(text, newest)
        if newest == text:
            return Answer("the same", text=newest)
        told = changes or ["other files or comments of the same versions"]
        return Answer(f"{len(changes)} differ", "", "\n    ".join([f"{_path(file, root)}:", *told]), newest)

    return Pin(f"lock {_path(file, root)}", f"{len(locked_packages(text))} pinned", answer)


def locked_packages(text: str) -> dict[str, str]:
    """The version of each package of a lock. A lock for several Pythons can have several."""
    found: dict[str, list[str]] = {}
    for name, pinned in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(name, []).append(pinned)
    return {name: ", ".join(versions) for name, versions in found.items()}


def changed_packages(old: str, new: str) -> list[str]:
    """What differs between two locks, a line for each package."""
    before, after = locked_packages(old), locked_packages(new)
    return [
        f"{name} {before.get(name, '(new)')} → {after.get(name, '(gone)')}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


# --- actions of workflows ------------------------------------------------------------------------------------


def actions(workflows: Sequence[Path], root: Path) -> list[Pin]:
    """The actions that workflows use, each once for each version of it."""
    users: dict[str, list[str]] = {}
    for file in workflows:
        for used in _values(yaml.safe_load(file.read_text(encoding="utf-8")), "uses"):
            if re.fullmatch(r"[\w-]+/[\w./-]+@\S+", used):
                users.setdefault(used, []).append(_path(file, root))
    return [_action(used, sorted(set(files))) for used, files in sorted(users.items())]


def _action(used: str, files: Sequence[str]) -> Pin:
    name, _, pinned = used.partition("@")

    def answer() -> Answer:
        repository = "/".join(name.split("/")[:2])
        newest = lines.newest_reference(pinned, programs.git_tags(f"https://github.com/{repository}"))
        if not newest:
            return Answer("-", "pinned by no version: compare it yourself")
        return Answer(newest, "", f"{', '.join(files)}: uses: {name}@{newest}" if newest != pinned else "")

    return Pin(f"action {name}", pinned, answer)


def _values(tree: Any, key: str) -> Iterator[str]:
    """The texts that `key` has anywhere in a tree of YAML."""
    if isinstance(tree, dict):
        if isinstance(tree.get(key), str):
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _values(branch, key)


# --- telling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """The rows, and what is said below them."""

    rows: Sequence[Row]
    written: Sequence[Row] = ()  # the locks that were changed

    @property
    def table(self) -> list[tuple[str, Row | None]]:
        """Lines of text with their rows, the head first."""
        cells = [COLUMNS, *(row.cells for row in self.rows)]
        width = [max(map(len, column)) for column in zip(*cells, strict=True)]
        texts = ["  ".join(map(str.ljust, line, width)).rstrip() for line in cells]
        return list(zip(texts, [None, *self.rows], strict=True))

    @property
    def unasked(self) -> list[Row]:
        return [row for row in self.rows if not row.answer]

    @property
    def sections(self) -> list[tuple[str, list[str]]]:
        """What to do, a title and its lines each; none is empty."""
        old = [(row, row.answer) for row in self.rows if row.answer and row.answer.to_do]
        found = {
            "Change": [answer.to_do for _, answer in old if not answer.text],
            "`make lock` changes": [answer.to_do for row, answer in old if answer.text and row not in self.written],
            "Written": [answer.to_do for row, answer in old if row in self.written],
            "Not asked": [f"{row.what}: {row.reason}" for row in self.unasked],
        }
        if self.unasked:
            found["Not asked"].append(
                "→ where nobody answers: the network of this machine, https_proxy, the authorities that it trusts"
            )
        return [(title, texts) for title, texts in found.items() if texts]

    @property
    def summary(self) -> str:
        old = sum(bool(row.answer and row.answer.to_do) for row in self.rows) - len(self.written)
        text = f"{old} of {len(self.rows)} pins are not the newest of their line"
        text += f", {len(self.written)} written anew" if self.written else ""
        return text + (f", {len(self.unasked)} could not be asked about" if self.unasked else "")


def _path(file: Path, root: Path) -> str:
    return os.path.relpath(file, root)


def _short(text: str) -> str:
    return text[:SHOWN] if text.startswith("sha256:") else text
