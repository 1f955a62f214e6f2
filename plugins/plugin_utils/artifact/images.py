"""How the artifact store gets an image: a build from a Dockerfile, without a network inside.

The Dockerfile says which base it wants and what it copies; the store appends the locks of the chosen extras to
``requirements.txt``, and adds a folder ``wheels/`` with all of that for the base's own Python and C library. They
are fetched on the controller and checked against the lock's hashes. An image is *current* while its inputs (files,
lock, base) are the ones that it was built from; then neither a network nor a container engine is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    Entry,
    MissingArtifact,
    Store,
    TamperedArtifact,
    relative_path,
    sha256_file,
)

from .base_images import Base, Fallback, Tell, Wanted, choose, inspect, local_image
from .sources import GOARCH, PINS, SourceError

STEP_TIMEOUT = 900  # seconds for a build or a download that does make progress

# What a wheel may ask of a C library, newest first; the names are those of pip's --platform.
WHEEL_PLATFORMS = {
    "musl": ("musllinux_1_2", "musllinux_1_1"),
    "gnu": ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014"),
}


class BuildError(Exception):
    """An image cannot be built; the text says which step failed, with the end of its output."""


@dataclass(frozen=True)
class Image:
    """An image that is to be in the store."""

    name: str
    version: str
    arch: str
    context: Path  # holds the Dockerfile
    pip: tuple[str, ...]  # the command that runs pip
    pip_lock: Path  # a requirements file that pins pip itself, with hashes
    fallback: Fallback | None
    source: str  # one of sources.SOURCES; "upstream" takes no fallback, "debian" nothing else
    digests: Mapping[str, str]  # of base images, by their tags
    extras: tuple[str, ...] = ()  # optional dependencies, each with a lock of its own in the context

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.arch}"


@dataclass(frozen=True)
class Built:
    """What `ensure` found or did."""

    entry: Entry | None  # None in a dry run
    changed: bool
    message: str
    damaged: list[str]
    not_as_pinned: str = ""  # says what it stands on and why, if that is not the pinned base


# --- what an image is made of ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dockerfile:
    """What the store needs to know of a Dockerfile."""

    base_argument: str
    base: str
    copied: tuple[str, ...]  # paths in the context, without wheels/
    arguments: frozenset[str]


def read_dockerfile(path: Path) -> Dockerfile:
    """Read base and copied paths. Raises BuildError when the base is no argument with a default."""
    try:
        text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BuildError(f"{path} is not there; correct the image's context in {PINS}") from error
    base = re.search(r"^ARG\s+(\w+)=(\S+)\s*$(?=[\s\S]*?^FROM\s+\$\{?\1\}?)", text, re.MULTILINE)
    if not base:
        raise BuildError(f"{path}: the base must be an argument, ARG BASE_IMAGE=… and FROM ${{BASE_IMAGE}}")
    copied: list[str] = []
    for line in re.findall(r"^COPY\s+(.+)$", text, re.MULTILINE):
        words = line.split()
        if any(word.startswith("--from") for word in words):
            continue
        copied += [word.rstrip("/") for word in words[:-1] if not word.startswith("--")]
    arguments = frozenset(re.findall(r"^ARG\s+(\w+)", text, re.MULTILINE))
    unique = tuple(sorted(set(copied) - {"wheels"}))
    return Dockerfile(base.group(1), base.group(2), unique, arguments)


def context_files(context: Path, copied: Sequence[str]) -> list[Path]:
    """Every file that goes into the build, relative to the context; compiled Python stays out.

    Raises BuildError when a copied path is not there.
    """
    found = {Path("Dockerfile")}
    for name in copied:
        path = context / name
        if path.is_dir():
            found |= {
                file.relative_to(context)
                for file in path.rglob("*")
                if file.is_file() and "__pycache__" not in file.parts and ".egg-info" not in str(file)
            }
        elif path.is_file():
            found.add(Path(name))
        else:
            raise BuildError(f"{context / 'Dockerfile'} copies {name}, which is not in {context}")
    return sorted(found)


def extra_locks(image: Image) -> list[str]:
    """The locks of the image's extras, in the context. Raises BuildError for an extra that has none."""
    found = sorted(path.stem.partition("-")[2] for path in image.context.glob("requirements-*.txt"))
    for extra in image.extras:
        if extra not in found:
            raise BuildError(
                f"artifacts_{image.name}_extras has {extra!r}, and {image.context} no requirements-{extra}.txt; the "
                f"extras there are: {', '.join(found) or 'none'} (set in {PINS})"
            )
    return [f"requirements-{extra}.txt" for extra in sorted(set(image.extras))]


def pip_requirement(lock: Path) -> str:
    """The lines of a lock that pin pip itself, with its hashes. Raises BuildError when there are none."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("pip==")), None)
    if start is None:
        raise BuildError(f"{lock} does not pin pip; the image installs its wheels with it")
    block = [lines[start]]
    while block[-1].endswith("\\"):
        block.append(lines[start + len(block)])
    return "\n".join(block) + "\n"


def inputs_of(image: Image, files: Sequence[Path], base_id: str) -> str:
    """The sha256 over everything that the image is built from."""
    digest = hashlib.sha256(f"{image.arch}\n{base_id}\n{pip_requirement(image.pip_lock)}".encode())
    for file in files:
        digest.update(f"{file}\n{sha256_file(image.context / file)}\n".encode())
    return digest.hexdigest()


# --- the store's side --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recipe:
    """All that decides what a build gives, but for the base."""

    image: Image
    dockerfile: Dockerfile
    files: Sequence[Path]

    @property
    def base(self) -> Wanted:
        image, name = self.image, self.dockerfile.base
        return Wanted(name, image.arch, image.digests.get(name, ""), image.source, image.fallback)


def ensure(store: Store, image: Image, tell: Tell, dry_run: bool = False) -> Built:
    """Have the image in the store; `tell` hears of each step. Raises BuildError, SourceError or StoreError."""
    dockerfile = read_dockerfile(image.context / "Dockerfile")
    files = context_files(image.context, [*dockerfile.copied, *extra_locks(image)])

    def step(text: str) -> None:
        tell(f"{image}: {text}")

    recipe = _Recipe(image, dockerfile, files)
    entry, damaged = _present(store, recipe)
    if entry is None and dry_run:
        return Built(None, True, f"{image}: would build from {image.context}", damaged)
    if entry and (dry_run or image.source != "auto" or not _on_fallback(image, entry)):
        why = "a dry run asks no registry" if dry_run else f"its source is {image.source}"
        return _kept(image, entry, damaged, why)
    try:
        base = choose(replace(recipe.base, fallback=None) if entry else recipe.base, step)
    except SourceError as error:
        if entry is None:
            raise
        return _kept(image, entry, damaged, str(error))
    with store.staging() as staging:
        entry, packed = _build(staging, recipe, base, step)
        store.add(entry, packed)
    why = base.note.removeprefix(", because ") or f"its source is {image.source}"
    return Built(entry, True, f"{image}: built on {base.name}{base.note}", damaged, _not_as_pinned(image, entry, why))


def _kept(image: Image, entry: Entry, damaged: list[str], why: str) -> Built:
    text = f"{image}: in the store, on {entry.base_image}"
    return Built(entry, False, text, damaged, _not_as_pinned(image, entry, why))


def _not_as_pinned(image: Image, entry: Entry, why: str) -> str:
    return f"{image} (on {entry.base_image}, because {why})" if _on_fallback(image, entry) else ""


def _on_fallback(image: Image, entry: Entry) -> bool:
    base = (entry.base_image or "").rpartition("@")[0]
    return image.fallback is not None and base == image.fallback.tag(image.arch)


def _present(store: Store, recipe: _Recipe) -> tuple[Entry | None, list[str]]:
    """The store's entry if it is whole and what a build would give now, and what was found damaged."""
    try:
        entry = store.find(recipe.image.name, recipe.image.version, recipe.image.arch)
        if _is_current(recipe, entry):
            store.verify(entry)
            return entry, []
    except TamperedArtifact as error:
        return None, [str(error)]
    except MissingArtifact:
        pass
    return None, []


def _is_current(recipe: _Recipe, entry: Entry) -> bool:
    """Whether an entry is what a build would give now, as far as can be told without a network."""
    image = recipe.image
    base, _, base_id = (entry.base_image or "").rpartition("@")
    wanted = {recipe.base.name, recipe.base.pinned}
    fallback = image.fallback.tag(image.arch) if image.fallback else ""
    accepted = {"upstream": wanted, "debian": {fallback}}.get(image.source, {*wanted, fallback})
    return (
        base in accepted
        and entry.inputs == inputs_of(image, recipe.files, base_id)
        and local_image(base, image.arch) in {None, base_id}
    )


# --- the build ---------------------------------------------------------------------------------------------


def _build(staging: Path, recipe: _Recipe, base: Base, tell: Tell) -> tuple[Entry, Path]:
    image, dockerfile = recipe.image, recipe.dockerfile
    inputs = inputs_of(image, recipe.files, base.image_id)
    version = f"{image.version}-{inputs[:8]}"
    reference = f"localhost/roverwatch/{image.name}:{version}"
    context = staging / "context"
    for file in recipe.files:
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(image.context / file, context / file)
    with (context / "requirements.txt").open("a", encoding="utf-8") as requirements:
        requirements.writelines((image.context / lock).read_text(encoding="utf-8") for lock in extra_locks(image))
    python = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", base.name]
    soabi = _run([*python, "-c", _PRINT_SOABI], f"ask the Python of {base.name} for its ABI").strip()
    tell("fetching its wheels")
    _collect_wheels(context, image, soabi)
    arguments = {dockerfile.base_argument: base.name, "VERSION": image.version}
    command = ["docker", "build", "--network", "none", "--force-rm", "--tag", reference]
    for key in sorted(set(arguments) & dockerfile.arguments):
        command += ["--build-arg", f"{key}={arguments[key]}"]
    if image.arch != platform.machine():
        command += ["--platform", f"linux/{GOARCH[image.arch]}"]
    tell(f"building on {base.name}")
    output = _run([*command, str(context)], f"build {image}")
    packed = staging / "image.tar.gz"
    try:
        result = inspect(reference)
        if result is None:
            raise BuildError(f"the engine does not keep {reference}, which was just built")
        _save(reference, packed)
    finally:
        _forget(reference, output)
    entry = Entry(
        name=image.name,
        version=version,
        requested=image.version,
        arch=image.arch,
        kind="image",
        file=relative_path(image.name, version, image.arch, f"{image.name}.tar.gz"),
        size=packed.stat().st_size,
        sha256=sha256_file(packed),
        source=f"built from {image.context.name}/Dockerfile on {base.name}, {result.size / 1e6:.1f} MB unpacked",
        image_id=image_id_of(packed),
        reference=reference,
        base_image=f"{base.name}@{base.image_id}",
        inputs=inputs,
    )
    return entry, packed


_PRINT_SOABI = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"


def wheel_options(soabi: str, arch: str) -> list[str]:
    """pip's options that choose wheels for a Python, by its SOABI, as in cpython-313-x86_64-linux-musl."""
    match = re.fullmatch(r"cpython-3(\d+)-.*-(musl|gnu)", soabi)
    if not match:
        raise BuildError(f"the base has no CPython 3 on musl or glibc: its ABI is {soabi!r}")
    minor, libc = match.groups()
    options = ["--implementation", "cp", "--python-version", f"3.{minor}", "--abi", f"cp3{minor}"]
    for platform_tag in WHEEL_PLATFORMS[libc]:
        options += ["--platform", f"{platform_tag}_{arch}"]
    return options


def _collect_wheels(context: Path, image: Image, soabi: str) -> None:
    """Fill wheels/: never a source archive, never a file whose hash the lock does not list."""
    pip_only = context.parent / "pip.txt"
    pip_only.write_text(pip_requirement(image.pip_lock), encoding="utf-8")
    for lock, options in (
        (context / "requirements.txt", wheel_options(soabi, image.arch)),
        (pip_only, []),
    ):
        command = [*image.pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--dest", str(context / "wheels")]
        _run([*command, *options, "--requirement", str(lock)], f"download the wheels of {lock.name}")


def _save(reference: str, packed: Path) -> None:
    """Write an image as a compressed archive that docker and podman load."""
    with _popen(["docker", "save", reference]) as process:
        assert process.stdout is not None
        with packed.open("wb") as target, gzip.GzipFile("", "wb", 6, target, mtime=0) as stream:
            shutil.copyfileobj(process.stdout, stream, 1 << 20)
    if process.returncode != 0:
        raise BuildError(f"docker save {reference} ended with {process.returncode}")


def image_id_of(packed: Path) -> str:
    """The digest of the image's configuration: what podman and docker's own store call its id."""
    with tarfile.open(packed, "r:gz") as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        config = tar.extractfile(json.load(manifest)[0]["Config"])
        assert config is not None
        return "sha256:" + hashlib.sha256(config.read()).hexdigest()


def _forget(reference: str, build_output: str) -> None:
    """Remove the build's images from the local engine: the store has the result, the rest is of no use.

    A step's image that has a name, or that another image stands on, is not ours alone and stays.
    """
    subprocess.run(["docker", "image", "rm", reference], capture_output=True, check=False)
    for step in reversed(re.findall(r"^ ---> ([0-9a-f]{12})$", build_output, re.MULTILINE)):
        found = inspect(step)
        if found and not found.names:
            subprocess.run(["docker", "image", "rm", step], capture_output=True, check=False)


def _popen(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise BuildError(_MISSING.format(command[0])) from error


_MISSING = "{} is not on the controller, which builds images with Docker's command line and pip"


def _run(command: Sequence[str], what: str) -> str:
    """The output of a command. Raises BuildError with the last lines of what it said."""
    # The classic builder is in every Docker, and takes a base that exists in the local engine only.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=STEP_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(_MISSING.format(command[0])) from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{what}: no end after {STEP_TIMEOUT} s") from error
    if done.returncode == 0:
        return done.stdout
    last = "\n".join(done.stdout.strip().splitlines()[-8:])
    hint = ""
    if "exec format error" in last:
        hint = "\nAnother architecture needs emulation: apt-get install qemu-user-static binfmt-support"
    raise BuildError(f"cannot {what}:\n{last}{hint}")
