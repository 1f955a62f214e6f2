"""Base images in the local engine: from their registry by digest, or made of Debian's packages where none answers.

A tag moves; what is pulled is named by the digest of its manifest, which ``group_vars/all/images.lock.yml`` pins for
each tag. An image that somebody loaded into the engine by hand has no such digest: it is taken as it is.

Only a registry that cannot be reached (`UnreachableSource`) may be replaced by packages. What a registry says (a login,
a limit, no such image, none for this architecture) is an error and stays one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import select
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import sha256_file

from .sources import GOARCH, PINS, SourceError, UnreachableSource, mmdebstrap_command, run_mmdebstrap

LOCK = "group_vars/all/images.lock.yml"
REGISTRY_ANSWERS_WITHIN = 20.0  # seconds from the start of a pull until the registry has named the image
PULL_TIMEOUT = 900.0  # seconds for a pull that does make progress
PROGRESS_EVERY = 10.0  # seconds
FALLBACK_LABEL = "roverwatch.recipe"

Tell = Callable[[str], None]

# Nothing in a container reads these.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class LocalImage:
    """An image in the local engine."""

    image_id: str
    arch: str  # in Go's words
    labels: Mapping[str, str]
    names: tuple[str, ...]
    digests: tuple[str, ...]  # what it was pulled by, as name@sha256:…; none of one that was built or loaded
    size: int  # bytes

    @classmethod
    def from_inspect(cls, shown: Mapping[str, Any]) -> LocalImage:
        """Read what ``docker image inspect`` shows of one image. Nearly all of it may be null or missing."""
        config = shown.get("Config") or {}
        return cls(
            image_id=shown["Id"],
            arch=shown.get("Architecture") or "",
            labels=config.get("Labels") or {},
            names=tuple(shown.get("RepoTags") or ()),
            digests=tuple(shown.get("RepoDigests") or ()),
            size=shown.get("Size") or 0,
        )


@dataclass(frozen=True)
class Base:
    """A base image in the local engine."""

    name: str  # what the engine knows it by; ends with the digest that it was pulled by
    image_id: str
    note: str = ""  # how it came here, or why it is not the one that was wanted


@dataclass(frozen=True)
class Fallback:
    """A base image that is made of Debian packages where no registry can be reached."""

    repository: str  # its name in the local engine, without a tag
    suite: str
    packages: tuple[str, ...]
    variant: str  # mmdebstrap's: "extract" unpacks the packages and no more, "minbase" is a system with apt
    command: str  # what a container runs by itself

    def tag(self, arch: str) -> str:
        """Its whole name in the local engine."""
        foreign = "" if arch == platform.machine() else f"-{GOARCH[arch]}"
        return f"{self.repository}:{self.suite}{foreign}"

    @property
    def recipe(self) -> str:
        """Tells a base that was made from other packages."""
        return hashlib.sha256(" ".join((self.variant, self.suite, *self.packages)).encode()).hexdigest()[:16]


def python_base(suite: str, packages: Sequence[str]) -> Fallback:
    """What takes the place of a Python image: packages that are only unpacked."""
    return Fallback("roverwatch/python-base", suite, tuple(packages), "extract", "python3")


def inspect(name: str) -> LocalImage | None:
    """What the local engine knows of an image; None where it has none of this name, or there is no engine."""
    try:
        done = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return LocalImage.from_inspect(json.loads(done.stdout)[0]) if done.returncode == 0 else None


def local_image(name: str, arch: str, recipe: str | None = None) -> str | None:
    """The id of an image in the local engine, if it is for this architecture (and made by this recipe)."""
    image = inspect(name)
    if image is None or image.arch != GOARCH[arch] or (recipe and image.labels.get(FALLBACK_LABEL) != recipe):
        return None
    return image.image_id


@dataclass(frozen=True)
class Wanted:
    """A base image that somebody asks for."""

    name: str  # with its tag
    arch: str
    digest: str  # of its manifest; empty where the lock has none
    source: str = "auto"  # one of sources.SOURCES
    fallback: Fallback | None = None

    @property
    def pinned(self) -> str:
        """The name with the digest, by which it is pulled."""
        return f"{self.name}@{self.digest}" if self.digest else self.name


def choose(wanted: Wanted, tell: Tell) -> Base:
    """The base that is wanted, or its fallback where no registry answers. Raises SourceError."""
    note = ""
    if wanted.source != "debian":
        try:
            return here_or_pulled(wanted, tell)
        except UnreachableSource as error:
            if wanted.source == "upstream" or wanted.fallback is None:
                raise
            note = f", because {error}"
    fallback = wanted.fallback
    if fallback is None:
        raise SourceError(f"{wanted.name}: no fallback is set in {PINS}")
    made = fallback.tag(wanted.arch)
    image_id = local_image(made, wanted.arch, fallback.recipe)
    if image_id is None:
        tell(f"making {made} from Debian's mirror{note}")
        make_fallback(fallback, wanted.arch)
        image_id = local_image(made, wanted.arch, fallback.recipe)
    if image_id is None:
        raise SourceError(f"the engine does not keep {made}, which was just loaded")
    return Base(made, image_id, note)


# --- from a registry ---------------------------------------------------------------------------------------


def here_or_pulled(wanted: Wanted, tell: Tell) -> Base:
    """A base image from the local engine, else from its registry, by the digest that the lock pins.

    Raises UnreachableSource when the registry does not answer, SourceError when it does and has no such image for us.
    """
    arch, pinned = wanted.arch, wanted.pinned
    image_id = local_image(pinned, arch) if wanted.digest else None
    if image_id:
        return Base(pinned, image_id)
    by_hand = inspect(wanted.name)
    if by_hand and not by_hand.digests and by_hand.arch == GOARCH[arch]:
        return Base(wanted.name, by_hand.image_id, ", which was loaded into the engine by hand")
    if not wanted.digest:
        raise SourceError(f"{wanted.name} is in no line of {LOCK}, so it is not pulled: `make lock` pins its digest")
    tell(f"pulling {pinned}")
    _pull(pinned, arch, tell)
    image_id = local_image(pinned, arch)
    if image_id is None:
        raise SourceError(f"{pinned} is not an image for {arch}; correct its tag, then `make lock`")
    return Base(pinned, image_id, ", pulled by its digest")


def _pull(name: str, arch: str, tell: Tell) -> None:
    command = ["docker", "pull", "--platform", f"linux/{GOARCH[arch]}", name]
    started = told = time.monotonic()
    output = ""
    with _started(command) as process:
        assert process.stdout is not None
        while True:
            if select.select([process.stdout], [], [], 0.1)[0]:
                block = os.read(process.stdout.fileno(), 65536).decode("utf-8", "replace")
                if not block:
                    break
                output += block
            now = time.monotonic()
            if "Pulling from" not in output and now > started + REGISTRY_ANSWERS_WITHIN:
                raise UnreachableSource(f"no registry answered for {name} within {REGISTRY_ANSWERS_WITHIN:g} s")
            if now > started + PULL_TIMEOUT:
                raise UnreachableSource(f"{name} was not here after {PULL_TIMEOUT:g} s: {layers(output)}")
            if now > told + PROGRESS_EVERY:
                told = now
                tell(f"pulling {name}: {layers(output)} after {now - started:.0f} s")
        process.wait()
    if process.returncode != 0:
        raise pull_error(name, arch, output)


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise SourceError(f"{command[0]} is not on the controller, which pulls images with its command line") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def layers(output: str) -> str:
    """How far a pull is. Without a terminal docker says of each layer when it begins and when it is there."""
    here = set(re.findall(r"^(\w+): (?:Pull complete|Already exists)", output, re.MULTILINE))
    known = here | set(re.findall(r"^(\w+): Pulling fs layer", output, re.MULTILINE))
    return f"{len(here)} of {len(known)} layers"


# What the engine says of a pull that failed, and what it means. The first that is found counts; the registry's own
# words come before those of a connection, since they may quote an address that answered with a time-out.
_LIMIT = "toomanyrequests|429 Too Many"
_LOGIN = "denied|unauthorized|authentication required|no basic auth|401 Unauthorized|403 Forbidden"
_ABSENT = "manifest unknown|not found: manifest|name unknown|: not found"
_OTHER_ARCH = "no matching manifest|does not match the specified platform"
_UNTRUSTED = "x509:|certificate"
_UNREACHABLE = (
    "no such host|server misbehaving|name resolution|connection refused|connection reset|broken pipe|unreachable|"
    "no route to host|time-?out|timed out|deadline exceeded|request canceled|EOF|proxyconnect|"
    "50[0234] |Internal Server Error|Bad Gateway|Service Unavailable|unexpected HTTP status: 5"
)


def pull_error(name: str, arch: str, output: str) -> SourceError:
    """What to raise for a ``docker pull`` that failed, by what it said last."""
    said = output.strip().splitlines()[-1] if output.strip() else "docker pull said nothing"
    host = name.partition("/")[0] if re.match(r"[^/]*[.:][^/]*/|localhost/", name) else ""
    login = f"docker login {host}".strip()
    for pattern, text in (
        (_LIMIT, f"the registry refuses more pulls of {name} for now; log in (`{login}`) or try again later"),
        (_LOGIN, f"the registry does not give {name} to this engine: `{login}`, or correct the name"),
        (_ABSENT, f"{name} does not exist; correct its tag, then `make lock`"),
        (_OTHER_ARCH, f"{name} is not an image for {arch}; correct its tag, then `make lock`"),
        (_UNTRUSTED, f"the engine does not trust the certificate of {name}'s registry; give it the authority's"),
    ):
        if re.search(pattern, said, re.IGNORECASE):
            return SourceError(f"{text}. artifacts_source: debian in {PINS} goes on without it ({said})")
    if re.search(_UNREACHABLE, said, re.IGNORECASE):
        return UnreachableSource(f"{name} cannot be pulled ({said})")
    return SourceError(f"{name} cannot be pulled ({said})")


# --- of Debian packages ------------------------------------------------------------------------------------


def make_fallback(fallback: Fallback, arch: str) -> None:
    """Load a base image of Debian packages into the local engine. Raises SourceError.

    The same packages, only unpacked, give the same image id, so that a base that was made anew does not make the
    images on it old; and no package's script runs, so that the architecture may be another one than ours.
    """
    name = fallback.tag(arch)
    mode = "root" if os.geteuid() == 0 else "unshare"
    command = [*mmdebstrap_command(arch), f"--mode={mode}", f"--variant={fallback.variant}", "--format=tar"]
    command += [f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED]
    command += ["--include=" + ",".join(fallback.packages), fallback.suite]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        run_mmdebstrap([*command, str(folder / "layer.tar")], f"{name} from Debian {fallback.suite}")
        described = {
            "architecture": GOARCH[arch],
            "os": "linux",
            "config": {"Cmd": [fallback.command], "Labels": {FALLBACK_LABEL: fallback.recipe}, "Env": [_PATH]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha256_file(folder / "layer.tar")]},
        }
        (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        with tarfile.open(folder / "image.tar", "w") as tar:
            for part in ("manifest.json", "config.json", "layer.tar"):
                tar.add(folder / part, part)
        # Or the old one stays, without a name.
        subprocess.run(["docker", "image", "rm", name], capture_output=True, check=False)
        load = ["docker", "load", "--quiet", "--input", str(folder / "image.tar")]
        done = subprocess.run(load, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SourceError(f"the engine does not load {name}: {done.stderr.strip()}")
