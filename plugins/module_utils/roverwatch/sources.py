"""Where the artifact store gets binaries from: upstream's releases, or Debian's packages as their stand-in.

Upstream publishes a sha256 beside every archive; Debian's packages are verified by apt. A source that cannot
be reached (`UnreachableSource`) may be replaced by the other one. Everything else is an error and stays one:
a checksum that does not match, a release that does not exist, a package that is too old. What upstream releases
without a checksum comes from Debian alone, whatever source is asked for.

Layouts, as the projects' own release rules write them:

- VictoriaMetrics (its Makefile's release-victoria-metrics-goos-goarch and release-vmutils-goos-goarch):
  ``victoria-metrics-linux-<goarch>-v<version>.tar.gz`` holds ``victoria-metrics-prod`` at its top,
  ``vmutils-linux-<goarch>-v<version>.tar.gz`` holds ``vmagent-prod`` and its siblings. The checksums are in
  ``<archive without .tar.gz>_checksums.txt``, lines of sha256sum.
- Prometheus projects (promu): ``<name>-<version>.linux-<goarch>.tar.gz`` holds
  ``<name>-<version>.linux-<goarch>/<name>``; ``sha256sums.txt`` covers all files of a release.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import posixpath
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .store import Entry, MissingArtifact, Store, TamperedArtifact, relative_path, sha256_file

GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian uses Go's words for both
SOURCES = ("auto", "upstream", "debian")
CONNECT_TIMEOUT = 5.0  # seconds without an answer until upstream counts as unreachable
EPOCH = "315532800"  # 1980, the oldest time that a zip can hold: all files of what mmdebstrap makes get it
APT_TIMEOUT = 600  # seconds for one package; apt gives up on a dead mirror long before
PINS = "group_vars/all/artifacts.yml"


class SourceError(Exception):
    """A source has not what is wanted; the text says what, and what to do."""


class UnreachableSource(SourceError):
    """A source does not answer. The only failure after which the other source is asked."""


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

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Bundle:
        """Read the form of group_vars (Ansible has checked its types).

        Raises SourceError when it has no source, or when upstream and Debian do not provide the same artifacts.
        """
        upstream = tuple(Archive(**archive) for archive in data.get("upstream") or ())  # type: ignore[attr-defined]
        debian = DebianPackage(**data["debian"]) if data.get("debian") else None  # type: ignore[arg-type]
        bundle = cls(str(data["bundle"]), str(data["version"]), upstream, debian)
        if not upstream and not debian:
            raise SourceError(f"bundle {bundle.name} in {PINS} has no source: give it upstream, debian or both")
        if upstream and debian and set(debian.files) != set(bundle.names):
            raise SourceError(
                "bundle {} in {}: upstream provides {}, debian {}; they must be the same".format(
                    bundle.name, PINS, ", ".join(bundle.names), ", ".join(sorted(debian.files))
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
    """What `fill` is to have in the store."""

    bundle: Bundle
    arch: str
    source: str  # one of SOURCES
    timeout: float = CONNECT_TIMEOUT

    def __str__(self) -> str:
        return f"{self.bundle.name} {self.bundle.version} {self.arch}"


@dataclass(frozen=True)
class Filled:
    """What `fill` found or did."""

    entries: list[Entry]
    source_used: str  # "store", "upstream" or "debian"; in a dry run what would be asked
    message: str
    damaged: list[str]  # one text for each file that was not what the manifest says


def fill(store: Store, order: Order, dry_run: bool = False) -> Filled:
    """Have every artifact of a bundle in the store, for one architecture. Asks no network for what is there.

    Raises SourceError, or StoreError from the store itself.
    """
    if not order.bundle.upstream:
        order = replace(order, source="debian")
    present, damaged = _present(store, order)
    missing = [name for name in order.bundle.names if name not in present]
    entries = list(present.values())
    if not missing:
        return Filled(entries, "store", f"{order}: in the store{_stand_in_note(order, entries)}", damaged)
    what = ", ".join(missing)
    if dry_run:
        places = {"auto": "upstream, or from Debian where upstream cannot be reached", "debian": "Debian"}
        where = places.get(order.source, order.source)
        return Filled(entries, order.source, f"{order}: would fetch {what} from {where}", damaged)
    with store.staging() as staging:
        used, fetched, why = _fetch(staging, order, missing)
        for entry, staged in fetched:
            store.add(entry, staged)
    entries += [entry for entry, _ in fetched]
    if used == "upstream":
        return Filled(entries, used, f"{order}: fetched {what} from upstream", damaged)
    reason = f"upstream not reachable ({why}), " if why else ""
    suite = order.bundle.debian.suite if order.bundle.debian else ""
    if not order.bundle.upstream:
        return Filled(entries, used, f"{order}: fetched {what} from Debian {suite} ({fetched[0][0].version})", damaged)
    text = f"{order}: {reason}Debian {suite}'s {fetched[0][0].version} stands in ({what})"
    return Filled(entries, used, text, damaged)


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


def _stand_in_note(order: Order, entries: Sequence[Entry]) -> str:
    versions = sorted({entry.version for entry in entries if entry.is_stand_in})
    return " ({} stands in)".format(", ".join(versions)) if versions and order.bundle.upstream else ""


def _fetch(staging: Path, order: Order, names: Sequence[str]) -> tuple[str, list[tuple[Entry, Path]], str]:
    """The source that was used, entries with their staged files, and why upstream was not used, if so."""
    why = ""
    if order.source != "debian":
        try:
            return "upstream", fetch_upstream(staging, order, names), why
        except UnreachableSource as error:
            if order.source == "upstream" or order.bundle.debian is None:
                raise
            why = str(error)
    if order.bundle.debian is None:
        raise SourceError(f"bundle {order.bundle.name} in {PINS} names no Debian package")
    try:
        return "debian", fetch_debian(staging, order, order.bundle.debian, names), why
    except SourceError as error:
        if not why:
            raise
        raise SourceError(f"upstream not reachable ({why}), and Debian: {error}") from error


# --- upstream ----------------------------------------------------------------------------------------------


def fetch_upstream(staging: Path, order: Order, names: Sequence[str]) -> list[tuple[Entry, Path]]:
    """Download, verify and unpack the archives that hold `names`. Raises SourceError."""
    bundle, timeout = order.bundle, order.timeout
    values = {"version": bundle.version, "goarch": GOARCH[order.arch]}
    fetched = []
    for archive in bundle.upstream:
        wanted = {name: path.format(**values) for name, path in archive.files.items() if name in names}
        if not wanted:
            continue
        url, checksums = archive.url.format(**values), archive.checksums.format(**values)
        filename = url.rsplit("/", 1)[-1]
        expected = published_checksum(_first_contact(checksums, timeout), filename, checksums)
        packed = staging / "archive"
        _download(url, packed, timeout)
        found = sha256_file(packed)
        if found != expected:
            raise ChecksumMismatch(
                f"{url} has sha256 {found}, but {checksums} says {expected}. "
                "Nothing was stored; do not use this download"
            )
        with tarfile.open(packed, "r:*") as tar:
            staged = _unpack(tar, wanted, staging, url)
        packed.unlink()
        source = f"{url} (sha256 verified against {checksums})"
        fetched += _entries(staged, order, bundle.version, source)
    return fetched


def published_checksum(text: str, filename: str, origin: str) -> str:
    """The sha256 of `filename` in the output of sha256sum. Raises ChecksumMismatch when it lists none."""
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line.strip())
        if match and match.group(2) == filename:
            return match.group(1)
    raise ChecksumMismatch(f"{origin} lists no sha256 of {filename}, so it cannot be verified")


def _first_contact(url: str, timeout: float) -> str:
    """The text at a URL within `2 * timeout` seconds in all.

    A timeout of sockets covers neither a name server that is silent nor a server that trickles. So the
    request runs in a thread that is left behind when the time is over.
    """
    result: list[bytes] = []
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            with _request(url, timeout) as response:
                result.append(response.read())
        except (SourceError, OSError, http.client.HTTPException) as error:
            failure.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * timeout)
    if failure and isinstance(failure[0], SourceError):
        raise failure[0]
    if not result:
        reason = failure[0] if failure else f"no answer within {2 * timeout:g} s"
        raise UnreachableSource(f"{url}: {reason}")
    return result[0].decode("utf-8", "replace")


def _download(url: str, target: Path, timeout: float) -> None:
    try:
        with _request(url, timeout) as response, target.open("wb") as stream:
            shutil.copyfileobj(response, stream, 1 << 20)
            announced = response.headers.get("Content-Length")
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableSource(f"{url}: {error}") from error
    if announced is not None and target.stat().st_size != int(announced):
        raise UnreachableSource(f"{url}: broke off after {target.stat().st_size} of {announced} bytes")


@contextlib.contextmanager
def _request(url: str, timeout: float) -> Iterator[http.client.HTTPResponse]:
    """Open a URL. Raises UnreachableSource, or SourceError when the server says that it is not there."""
    if not url.startswith(("https://", "http://")):
        raise SourceError(f"{url} is no http URL; correct it in {PINS}")
    try:
        response = urllib.request.urlopen(url, timeout=timeout)  # noqa: S310  (the scheme is checked above)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            raise SourceError(
                f"{url} does not exist (HTTP {error.code}); correct the version or the URL in {PINS}"
            ) from error
        raise UnreachableSource(f"{url}: HTTP {error.code}") from error
    except urllib.error.URLError as error:
        raise UnreachableSource(f"{url}: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableSource(f"{url}: {error}") from error
    with response:
        yield response


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
    if "expired" in text:
        text += ". The mirror is out of date, or the controller's clock is wrong"
    raise (UnreachableSource if "Failed to fetch" in text else SourceError)(text)


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
