"""Where the artifact store gets binaries from: upstream's releases, or Debian's packages as their stand-in.

Upstream publishes a sha256 beside every archive; Debian's packages are verified by apt. Where upstream cannot be
reached (`UnreachableSource`), Debian's package stands in, until upstream can be. Everything else is an error and
stays one: a checksum that does not match, a release that does not exist, a login that is not accepted, a package that
is too old. What upstream releases without a checksum comes from Debian alone.

Layouts, as the projects' own release rules write them:

- VictoriaMetrics (its Makefile's release-victoria-metrics-goos-goarch and release-vmutils-goos-goarch):
  ``victoria-metrics-linux-<goarch>-v<version>.tar.gz`` holds ``victoria-metrics-prod`` at its top,
  ``vmutils-linux-<goarch>-v<version>.tar.gz`` holds ``vmagent-prod`` and its siblings. The checksums are in
  ``<archive without .tar.gz>_checksums.txt``, lines of sha256sum.
- Prometheus projects (promu): ``<name>-<version>.linux-<goarch>.tar.gz`` holds
  ``<name>-<version>.linux-<goarch>/<name>``; ``sha256sums.txt`` covers all files of a release.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    Entry,
    MissingArtifact,
    Store,
    TamperedArtifact,
    relative_path,
    sha256_file,
)

from . import download as _download
from .download import Hosts, Place, download, place

PINS = _download.PINS
SourceError = _download.SourceError
UnreachableSource = _download.UnreachableSource

GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian uses Go's words for both
SOURCES = ("auto", "upstream", "debian")
CONNECT_TIMEOUT = 5.0  # seconds without an answer until upstream counts as unreachable
EPOCH = "315532800"  # 1980, the oldest time that a zip can hold: all files of what mmdebstrap makes get it
APT_TIMEOUT = 600  # seconds for one package; apt gives up on a dead mirror long before


class ChecksumMismatch(SourceError):
    """What was downloaded is not what upstream says it published. Never a reason to ask the other source."""


@dataclass(frozen=True)
class Archive:
    """One archive of a release; `{version}` and `{goarch}` in every text are filled in."""

    url: str
    checksums: str
    files: Mapping[str, str]  # artifact name: path inside the archive


@dataclass(frozen=True)
class DebianPackage:
    """The package that stands in; `minimum_version` is the oldest upstream version that will do."""

    suite: str
    package: str
    minimum_version: str
    files: Mapping[str, str]  # artifact name: path inside the package


@dataclass(frozen=True)
class Bundle:
    """Binaries that are released together, under one version."""

    name: str
    version: str
    upstream: tuple[Archive, ...] = ()
    debian: DebianPackage | None = None
    source: str | None = None  # one of SOURCES, where it has one of its own

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Bundle:
        """Read the form of group_vars (Ansible has checked its types).

        Raises SourceError when it has no source or another one than it asks for, or when upstream and Debian do not
        provide the same artifacts.
        """
        upstream = tuple(Archive(**archive) for archive in data.get("upstream") or ())  # type: ignore[attr-defined]
        debian = DebianPackage(**data["debian"]) if data.get("debian") else None  # type: ignore[arg-type]
        source = str(data["source"]) if data.get("source") else None
        bundle = cls(str(data["bundle"]), str(data["version"]), upstream, debian, source)
        about = f"bundle {bundle.name} in {PINS}"
        if not upstream and not debian:
            raise SourceError(f"{about} has no source: give it upstream, debian or both")
        if source not in {None, *SOURCES}:
            raise SourceError(f"{about}: source is {source!r}; it must be one of {', '.join(SOURCES)}")
        if (source == "upstream" and not upstream) or (source == "debian" and not debian):
            raise SourceError(f"{about}: source is {source}, and {source} is what it does not have")
        if upstream and debian and set(debian.files) != set(bundle.names):
            raise SourceError(
                "{}: upstream provides {}, debian {}; they must be the same".format(
                    about, ", ".join(bundle.names), ", ".join(sorted(debian.files))
                )
            )
        return bundle

    @property
    def names(self) -> list[str]:
        """The artifacts of this bundle."""
        debian = (self.debian,) if self.debian else ()
        return sorted(name for source in self.upstream or debian for name in source.files)


@dataclass(frozen=True)
class Order:
    """What `fill` is to have in the store, and in what company."""

    bundle: Bundle
    arch: str
    default_source: str  # one of SOURCES, for a bundle that says none
    timeout: float = CONNECT_TIMEOUT
    hosts: Hosts = field(default_factory=Hosts)  # of the orders of one run
    report: Callable[[str], None] = lambda _: None  # takes what is being done, for who waits

    @property
    def source(self) -> str:
        """One of SOURCES."""
        return (self.bundle.source or self.default_source) if self.bundle.upstream else "debian"

    def __str__(self) -> str:
        return f"{self.bundle.name} {self.bundle.version} {self.arch}"


@dataclass(frozen=True)
class Filled:
    """What `fill` found or did."""

    entries: list[Entry]
    source_used: str  # "store", "upstream" or "debian"; in a dry run what would be asked
    message: str
    damaged: list[str]  # one text for each file that was not what the manifest says
    not_as_pinned: str = ""  # says what stands in and why, if anything does


def fill(store: Store, order: Order, dry_run: bool = False) -> Filled:
    """Have every artifact of a bundle in the store, for one architecture. Asks no network for what is there as pinned.

    Where either source will do, upstream is asked for what Debian stands in for; if it cannot be reached, that stays.
    Raises SourceError, or StoreError from the store itself.
    """
    present, damaged = _present(store, order)
    missing = [name for name in order.bundle.names if name not in present]
    better = [name for name, entry in present.items() if entry.is_stand_in and order.source == "auto"]
    if dry_run and missing:
        places = {"auto": "upstream, or from Debian where upstream cannot be reached", "debian": "Debian"}
        text = f"{order}: would fetch {', '.join(missing)} from {places.get(order.source, order.source)}"
        return Filled(list(present.values()), order.source, text, damaged)
    fetched: list[tuple[Entry, Path]] = []
    used, why = "store", f"its source is {order.source}"
    if dry_run and better:
        why = "a dry run does not ask upstream"
    elif missing or better:
        with store.staging() as staging:
            used, fetched, why = _fetch(staging, order, missing, better)
            for entry, staged in fetched:
                store.add(entry, staged)
    new = {entry.name: entry for entry, _ in fetched}
    entries = list({**present, **new}.values())
    stand_ins = _stand_ins(order, entries)
    return Filled(
        entries=entries,
        source_used=used,
        message=f"{order}: {_done(order, used, new, stand_ins, why)}",
        damaged=damaged,
        not_as_pinned=f"{order} ({stand_ins} stands in, because {why})" if stand_ins else "",
    )


def _done(order: Order, used: str, new: Mapping[str, Entry], stand_ins: str, why: str) -> str:
    what = ", ".join(sorted(new))
    if used == "store":
        return f"in the store ({stand_ins} stands in)" if stand_ins else "in the store"
    if used == "upstream":
        return f"fetched {what} from upstream"
    assert order.bundle.debian is not None
    version = next(iter(new.values())).version
    if not order.bundle.upstream:
        return f"fetched {what} from Debian {order.bundle.debian.suite} ({version})"
    reason = "" if order.source == "debian" else f"{why}, "
    return f"{reason}Debian {order.bundle.debian.suite}'s {version} stands in ({what})"


def _present(store: Store, order: Order) -> tuple[dict[str, Entry], list[str]]:
    """The artifacts that are there, whole and of an acceptable source, and what was found damaged."""
    present: dict[str, Entry] = {}
    damaged = []
    for name in order.bundle.names:
        try:
            entry = store.find(name, order.bundle.version, order.arch)
            if _acceptable(order, entry):
                store.verify(entry)
                present[name] = entry
        except TamperedArtifact as error:
            damaged.append(str(error))
        except MissingArtifact:
            pass
    return present, damaged


def _acceptable(order: Order, entry: Entry) -> bool:
    """Whether an entry is of the source that was asked for and, as a stand-in, still new enough."""
    if order.source != "auto" and entry.is_stand_in != (order.source == "debian"):
        return False
    if not entry.is_stand_in or order.bundle.debian is None:
        return True
    return version_at_least(upstream_part(entry.version), order.bundle.debian.minimum_version)


def _stand_ins(order: Order, entries: Sequence[Entry]) -> str:
    """The versions that stand in for the pinned one. What has no upstream is as pinned in what Debian has."""
    versions = sorted({entry.version for entry in entries if entry.is_stand_in})
    return ", ".join(versions) if order.bundle.upstream else ""


def _fetch(
    staging: Path, order: Order, missing: Sequence[str], better: Sequence[str]
) -> tuple[str, list[tuple[Entry, Path]], str]:
    """The source that was used, entries with their staged files, and why upstream was not used, if so.

    `better` is what Debian stands in for already: upstream's is fetched if it can be reached.
    """
    why = f"its source is {order.source}"
    if order.source != "debian":
        try:
            return "upstream", fetch_upstream(staging, order, [*missing, *better]), ""
        except UnreachableSource as error:
            if order.source == "upstream" or order.bundle.debian is None:
                raise
            why = f"upstream is not reachable ({error})"
    if not missing:
        return "store", [], why
    if order.bundle.debian is None:
        raise SourceError(f"bundle {order.bundle.name} in {PINS} names no Debian package")
    order.report(f"asking Debian's mirror for {order.bundle.debian.package}")
    try:
        return "debian", fetch_debian(staging, order, order.bundle.debian, missing), why
    except SourceError as error:
        if order.source == "debian":
            raise
        # Not in reach either, or not good enough: which of them, the error says that it goes on as.
        raise type(error)(f"{why}, and Debian: {error}") from error


# --- upstream ----------------------------------------------------------------------------------------------


def fetch_upstream(staging: Path, order: Order, names: Sequence[str]) -> list[tuple[Entry, Path]]:
    """Download, verify and unpack the archives that hold `names`. Raises SourceError."""
    fetched = []
    for archive in order.bundle.upstream:
        wanted = {name: _filled(path, order) for name, path in archive.files.items() if name in names}
        if not wanted:
            continue
        packed, checksums = (_filled_place(url, order) for url in (archive.url, archive.checksums))
        order.report(f"asking {checksums.host}")
        expected = published_checksum(order.hosts.text(checksums, order.timeout), packed.filename, checksums.url)
        target = staging / "archive"
        download(packed, target, order.report)
        found = sha256_file(target)
        if found != expected:
            raise ChecksumMismatch(
                f"{packed.url} has sha256 {found}, but {checksums.url} says {expected}. "
                "Nothing was stored; do not use this download"
            )
        order.report(f"unpacking {packed.filename}")
        with tarfile.open(target, "r:*") as tar:
            staged = _unpack(tar, wanted, staging, packed.url)
        target.unlink()
        source = f"{packed.url} (sha256 verified against {checksums.url})"
        fetched += _entries(staged, order, order.bundle.version, source)
    return fetched


def _filled_place(url: str, order: Order) -> Place:
    """A URL of the pins. Its login is taken off first: what that has of braces is none of ours."""
    found = place(url)
    return replace(found, url=_filled(found.url, order))


def _filled(text: str, order: Order) -> str:
    try:
        return text.format(version=order.bundle.version, goarch=GOARCH[order.arch])
    except (LookupError, ValueError) as error:
        raise SourceError(
            f"{text}: nothing but {{version}} and {{goarch}} can be filled in; correct it in {PINS}"
        ) from error


_CHECKSUM = re.compile(r"(?P<escaped>\\?)(?P<sha256>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_TAGGED_CHECKSUM = re.compile(r"(?P<escaped>\\?)SHA256 \((?P<name>.+)\) = (?P<sha256>[0-9a-fA-F]{64})")
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def published_checksum(text: str, filename: str, origin: str) -> str:
    """The sha256 of `filename` in the output of sha256sum. Raises ChecksumMismatch when it lists none."""
    for line in text.splitlines():
        match = _CHECKSUM.fullmatch(line.strip()) or _TAGGED_CHECKSUM.fullmatch(line.strip())
        if not match:
            continue
        name = match["name"]
        if match["escaped"]:
            name = re.sub(r"\\[\\nr]", lambda escape: _ESCAPES[escape[0]], name)
        if posixpath.normpath(name) == filename:
            return match["sha256"].lower()
    raise ChecksumMismatch(f"{origin} lists no sha256 of {filename}, so it cannot be verified")


# --- Debian ------------------------------------------------------------------------------------------------


def fetch_debian(staging: Path, order: Order, debian: DebianPackage, names: Sequence[str]) -> list[tuple[Entry, Path]]:
    """Download a package, verified by apt, and unpack `names` from it."""
    package = download_package(staging / "apt", debian.suite, debian.package, order.arch)
    version = _output(["dpkg-deb", "--field", str(package), "Version"]).strip()
    upstream = upstream_part(version)
    if not version_at_least(upstream, debian.minimum_version):
        raise SourceError(
            f"Debian {debian.suite} has {debian.package} {version}, and nothing older than "
            f"{debian.minimum_version} may stand in for {order}. Give the controller access to upstream, or "
            f"lower minimum_version in {PINS}"
        )
    wanted = {name: debian.files[name] for name in names}
    origin = f"{debian.package} {version}"
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        staged = _unpack(tar, wanted, staging, origin)
        while stream.read(1 << 20):
            pass  # dpkg-deb must not die of a closed pipe before it can say whether the package was whole
    if process.wait() != 0:
        raise SourceError(f"dpkg-deb cannot read {origin} of Debian {debian.suite}")
    source = f"Debian {debian.suite}: {origin} {GOARCH[order.arch]}"
    return _entries(staged, order, path_safe(version), source)


def download_package(folder: Path, suite: str, package: str, arch: str) -> Path:
    """Have one .deb in `folder`, with the archive's signature and the file's hash verified by apt.

    `mmdebstrap` sets up an apt of its own, for any suite and architecture, without root and without touching
    the controller's; nothing is installed, so no package's script runs.
    """
    command = [
        *mmdebstrap_command(arch),
        "--variant=custom",
        "--mode=chrootless",
        f'--extract-hook=cd "$1" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download \'{package}\'',
        suite,
        str(folder),
    ]
    run_mmdebstrap(command, f"{package} of Debian {suite}")
    found = sorted(folder.glob("*.deb"))
    if len(found) != 1:
        raise SourceError(f"apt fetched {len(found)} files for {package} of Debian {suite}")
    return found[0]


def mmdebstrap_command(arch: str) -> list[str]:
    """The start of a command line of mmdebstrap: quick to give up, with the controller's own rules for dates.

    A mirror that is frozen on purpose (a site's snapshot) serves an index that has expired. Whether that is
    accepted is the decision of who runs the controller; apt knows it, but mmdebstrap reads no apt.conf.d.
    """
    command = ["mmdebstrap", "--quiet", "--architectures=" + GOARCH[arch], "--aptopt=Acquire::Retries 0"]
    command += [f"--aptopt=Acquire::{kind}::Timeout {CONNECT_TIMEOUT:g}" for kind in ("http", "https")]
    for option in ("Acquire::Check-Valid-Until", "Acquire::Check-Date"):
        value = _output(["apt-config", "shell", "value", option]).strip()
        if value:
            command.append('--aptopt={} "{}"'.format(option, value.partition("=")[2].strip("'")))
    return command


def run_mmdebstrap(command: Sequence[str], what: str) -> None:
    """Run mmdebstrap. Raises UnreachableSource where it is missing or apt reaches no mirror, else SourceError."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
            timeout=APT_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise UnreachableSource(_NO_MMDEBSTRAP) from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableSource(f"{what}: not there after {APT_TIMEOUT} s") from error
    if done.returncode == 0:
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith("E: ")] or ["E: " + done.stderr]
    text = f"cannot get {what}: {errors[0][3:].strip()}"
    for said, remedy in _REMEDIES.items():
        if said in text:
            text += f". {remedy}"
    raise (UnreachableSource if "Failed to fetch" in text else SourceError)(text)


# What mmdebstrap and apt say, and what it takes. Who is not root unpacks a system in a user namespace.
_REMEDIES = {
    "expired": "The mirror is out of date, or the controller's clock is wrong",
    "is not signed": "If this is not Debian, its archive's key is missing: apt-get install debian-archive-keyring",
    "newuidmap": "This takes the package uidmap: apt-get install uidmap",
    "/etc/subuid": "This user has no range of user numbers: usermod --add-subuids 100000-165535 "
    "--add-subgids 100000-165535",
}

_NO_MMDEBSTRAP = (
    "Debian's packages need mmdebstrap, apt and dpkg on the controller: apt-get install mmdebstrap (or use a "
    "controller that can reach upstream)"
)


def upstream_part(version: str) -> str:
    """Upstream's version in a Debian version: 1.145.0 of 1:1.145.0+ds1-2."""
    without_epoch = version.partition(":")[2] or version
    without_revision = without_epoch.rpartition("-")[0] or without_epoch
    return re.sub(r"[+~](ds|dfsg|really).*$", "", without_revision)


def version_at_least(version: str, minimum: str) -> bool:
    """Compare by Debian's rules."""
    command = ["dpkg", "--compare-versions", version, "ge", minimum]
    try:
        return subprocess.run(command, check=False).returncode == 0
    except FileNotFoundError as error:
        raise UnreachableSource(_NO_MMDEBSTRAP) from error


def path_safe(version: str) -> str:
    """A Debian version as part of a path: without its epoch, whose colon separates paths in lists."""
    return version.partition(":")[2] or version


# --- both --------------------------------------------------------------------------------------------------


def _unpack(tar: tarfile.TarFile, wanted: Mapping[str, str], folder: Path, origin: str) -> dict[str, Path]:
    """Write the wanted members, by artifact name, as plain files with names of our own.

    Raises SourceError when one is missing or is no regular file.
    """
    names = {posixpath.normpath(path): name for name, path in wanted.items()}
    staged = {}
    for member in tar:
        name = names.get(posixpath.normpath(member.name))
        content = tar.extractfile(member) if name and member.isreg() else None
        if name and content:
            staged[name] = folder / name
            with content, staged[name].open("wb") as stream:
                shutil.copyfileobj(content, stream, 1 << 20)
            staged[name].chmod(0o755)
    absent = sorted(path for name, path in wanted.items() if name not in staged)
    if absent:
        raise SourceError(f"{origin} holds no file {', '.join(absent)}; correct the path in {PINS}")
    return staged


def _entries(staged: Mapping[str, Path], order: Order, version: str, source: str) -> list[tuple[Entry, Path]]:
    return [
        (
            Entry(
                name=name,
                version=version,
                requested=order.bundle.version,
                arch=order.arch,
                kind="binary",
                file=relative_path(name, version, order.arch, name),
                size=path.stat().st_size,
                sha256=sha256_file(path),
                source=source,
            ),
            path,
        )
        for name, path in staged.items()
    ]


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise UnreachableSource(_NO_MMDEBSTRAP) from error
    except subprocess.CalledProcessError as error:
        raise SourceError("{} failed: {}".format(" ".join(command), error.stderr.strip())) from error
